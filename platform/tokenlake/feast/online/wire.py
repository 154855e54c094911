"""Encodes many of Feast's protobuf messages as wire bytes at a time, a thousand times faster than `Value` objects.

Field numbers are those of `feast/types/Value.proto` and `feast/serving/ServingService.proto`; a test compares them with
Feast's descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.storage.native_ops import prepend

#: Field numbers of `Value`, by the name of Feast's `ValueType`.
FIELDS = {
    "BYTES": 1,
    "STRING": 2,
    "INT32": 3,
    "INT64": 4,
    "DOUBLE": 5,
    "FLOAT": 6,
    "BOOL": 7,
    "UNIX_TIMESTAMP": 8,
    "INT32_LIST": 13,
    "INT64_LIST": 14,
    "DOUBLE_LIST": 15,
    "FLOAT_LIST": 16,
    "BOOL_LIST": 17,
    "UNIX_TIMESTAMP_LIST": 18,
}
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MICRO = 1_000_000
#: Wire bytes of a `Value`: concatenated pieces, or a callable that writes them into a buffer that it reuses.
Pieces = tuple[bytes | memoryview, ...] | Callable[[], bytes | memoryview]
#: A null value: an empty `Value`.
NULL = b""


def whole(value: Pieces) -> bytes | memoryview:
    """The wire bytes in one piece, valid until the next call."""
    if callable(value):
        return value()
    return value[0] if len(value) == 1 else b"".join(value)


@lru_cache(maxsize=4096)
def varint(number: int) -> bytes:
    """A number below 2^64 as a base-128 varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def varints(numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Varints of many numbers, one after the other; negative ones take ten bytes, as protobuf has it.

    Returns:
        The bytes, and (n,) how many of them each number takes.
    """
    plain = np.ascontiguousarray(numbers, np.int64).view(np.uint64)
    if len(plain) and plain.min() >= 1 << 49 and plain.max() < 1 << 56:
        return _eight_bytes(plain), np.full(len(plain), 8)
    width = len(varint(int(plain.max(initial=0))))
    table = np.empty((len(plain), width), np.uint8)
    for i in range(width):
        table[:, i] = (plain >> np.uint64(7 * i)) & np.uint64(0x7F)
    if len(varint(int(plain.min(initial=(1 << 64) - 1)))) == width:  # as all times of these centuries are
        table[:, :-1] |= 0x80
        return table.reshape(-1), np.full(len(plain), width)
    sizes = np.ones(len(plain), np.int64)
    for shift in range(7, 7 * width, 7):
        sizes += plain >= np.uint64(1 << shift)
    place = np.arange(width)
    table[place < sizes[:, None] - 1] |= 0x80
    return table[place < sizes[:, None]], sizes


def _eight_bytes(plain: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Varints of numbers of 50 to 56 bits, as microseconds are from 1987 to 4253: groups of 7 bits, drawn apart by halves."""
    wide = plain & np.uint64(0x0FFFFFFF) | (plain << np.uint64(4)) & np.uint64(0x0FFFFFFF00000000)
    wide = wide & np.uint64(0x00003FFF00003FFF) | (wide << np.uint64(2)) & np.uint64(0x3FFF00003FFF0000)
    wide = wide & np.uint64(0x007F007F007F007F) | (wide << np.uint64(1)) & np.uint64(0x7F007F007F007F00)
    return (wide | np.uint64(0x0080808080808080)).astype("<u8", copy=False).view(np.uint8)


@cache
def tag(field: int, kind: int) -> bytes:
    """The tag before a field."""
    return varint(field << 3 | kind)


def binary(data: Any, ends: NDArray[np.int64], valid: NDArray[np.bool_] | None = None) -> pa.LargeBinaryArray:
    """Pieces of a buffer as an Arrow array; `ends` (n + 1,) starts with the first one's beginning."""
    mask = None if valid is None or valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [mask, pa.py_buffer(np.ascontiguousarray(ends, np.int64)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, buffers)


def fixed(rows: NDArray[np.uint8]) -> pa.LargeBinaryArray:
    """The rows of an (n, width) array."""
    count, width = rows.shape
    return binary(np.ascontiguousarray(rows), np.arange(count + 1, dtype=np.int64) * width)


def prefixed(payload: pa.LargeBinaryArray, prefix: Callable[[int], bytes]) -> pa.LargeBinaryArray:
    """Each payload with the prefix for its length before it; a null stays null."""
    if not len(payload):
        return payload
    sizes = pc.binary_length(payload).fill_null(0).to_numpy()
    if sizes.min() == sizes.max() and not payload.null_count:
        width = int(sizes[0])
        return fixed(prepend(prefix(width), rows_of(payload, width)))
    lengths, which = np.unique(sizes, return_inverse=True)
    head = pa.array([prefix(int(length)) for length in lengths], pa.large_binary()).take(pa.array(which))
    return pc.binary_join_element_wise(head, payload, pa.scalar(b"", pa.large_binary()))


def ends_of(column: pa.LargeBinaryArray) -> NDArray[np.int64]:
    """(n + 1,) where each value ends among the column's bytes, and before them where the first one starts."""
    if not len(column):
        return np.zeros(1, np.int64)
    return np.frombuffer(column.buffers()[1], np.int64, len(column) + 1, 8 * column.offset)


def rows_of(payload: pa.LargeBinaryArray, width: int) -> NDArray[np.uint8]:
    """Payloads of equal width as an (n, width) array."""
    first = int(ends_of(payload)[0])
    return np.frombuffer(payload.buffers()[2], np.uint8, len(payload) * width, first).reshape(len(payload), width)


def message(field: int) -> Callable[[int], bytes]:
    """The prefix of a string, bytes or message field of a given length."""
    return lambda length: tag(field, _LENGTH) + varint(length)


def packed_list(field: int) -> Callable[[int], bytes]:
    """The prefix of a list message (`FloatList` and its like) that holds so many packed bytes."""

    def prefix(length: int) -> bytes:
        inner = tag(1, _LENGTH) + varint(length) if length else b""
        return tag(field, _LENGTH) + varint(len(inner) + length) + inner

    return prefix


def plain(field: int, kind: str) -> Callable[[int], bytes]:
    """The prefix of a number: `kind` is `varint`, `fixed32` or `fixed64`."""
    return lambda _: tag(field, {"varint": _VARINT, "fixed32": _FIXED32, "fixed64": _FIXED64}[kind])


def feature_vector(statuses: bytes, micros: Iterable[int | None]) -> bytes:
    """A `GetOnlineFeaturesResponse.FeatureVector` without its values.

    Args:
        statuses: a `FieldStatus` for each row.
        micros: the event time of each row; None where there is none.
    """
    parts = [b"\x12", varint(len(statuses)), statuses] if statuses else []
    known: dict[int, bytes] = {}
    for time in micros:
        if time is None:
            parts.append(b"\x1a\x00")
            continue
        if (stamp := known.get(time)) is None:
            stamp = known[time] = _stamped(timestamp(time))
        parts.append(stamp)
    return b"".join(parts)


def _stamped(stamp: bytes) -> bytes:
    return b"\x1a" + varint(len(stamp)) + stamp


def timestamp(micros: int) -> bytes:
    """A `google.protobuf.Timestamp`."""
    seconds, rest = divmod(micros, _MICRO)
    out = b"\x08" + varint(seconds % (1 << 64)) if seconds else b""
    return out + (b"\x10" + varint(rest * 1000) if rest else b"")
