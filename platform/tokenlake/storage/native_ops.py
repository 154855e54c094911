"""Array operations of the store: in C (`native.c`) where it could be compiled, else in NumPy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.storage.native import THREADS, address, library

Ints = NDArray[np.int64]
#: Elements below which NumPy is used.
_FEW = 4096
#: Bytes below which one thread is used.
_MANY_BYTES = 1 << 20


def hash64(users: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The 64-bit finalizer of MurmurHash3, a bijection; segments are sorted and split into buckets by this hash."""
    h = users.astype(np.uint64)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    return h


def sort_order(users: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of rows by (hash64(user), timestamp, row)."""
    lib = library() if len(users) > _FEW else None
    if lib is not None:
        users, times = np.ascontiguousarray(users), np.ascontiguousarray(times)
        out = np.empty(len(users), np.int64)
        if not lib.tl_order(len(users), address(users), address(times), address(out), THREADS):
            return out
    return np.lexsort((times, hash64(users)))


def take(column: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
    """`column[index]` along the first axis; the index must be in range."""
    lib = library() if len(index) > _FEW else None
    if lib is None:
        return column[index]
    column, index = np.ascontiguousarray(column), np.ascontiguousarray(index, np.int64)
    out = np.empty((len(index), *column.shape[1:]), column.dtype)
    lib.tl_take(address(column), address(out), address(index), len(index), column.strides[0], THREADS)
    return out


def expand_ranges(start: Ints, count: Ints) -> Ints:
    """The integers of all ranges [start, start + count), concatenated."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(start - (ends - count), count) + np.arange(total)


def copy_ranges(column: NDArray[Any], out: NDArray[Any], start: Ints, place: Ints, count: Ints) -> None:
    """Copy runs of rows: `out[place[i] : place[i] + count[i]] = column[start[i] : start[i] + count[i]]`.

    Both arrays are contiguous and have the same dtype; all runs are within their bounds.
    """
    lib = library() if count.sum() > _FEW else None
    if lib is None:
        out[expand_ranges(place, count)] = column[expand_ranges(start, count)]
        return
    runs = [np.ascontiguousarray(array, np.int64) for array in (start, place, count)]
    lib.tl_move(address(column), address(out), *map(address, runs), len(start), column.strides[0], THREADS)


def prepend(head: bytes, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put the bytes `head` before each row of an (n, width) array; returns (n, len(head) + width)."""
    out = np.empty((len(rows), len(head) + rows.shape[1]), np.uint8)
    lib = library() if rows.size > _FEW else None
    if lib is None:
        out[:, : len(head)] = np.frombuffer(head, np.uint8)
        out[:, len(head) :] = rows
        return out
    front, rows = np.frombuffer(head, np.uint8), np.ascontiguousarray(rows)
    threads = THREADS if out.nbytes > _MANY_BYTES else 1
    lib.tl_behind(address(front), len(head), address(rows), rows.shape[1], len(rows), address(out), threads)
    return out


def hash_bytes(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(n,) a hash of each piece `data[ends[i]:ends[i + 1]]`.

    `hash64` folded over its length and its little-endian words, the last one zero-padded.
    """
    out = np.empty(len(ends) - 1, np.uint64)
    if (lib := library()) is not None and sys.byteorder == "little":
        ends = np.ascontiguousarray(ends, np.int64)
        lib.tl_digest(address(data), address(ends), len(out), address(out))
        return out
    sizes = np.diff(ends)
    for size in set(sizes.tolist()):
        own = np.flatnonzero(sizes == size)
        words = np.zeros((len(own), -(-size // 8) * 8), np.uint8)
        words[:, :size] = data[ends[:-1][own][:, None] + np.arange(size)]
        state = np.full(len(own), size, np.int64)
        for word in words.view("<i8").T:
            state = hash64(state ^ word).view(np.int64)
        out[own] = state.view(np.uint64)
    return out


def all_finite(values: NDArray[Any]) -> bool:
    """Whether all values of a contiguous float16 or float32 array are finite."""
    lib = library() if values.size > _FEW else None
    if lib is None:
        return bool(np.isfinite(values).all())
    return bool(lib.tl_finite(address(values), values.size, values.itemsize))


def widen(values: NDArray[np.float16]) -> NDArray[np.float32]:
    """Convert float16 to float32; ten times as fast as NumPy."""
    lib = library() if values.size > _FEW else None
    if lib is None:
        return values.astype(np.float32)
    values = np.ascontiguousarray(values)
    out = np.empty(values.shape, np.float32)
    lib.tl_widen(address(values), address(out), values.size)
    return out


def float32_writer(values: NDArray[np.float16], out: NDArray[np.uint8]) -> Callable[[int, int], None]:
    """Return a callable `(start, stop)` that writes these rows as float32 to the beginning of `out`.

    Args:
        values: (total, dim), contiguous; out: bytes, enough for the rows of any call. The callable keeps both alive.
    """
    width, lib = values.shape[1], library()

    def plain(start: int, stop: int) -> None:
        run = values[start:stop].astype(np.float32).reshape(-1).view(np.uint8)
        out[: len(run)] = run

    if lib is None:
        return plain
    source, target, size, kept = address(values), address(out), values.itemsize * width, (values, out)

    def widen(start: int, stop: int, _kept: object = kept) -> None:
        lib.tl_widen(source + start * size, target, (stop - start) * width)

    return widen
