"""Answer queries in NumPy: find the last rows of a user between two instants, then copy them into a batch.

query_native.py does the same in C; this is what it is compared with, and what serves where there is no compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.storage.native_ops import expand, mix
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.schema import StoreSchema
from tokenlake.tokens.segment import Segment
from tokenlake.tokens.snapshot import Snapshot
from tokenlake.tokens.tail import Tail

Ints = NDArray[np.int64]
#: More rows than any user has.
ALL = 1 << 62
_START_OF_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True)
class RowRanges:
    """Runs of rows, by (query, time): `count` rows from row `start` of a source.

    A source is an index into `segments`, or -1 for the tail.
    """

    queries: int
    segments: list[Segment]
    query: Ints
    source: Ints
    start: Ints
    count: Ints

    def counts(self) -> Ints:
        """Rows of each query, (queries,)."""
        return np.bincount(self.query, self.count, self.queries).astype(np.int64)


@dataclass(frozen=True)
class RangeQueries:
    """What n queries ask for: the last `length` rows of a user with since <= timestamp < before.

    All arrays are (n,) int64 and contiguous; no `since`: from the beginning.
    """

    users: Ints
    since: Ints | None
    before: Ints
    length: int

    def __len__(self) -> int:
        return len(self.users)


def find(snapshot: Snapshot, tail: Tail | None, window: RangeQueries) -> RowRanges:
    """The rows that answer each query, those of a day's segment before those of the tail at equal times.

    Raises:
        CorruptionError: a segment's bytes are not what was written.
    """
    runs = _in_days(snapshot, window)
    return _with_tail(runs, tail, window) if tail is not None and tail.count else runs


def _in_days(snapshot: Snapshot, window: RangeQueries) -> RowRanges:
    hashes = mix(window.users)
    left = np.full(len(window), window.length, np.int64)
    segments: list[Segment] = []
    found: list[tuple[Ints, Ints, Ints, Ints]] = []
    for piece in reversed(snapshot.slices):
        since = np.maximum(window.since if window.since is not None else _START_OF_TIME, piece.start)
        since, before = np.broadcast_to(since, len(window)), np.minimum(window.before, piece.stop)
        active = np.flatnonzero((left > 0) & (since < before))
        for segment, index in piece.split(active, hashes):
            index, first, last = _rows_of(segment.load(), index, hashes)
            times = segment.columns["timestamp"]
            stop = lower_bound(times, first, last, before[index])
            start = lower_bound(times, first, stop, since[index])
            start = np.maximum(start, stop - left[index])
            # The neighbours too: they prove that the search, which may have read bad bytes, ended where it should.
            segment.check(_blocks(segment, np.maximum(start - 1, first), np.minimum(stop + 1, last)))
            some = stop > start
            index, start, stop = index[some], start[some], stop[some]
            found.append((index, np.full(len(index), len(segments)), start, stop - start))
            segments.append(segment)
            left[index] -= stop - start
    query, source, start, count = _joined(found)
    order = np.lexsort((-source, query))  # slices were visited from the newest
    return RowRanges(len(window), segments, query[order], source[order], start[order], count[order])


def _rows_of(segment: Segment, index: Ints, hashes: NDArray[np.uint64]) -> tuple[Ints, Ints, Ints]:
    wanted = hashes[index]
    at = np.minimum(np.searchsorted(segment.hashes, wanted), len(segment.hashes) - 1)
    there = segment.hashes[at] == wanted
    index, at = index[there], at[there]
    return index, segment.offsets[at].astype(np.int64), segment.offsets[at + 1].astype(np.int64)


def lower_bound(times: Ints, first: Ints, last: Ints, wanted: Ints) -> Ints:
    """For each range [first, last) of sorted times, the first row whose time is not below the wanted one."""
    low, high = first.copy(), last.copy()
    while (open_ := low < high).any():
        middle = np.where(open_, (low + high) >> 1, 0)
        below = open_ & (times[middle] < wanted)
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low


def _blocks(segment: Segment, start: Ints, stop: Ints) -> Ints:
    some = stop > start
    first, last = start[some] // segment.block_rows, (stop[some] - 1) // segment.block_rows
    return np.unique(expand(first, last - first + 1))


def _joined(parts: Sequence[tuple[Ints, ...]]) -> tuple[Ints, ...]:
    none = np.empty(0, np.int64)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True)) if parts else (none,) * 4


def _with_tail(runs: RowRanges, tail: Tail, window: RangeQueries) -> RowRanges:
    """Merge the tail's rows in, for the queries whose user has some."""
    candidates = tail.find(window.users, window.since, window.before)
    sizes = np.fromiter(map(len, candidates), np.int64, len(candidates))
    if not sizes.any():
        return runs
    tail_rows = np.concatenate(candidates)
    tail_query = np.repeat(np.arange(len(window)), sizes)
    affected = sizes[runs.query] > 0
    source = np.repeat(runs.source[affected], runs.count[affected])
    rows = expand(runs.start[affected], runs.count[affected])
    query = np.repeat(runs.query[affected], runs.count[affected])
    times = np.empty(len(rows), np.int64)
    for number, segment in enumerate(runs.segments):
        here = source == number
        times[here] = segment.columns["timestamp"][rows[here]]
    query = np.concatenate([query, tail_query])
    source = np.concatenate([source, np.full(len(tail_rows), -1)])
    rows = np.concatenate([rows, tail_rows])
    times = np.concatenate([times, tail.columns["timestamp"][tail_rows]])
    order = np.lexsort((source == -1, times, query))
    query, source, rows = query[order], source[order], rows[order]
    ends = np.bincount(query, minlength=len(window)).cumsum()
    keep = ends[query] - np.arange(len(query)) <= window.length
    parts: list[tuple[Any, ...]] = [
        (runs.query[~affected], runs.source[~affected], runs.start[~affected], runs.count[~affected]),
        (query[keep], source[keep], rows[keep], np.ones(int(keep.sum()), np.int64)),
    ]
    query, source, start, count = _joined(parts)
    order = np.argsort(query, kind="stable")
    return RowRanges(len(window), runs.segments, query[order], source[order], start[order], count[order])


def gather(
    schema: StoreSchema, runs: RowRanges, tail: Tail | None, known_before: NDArray[np.int64], out: TokenBatch | None
) -> TokenBatch:
    """Copy rows.

    Args:
        schema: columns of the store.
        runs: the rows to copy, in this order.
        tail: the source -1.
        known_before: (queries,) the time of each query: a label is known iff its `known_at` is below.
        out: a batch whose buffers are used again where they suffice.
    """
    counts = runs.counts()
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    batch = out if out is not None else TokenBatch.empty(schema)
    columns = batch.reserve(schema, offsets)
    places = np.cumsum(runs.count) - runs.count
    moment = np.repeat(known_before, counts)
    sources = [*(segment.columns for segment in runs.segments), tail.columns if tail is not None else {}]
    for number in np.unique(runs.source).tolist():
        here = runs.source == number
        rows = expand(runs.start[here], runs.count[here])
        at = expand(places[here], runs.count[here])
        source = sources[number]
        for name, column in columns.items():
            column[at] = source[name][rows]
        for label in schema.known_at:
            batch.known[label][at] = source[schema.known_columns[label]][rows] < moment[at]
    for label in schema.known_at:
        batch.side[label][~batch.known[label]] = 0
    return batch
