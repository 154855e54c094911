"""Selects rows of an Arrow column, in any order; whole vectors are copied, while Arrow copies number by number."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.storage.native_ops import copy_ranges

Ints = NDArray[np.int64]
#: Bytes of a number -> unsigned dtype of the same width.
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def pick(column: pa.ChunkedArray, rows: Ints) -> pa.Array:
    """Take the rows with these numbers; -1 gives null.

    Raises:
        SchemaError: the result has more elements than one array can hold.
    """
    if _vectors(column.type) and not any(chunk.values.null_count for chunk in column.chunks):
        return _pick_vectors(column, rows)
    picked = column.take(pa.array(rows, mask=rows < 0))
    return picked.combine_chunks() if picked.num_chunks != 1 else picked.chunk(0)


def _vectors(kind: pa.DataType) -> bool:
    """Whether the type is lists of numbers whose width is a whole number of bytes."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    return bool(pa.types.is_primitive(kind.value_type)) and kind.value_type.bit_width // 8 in _BITS


def _pick_vectors(column: pa.ChunkedArray, rows: Ints) -> pa.Array:
    """Copy each vector from its chunk to its place, without joining the chunks first."""
    start, count = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    there = np.zeros(len(rows), np.bool_)
    order = np.argsort(rows)
    ends = np.searchsorted(rows[order], np.cumsum([0, *map(len, column.chunks)]))
    first = 0
    parts = []
    for number, chunk in enumerate(column.chunks):
        here = order[ends[number] : ends[number + 1]]
        local = rows[here] - first
        bounds = chunk.offsets.to_numpy()
        start[here] = bounds[:-1][local]
        count[here] = bounds[1:][local] - start[here]
        there[here] = chunk.is_valid().to_numpy(zero_copy_only=False)[local] if chunk.null_count else True
        parts.append((chunk.values, here))
        first += len(chunk)
    count[~there] = 0
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(count, out=offsets[1:])
    kind = np.int64 if pa.types.is_large_list(column.type) else np.int32
    if offsets[-1] > (most := np.iinfo(kind).max):
        raise SchemaError(
            f"the rows hold {offsets[-1]:,} numbers, a {column.type} at most {most:,}; ask for fewer rows"
        )
    out = np.empty(offsets[-1], _BITS[column.type.value_type.bit_width // 8])
    for values, here in parts:
        if len(values):
            copy_ranges(_bits(values), out, start[here], offsets[here], count[here])
    return _lists(column.type, offsets.astype(kind), out, there)


def _bits(values: pa.Array) -> NDArray[np.unsignedinteger]:
    dtype = np.dtype(_BITS[values.type.bit_width // 8])
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)


def _lists(
    kind: pa.DataType, offsets: NDArray[np.signedinteger], out: NDArray[np.unsignedinteger], there: NDArray[np.bool_]
) -> pa.Array:
    values = pa.Array.from_buffers(kind.value_type, len(out), [None, pa.py_buffer(out)])
    array = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
    return array.from_arrays(pa.array(offsets), values, type=kind, mask=None if there.all() else pa.array(~there))
