"""Events of a day with their running counts, as both training and encoding read them.

The count state at the start of day d as of watermark w is a pure function of the events table: all events with
ds < d that were ingested at or before w. So a state can be deleted and made again, and a re-run sees what the first run
saw. Snapshots on disk only save time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.lake.lake import Lake
from tokenlake.pipeline.counts import Counts
from tokenlake.times import Day, as_day

_ORDER = [("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")]
#: Frames kept in memory: a back-fill trains on the chunk that it has just encoded.
_KEPT_FRAMES = 32
_KEPT_SNAPSHOTS = 8


@dataclass(frozen=True)
class Frame:
    """One day's events, by (user, timestamp, event id), and the running counts of each row.

    Attributes:
        events: rows of the `events` table.
        counts: float32 `(rows, len(names))`, strictly before each row's timestamp.
        names: what each column counts.
    """

    events: pa.Table
    counts: NDArray[np.float32]
    names: tuple[str, ...]


class Frames:
    """Reads frames of a lake, rolling one count state forward over the days."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._folder = lake.data / "counts"
        self._state: _State | None = None
        self._frames: OrderedDict[tuple[Day, int, int], Frame] = OrderedDict()

    def read(self, day: Day, watermark: int, *, late: bool = False) -> Frame:
        """Read a day as of a watermark.

        Args:
            day: the day.
            watermark: bound on `ingested_at` (us) of the earlier days' events, and of the day's own.
            late: take all of the day's own events, also those that were ingested after the watermark.
        """
        events = self._lake.events.read(day=day).sort_by(_ORDER)
        if not late:
            events = _known_at(events, watermark)
        key = (day, watermark, events.num_rows)
        if key in self._frames:
            self._frames.move_to_end(key)
            return self._frames[key]
        counts = self.counts_at(day, watermark)
        frame = Frame(events, counts.features(events), counts.names)
        self._frames[key] = frame
        if len(self._frames) > _KEPT_FRAMES:
            self._frames.popitem(last=False)
        return frame

    def counts_at(self, day: Day, watermark: int) -> Counts:
        """Count state at the start of a day; not to be changed by the caller."""
        state = self._nearest(day, watermark)
        self._state = None  # a failure half-way must not leave a half-rolled state behind
        if state.watermark < watermark:
            self._absorb_late(state, watermark)
        for earlier in self._lake.events.days():
            if state.day <= earlier < day:
                state.counts.advance(earlier, _known_at(self._lake.events.read(day=earlier), watermark))
        state.day = max(state.day, day)
        self._state = state
        return state.counts

    def snapshot(self, day: Day, watermark: int) -> None:
        """Keep the state at a day's start on disk, so that a re-run need not count from the beginning."""
        path = self._folder / f"{day.isoformat()}_{watermark}"
        if not path.exists():
            self.counts_at(day, watermark).save(path)
            self._prune()

    def _nearest(self, day: Day, watermark: int) -> _State:
        rolling = self._state
        if rolling is not None and rolling.day <= day and rolling.watermark <= watermark:
            return rolling
        kept = [(d, w, path) for d, w, path in self._snapshots() if d <= day and w <= watermark]
        if kept:
            at, bound, path = max(kept, key=lambda k: k[:2])
            return _State(Counts.load(path), at, bound)
        return _State(Counts.empty(self._lake.config), Day.min, watermark)

    def _absorb_late(self, state: _State, watermark: int) -> None:
        since = pa.scalar(state.watermark, pa.timestamp("us", "UTC"))
        late = self._lake.events.read(filter=(pc.field("ingested_at") > since) & (pc.field("ds") < pa.scalar(state.day)))
        late = _known_at(late, watermark)
        if late.num_rows:
            state.counts.absorb(late)
        state.watermark = watermark

    def _snapshots(self) -> list[tuple[Day, int, Path]]:
        found = []
        for path in sorted(self._folder.glob("????-??-??_*")):
            day, watermark = path.name.split("_")
            if watermark.isdigit():
                found.append((as_day(day), int(watermark), path))
        return found

    def _prune(self) -> None:
        for _, _, path in self._snapshots()[:-_KEPT_SNAPSHOTS]:
            path.unlink(missing_ok=True)


@dataclass
class _State:
    counts: Counts
    day: Day
    watermark: int


def _known_at(events: pa.Table, watermark: int) -> pa.Table:
    return events.filter(pc.field("ingested_at") <= pa.scalar(watermark, pa.timestamp("us", "UTC")))
