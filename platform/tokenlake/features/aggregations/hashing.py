"""The keys of rows as 64-bit numbers: of a user, an item, a category, a tag, or a pair or triple of them.

An integer id stands for itself, text for its hash, and several keys for a hash of theirs. Two pairs that share a number
would be counted together; among a hundred million pairs the chance that any two do is one in 3,700.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.config.counts import column_of
from tokenlake.features.keys import Ints, exploded, flat
from tokenlake.storage.native_ops import expand_ranges, hash64, hash_bytes

#: uint64 numbers of keys; `tokenlake.storage.native_ops.hash64` of an integer, so that equal ones lie together and apart from others.
Hashes: TypeAlias = NDArray[np.uint64]
#: Makes the order of keys count: user 1 with item 2 is not user 2 with item 1.
_ODD = np.uint64(0x9E3779B97F4A7C15)


def keys_of(table: pa.Table, by: Sequence[str]) -> tuple[Ints, Ints]:
    """The keys of rows.

    Args:
        table: rows with the columns of the keys.
        by: names of keys, as a definition has them; none: all rows have the same key.

    Returns:
        Row numbers, int64 (m,), ascending, and the raw keys of these rows, int64 (m,), which `hash64` makes `Hashes`. A
        row appears once a combination of values, so not at all where a key is null or an empty list.
    """
    rows, keys = np.arange(table.num_rows), np.zeros(table.num_rows, np.int64)
    for name in by:
        column = table[column_of(name)]
        owners, numbers = _listed(column) if _is_list(column.type) else _single(column)
        if name == by[0]:
            rows, keys = owners, numbers
            continue
        if not (_each_once(rows, table) and _each_once(owners, table)):
            left, right = _pairs(rows, owners)
            rows, keys, numbers = rows[left], keys[left], numbers[right]
        keys = (hash64(keys) * _ODD + hash64(numbers)).view(np.int64)
    return rows, keys


def _each_once(rows: Ints, table: pa.Table) -> bool:
    return len(rows) == table.num_rows and bool((np.diff(rows) == 1).all())


def _pairs(rows: Ints, owners: Ints) -> tuple[Ints, Ints]:
    """All pairs of places in two ascending arrays that hold the same row."""
    starts, ends = np.searchsorted(owners, rows), np.searchsorted(owners, rows, side="right")
    left = np.repeat(np.arange(len(rows)), ends - starts)
    return left, expand_ranges(starts, ends - starts)


def _single(column: pa.ChunkedArray) -> tuple[Ints, Ints]:
    values = flat(column)
    rows = np.arange(len(values))
    if values.null_count:
        rows = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        values = values.drop_null()
    return rows, _numbers(values)


def _listed(column: pa.ChunkedArray) -> tuple[Ints, Ints]:
    rows, values = exploded(column)
    return rows, _numbers(values)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _numbers(values: pa.Array) -> Ints:
    """Integers as they are, text by its hash."""
    if values.type == pa.int64():
        return np.asarray(values.to_numpy(zero_copy_only=False), np.int64)
    if not len(values):
        return np.zeros(0, np.int64)
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    return hash_bytes(np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8), ends).view(np.int64)
