"""Merge slices, so that a fetch looks into few of them however many days there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.storage.native_ops import copy_ranges, expand_ranges
from tokenlake.times import DAY_US, Day, day_of
from tokenlake.tokens.manifest import SortedRun, StoreManifest
from tokenlake.tokens.query import lower_bound
from tokenlake.tokens.schema import StoreSchema, TokenRows
from tokenlake.tokens.segment import Segment, bits_for, write_buckets
from tokenlake.tokens.snapshot import MappedSlice

#: This many neighbouring slices of one level are merged into a slice of the next.
FANOUT = 2
#: More slices than this are never left.
MAX_SLICES = 32
#: Slices of fewer rows are of level 0.
LEVEL_0_ROWS = 1 << 14


def next_merge(manifest: StoreManifest) -> tuple[int, int] | None:
    """The slices [start, stop) to merge next, if any.

    A slice's level is the power of `FANOUT` in its rows. Neighbours up to some level are merged once they hold
    `FANOUT` slices of that level: each row is rewritten once a level. Re-runs of days may leave fragments that never
    meet this rule; above `MAX_SLICES` slices, the smallest neighbours are merged.
    """
    rows = [manifest.rows(run_slice) for run_slice in manifest.slices]
    levels = [int(np.log(max(n / LEVEL_0_ROWS, 1)) / np.log(FANOUT) + 1e-9) for n in rows]
    for level in range(max(levels, default=0) + 1):
        for start, stop in _neighbours(levels, level):
            if levels[start:stop].count(level) >= FANOUT:
                return start, stop
    if len(rows) > MAX_SLICES:
        sums = np.convolve(rows, np.ones(FANOUT, np.int64), "valid")
        start = int(sums.argmin())
        return start, start + FANOUT
    return None


def full_merge(manifest: StoreManifest) -> tuple[int, int] | None:
    """All slices, unless they are one already with nothing to drop."""
    rows_in_files = sum(s.rows for s in manifest.segment_files())
    if len(manifest.slices) > 1 or rows_in_files > sum(manifest.days.values()):
        return 0, len(manifest.slices)
    return None


def _neighbours(levels: list[int], level: int) -> Iterator[tuple[int, int]]:
    start = 0
    for at, here in enumerate([*levels, level + 1]):
        if here > level:
            if at > start:
                yield start, at
            start = at + 1


def merge(
    folder: Path, schema: StoreSchema, name: str, slices: Sequence[MappedSlice], keep: int | None = None
) -> tuple[SortedRun, dict[Day, int]]:
    """Write the rows of neighbouring slices as one sorted run, one file of users after the other.

    Slices are disjoint in time and given oldest first: so a user's rows are those of each slice, one after the other.

    Args:
        folder: where the files go; name: what their names begin with.
        schema: columns of the store.
        slices: the slices.
        keep: only so many rows of each user, the newest.

    Returns:
        The sorted run, and the rows of each day in it.
    """
    bits = bits_for(schema, sum(s.file.rows for run_slice in slices for s in run_slice.segments if s))
    days: Counter[Day] = Counter()

    def buckets() -> Iterator[TokenRows]:
        for bucket in range(1 << bits):
            rows = _bucket(schema, slices, bits, bucket, keep)
            found, counts = np.unique(rows.timestamps // DAY_US, return_counts=True)
            days.update({day_of(d * DAY_US): n for d, n in zip(found.tolist(), counts.tolist(), strict=True)})
            yield rows

    return write_buckets(folder, schema, name, bits, buckets()), days


def _bucket(schema: StoreSchema, slices: Sequence[MappedSlice], bits: int, bucket: int, keep: int | None) -> TokenRows:
    """The rows of one bucket of users."""
    ranges: list[tuple[Segment, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    for run_slice in slices:
        for segment in _overlapping(run_slice, bits, bucket):
            segment.load()
            inside = _users_of(segment, bits, bucket)
            first, last = (
                segment.offsets[inside.start : inside.stop],
                segment.offsets[inside.start + 1 : inside.stop + 1],
            )
            times = segment.columns["timestamp"]
            full = np.full(len(first), run_slice.start), np.full(len(first), run_slice.stop)
            start = lower_bound(times, first.astype(np.int64), last.astype(np.int64), full[0])
            stop = lower_bound(times, start, last.astype(np.int64), full[1])
            if len(first):
                segment.check(np.arange(first[0] // segment.block_rows, (last[-1] - 1) // segment.block_rows + 1))
            ranges.append((segment, np.arange(inside.start, inside.stop), start, stop - start))
    return _collect(schema, ranges, keep)


def _collect(schema: StoreSchema, ranges: list[Any], keep: int | None) -> TokenRows:
    """Put each user's row ranges together, in the order of the slices."""
    if not ranges:
        return TokenRows(np.empty(0, np.int64), schema.empty(0))
    hashes = np.concatenate([segment.hashes[users] for segment, users, _, _ in ranges])
    starts = np.concatenate([start for _, _, start, _ in ranges])
    counts = np.concatenate([count for *_, count in ranges])
    order = np.argsort(hashes, kind="stable")
    if keep is not None:
        kept = _newest(hashes[order], counts[order], keep)
        starts[order] += counts[order] - kept
        counts[order] = kept
    targets = np.empty(len(order), np.int64)
    targets[order] = np.cumsum(counts[order]) - counts[order]
    total = int(counts.sum())
    users, columns = np.empty(total, np.int64), schema.empty(total)
    at = 0
    for segment, index, _, _ in ranges:
        of_segment = slice(at, at + len(index))
        target, start, count = targets[of_segment], starts[of_segment], counts[of_segment]
        users[expand_ranges(target, count)] = np.repeat(segment.users[index], count)
        for name, column in columns.items():
            copy_ranges(segment.columns[name], column, start, target, count)
        at += len(index)
    return TokenRows(users, columns)


def _newest(hashes: NDArray[np.uint64], counts: NDArray[np.int64], keep: int) -> NDArray[np.int64]:
    """How many rows of each range to keep: `hashes` are sorted, and a user's ranges in the order of time."""
    ends = np.cumsum(counts)
    last = np.searchsorted(hashes, hashes, side="right") - 1
    kept: NDArray[np.int64] = np.clip(keep - (ends[last] - ends), 0, counts)
    return kept


def _overlapping(run_slice: MappedSlice, bits: int, bucket: int) -> Iterator[Segment]:
    shift = bits - run_slice.bits
    numbers = [bucket >> shift] if shift >= 0 else range(bucket << -shift, (bucket + 1) << -shift)
    yield from (s for n in numbers if (s := run_slice.segments[n]) is not None)


def _users_of(segment: Segment, bits: int, bucket: int) -> range:
    """The positions of those users of a segment whose hash starts with the bucket's bits."""
    if bits == 0:
        return range(len(segment.users))
    low, high = bucket << (64 - bits), ((bucket + 1) << (64 - bits)) - 1
    start = int(np.searchsorted(segment.hashes, np.uint64(low)))
    return range(start, int(np.searchsorted(segment.hashes, np.uint64(high), side="right")))
