"""Check a store on disk: every checksum, order and count."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tokenlake.errors import CorruptionError
from tokenlake.times import DAY_US, day_start
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.ids import Ids
from tokenlake.tokens.segment import Segment
from tokenlake.tokens.snapshot import MappedSlice
from tokenlake.tokens.view import open_view


def verify(folder: Path) -> None:
    """Check everything.

    Raises:
        CorruptionError: something is not what was written; the message names the file.
    """
    view = open_view(folder)
    snapshot = view.snapshot
    for segment in snapshot.segments.values():
        _check_segment(segment)
    counts: dict[int, int] = {}
    for run_slice in snapshot.slices:
        _count(run_slice, counts)
    path = folder / manifests.NAME
    expected = {day_start(day) // DAY_US: rows for day, rows in snapshot.manifest.days.items() if rows}
    if expected != counts:
        day = min(day for day in expected.keys() | counts.keys() if expected.get(day) != counts.get(day))
        raise CorruptionError(
            f"{path}: {np.datetime64(day, 'D')} should have {expected.get(day, 0)} rows, its files hold {counts.get(day, 0)}"
        )
    Ids(folder).refresh()
    view.tail.poll()


def _check_segment(segment: Segment) -> None:
    segment.check_whole()
    segment.load()
    segment.check(np.arange(len(segment.sums)))
    offsets, times = segment.offsets, segment.columns["timestamp"]
    if offsets[0] != 0 or offsets[-1] != segment.file.rows or (np.diff(offsets) <= 0).any():
        raise CorruptionError(f"{segment.path}: its offsets are not those of {segment.file.rows} rows")
    if (segment.hashes[1:] <= segment.hashes[:-1]).any():
        raise CorruptionError(f"{segment.path}: its users are out of order")
    later = np.diff(times) < 0
    later[offsets[1:-1] - 1] = False
    if later.any():
        raise CorruptionError(f"{segment.path}: row {int(later.argmax()) + 1} is earlier than the row before it")


def _count(run_slice: MappedSlice, counts: dict[int, int]) -> None:
    for segment in run_slice.segments:
        if segment is not None:
            times = segment.columns["timestamp"]
            days, rows = np.unique(
                times[(times >= run_slice.start) & (times < run_slice.stop)] // DAY_US, return_counts=True
            )
            for day, n in zip(days.tolist(), rows.tolist(), strict=True):
                counts[day] = counts.get(day, 0) + n
