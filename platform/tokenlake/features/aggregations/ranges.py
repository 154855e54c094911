"""Searches and extremes in ranges of long arrays, many at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenlake.features.keys import Ints
from tokenlake.storage.native import address, library
from tokenlake.storage.native_ops import expand_ranges

#: Searches below which NumPy does them.
_FEW = 256
#: Elements of a block of which `blocks` keeps the extreme.
BLOCK = 64


def lower_bound(values: Ints, start: Ints, stop: Ints, targets: Ints) -> Ints:
    """For each range `values[start:stop]`, which ascends, the first place whose value is at least the target; else `stop`.

    Without a compiler all searches halve their ranges together: a pass is one look at each range's middle.
    """
    lib = library() if len(start) > _FEW else None
    if lib is not None:
        arrays = [np.ascontiguousarray(array, np.int64) for array in (values, start, stop, targets)]
        out = np.empty(len(start), np.int64)
        lib.tl_lower_bound(*map(address, arrays), len(start), address(out))
        return out
    low, high = start.copy(), stop.copy()
    open_ = np.flatnonzero(low < high)
    while len(open_):
        middle = (low[open_] + high[open_]) >> 1
        less = values[middle] < targets[open_]
        low[open_[less]] = middle[less] + 1
        high[open_[~less]] = middle[~less]
        open_ = open_[low[open_] < high[open_]]
    return low


def blocks(values: Ints, extreme: np.ufunc) -> list[Ints]:
    """Extremes of blocks of `BLOCK` values, of blocks of these, and so on, down to a few."""
    levels = []
    while len(values) > BLOCK:
        values = extreme.reduceat(values, np.arange(0, len(values), BLOCK))
        levels.append(values)
    return levels


def extremes(levels: Sequence[Ints], start: Ints, stop: Ints, extreme: np.ufunc, nothing: int) -> Ints:
    """The extreme of each range of values.

    Args:
        levels: the values, and what `blocks` made of them.
        start: int64 (m,), first places.
        stop: int64 (m,), last places, exclusive.
        extreme: `np.minimum` or `np.maximum`.
        nothing: what an empty range gives: more than any value for the least, less than any for the greatest.
    """
    out = np.full(len(start), nothing, np.int64)
    for depth, values in enumerate(levels):
        if depth == len(levels) - 1:
            _reduce(out, values, start, stop, extreme)
            break
        head = np.minimum(stop, -(-start // BLOCK) * BLOCK)
        tail = np.maximum(head, stop // BLOCK * BLOCK)
        _reduce(out, values, start, head, extreme)
        _reduce(out, values, tail, stop, extreme)
        start, stop = -(-head // BLOCK), tail // BLOCK
    return out


def _reduce(out: Ints, values: Ints, start: Ints, stop: Ints, extreme: np.ufunc) -> None:
    """Put the extremes of ranges, element by element, into `out`."""
    some = np.flatnonzero(start < stop)
    if len(some):
        sizes = (stop - start)[some]
        found = extreme.reduceat(values[expand_ranges(start[some], sizes)], np.cumsum(sizes) - sizes)
        out[some] = extreme(out[some], found)
