"""Answer queries in NumPy: find the last rows of a user between two instants, then copy them into a batch.

query_native.py does the same in C; this is what it is compared with, and what serves where there is no compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.storage.native_ops import expand_ranges, hash64
from tokenlake.times import EARLIEST
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.schema import StoreSchema
from tokenlake.tokens.segment import Segment
from tokenlake.tokens.snapshot import Snapshot
from tokenlake.tokens.tail import Tail

Ints = NDArray[np.int64]
#: More rows than any user has.
ALL = 1 << 62


@dataclass(frozen=True)
class RowRanges:
    """Ranges of rows, by (query, time): `count` rows from row `start` of a source.

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
    """A batch of n range queries: each asks for the last `length` rows of a user with since <= timestamp < before.

    All arrays are (n,) int64 and contiguous; no `since`: from the beginning.
    """

    users: Ints
    since: Ints | None
    before: Ints
    length: int

    def __len__(self) -> int:
        return len(self.users)


def find_ranges(snapshot: Snapshot, tail: Tail | None, queries: RangeQueries) -> RowRanges:
    """The rows that answer each query, those of a day's segment before those of the tail at equal times.

    Raises:
        CorruptionError: a segment's bytes are not what was written.
    """
    ranges = _find_in_days(snapshot, queries)
    return _merge_tail(ranges, tail, queries) if tail is not None and tail.count else ranges


def _find_in_days(snapshot: Snapshot, queries: RangeQueries) -> RowRanges:
    hashes = hash64(queries.users)
    left = np.full(len(queries), queries.length, np.int64)
    segments: list[Segment] = []
    found: list[tuple[Ints, Ints, Ints, Ints]] = []
    for run_slice in reversed(snapshot.slices):
        since = np.maximum(queries.since if queries.since is not None else EARLIEST, run_slice.start)
        since, before = np.broadcast_to(since, len(queries)), np.minimum(queries.before, run_slice.stop)
        active = np.flatnonzero((left > 0) & (since < before))
        for segment, index in run_slice.split(active, hashes):
            index, first, last = _find_users(segment.load(), index, hashes)
            times = segment.columns["timestamp"]
            stop = lower_bound(times, first, last, before[index])
            start = lower_bound(times, first, stop, since[index])
            start = np.maximum(start, stop - left[index])
            # The neighbours too: they prove that the search, which may have read bad bytes, ended where it should.
            segment.check(_blocks_of(segment, np.maximum(start - 1, first), np.minimum(stop + 1, last)))
            some = stop > start
            index, start, stop = index[some], start[some], stop[some]
            found.append((index, np.full(len(index), len(segments)), start, stop - start))
            segments.append(segment)
            left[index] -= stop - start
    query, source, start, count = _concatenated(found)
    order = np.lexsort((-source, query))  # slices were visited from the newest
    return RowRanges(len(queries), segments, query[order], source[order], start[order], count[order])


def _find_users(segment: Segment, index: Ints, hashes: NDArray[np.uint64]) -> tuple[Ints, Ints, Ints]:
    hashed = hashes[index]
    at = np.minimum(np.searchsorted(segment.hashes, hashed), len(segment.hashes) - 1)
    found = segment.hashes[at] == hashed
    index, at = index[found], at[found]
    return index, segment.offsets[at].astype(np.int64), segment.offsets[at + 1].astype(np.int64)


def lower_bound(times: Ints, first: Ints, last: Ints, bounds: Ints) -> Ints:
    """For each range [first, last) of sorted times, the first row whose time is not below the wanted one."""
    low, high = first.copy(), last.copy()
    while (open_ := low < high).any():
        middle = np.where(open_, (low + high) >> 1, 0)
        below = open_ & (times[middle] < bounds)
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low


def _blocks_of(segment: Segment, start: Ints, stop: Ints) -> Ints:
    some = stop > start
    first, last = start[some] // segment.block_rows, (stop[some] - 1) // segment.block_rows
    return np.unique(expand_ranges(first, last - first + 1))


def _concatenated(parts: Sequence[tuple[Ints, ...]]) -> tuple[Ints, ...]:
    none = np.empty(0, np.int64)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True)) if parts else (none,) * 4


def _merge_tail(ranges: RowRanges, tail: Tail, queries: RangeQueries) -> RowRanges:
    """Merge the tail's rows in, for the queries whose user has some."""
    candidates = tail.find(queries.users, queries.since, queries.before)
    sizes = np.fromiter(map(len, candidates), np.int64, len(candidates))
    if not sizes.any():
        return ranges
    tail_rows = np.concatenate(candidates)
    tail_query = np.repeat(np.arange(len(queries)), sizes)
    affected = sizes[ranges.query] > 0
    source = np.repeat(ranges.source[affected], ranges.count[affected])
    rows = expand_ranges(ranges.start[affected], ranges.count[affected])
    query = np.repeat(ranges.query[affected], ranges.count[affected])
    times = np.empty(len(rows), np.int64)
    for number, segment in enumerate(ranges.segments):
        here = source == number
        times[here] = segment.columns["timestamp"][rows[here]]
    query = np.concatenate([query, tail_query])
    source = np.concatenate([source, np.full(len(tail_rows), -1)])
    rows = np.concatenate([rows, tail_rows])
    times = np.concatenate([times, tail.columns["timestamp"][tail_rows]])
    order = np.lexsort((source == -1, times, query))
    query, source, rows = query[order], source[order], rows[order]
    ends = np.bincount(query, minlength=len(queries)).cumsum()
    keep = ends[query] - np.arange(len(query)) <= queries.length
    parts: list[tuple[Any, ...]] = [
        (ranges.query[~affected], ranges.source[~affected], ranges.start[~affected], ranges.count[~affected]),
        (query[keep], source[keep], rows[keep], np.ones(int(keep.sum()), np.int64)),
    ]
    query, source, start, count = _concatenated(parts)
    order = np.argsort(query, kind="stable")
    return RowRanges(len(queries), ranges.segments, query[order], source[order], start[order], count[order])


def copy_ranges(
    schema: StoreSchema, ranges: RowRanges, tail: Tail | None, as_of: NDArray[np.int64], out: TokenBatch | None
) -> TokenBatch:
    """Copy ranges of rows into a batch.

    Args:
        schema: columns of the store.
        ranges: the rows to copy, in this order.
        tail: the source -1.
        as_of: (queries,) the time of each query: a label is known iff its `known_at` is below.
        out: a batch whose buffers are used again where they suffice.
    """
    counts = ranges.counts()
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    batch = out if out is not None else TokenBatch.empty(schema)
    columns = batch.reserve(schema, offsets)
    targets = np.cumsum(ranges.count) - ranges.count
    row_as_of = np.repeat(as_of, counts)
    sources = [*(segment.columns for segment in ranges.segments), tail.columns if tail is not None else {}]
    for number in np.unique(ranges.source).tolist():
        of_source = ranges.source == number
        rows = expand_ranges(ranges.start[of_source], ranges.count[of_source])
        target = expand_ranges(targets[of_source], ranges.count[of_source])
        source = sources[number]
        for name, column in columns.items():
            column[target] = source[name][rows]
        for label in schema.known_at:
            batch.known[label][target] = source[schema.known_columns[label]][rows] < row_as_of[target]
    for label in schema.known_at:
        batch.side[label][~batch.known[label]] = 0
    return batch
