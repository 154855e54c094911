"""Events of a day with their running counts, as both training and encoding read them.

The count state at the start of day d as of watermark w is a pure function of the events table: all events with
ds < d that were ingested at or before w. So a state can be deleted and made again, and a re-run sees what the first run
saw. Snapshots on disk only save time.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
from cachetools import LRUCache
from numpy.typing import NDArray

from tokenlake.config import Config, Encoder, Ranker
from tokenlake.errors import LockedError, NotFoundError
from tokenlake.features.activity import EventDayCache
from tokenlake.features.aggregations import Aggregations
from tokenlake.features.count_inputs import as_inputs, declared
from tokenlake.features.counts import Counts, count_names
from tokenlake.features.negatives import item_table, sample
from tokenlake.lake.project import Project
from tokenlake.storage import atomic
from tokenlake.storage.locks import hold
from tokenlake.times import Day, as_day, as_micros, day_start

_ORDER = [("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")]
#: Days kept in memory: a back-fill trains on the chunk that it has just encoded.
_CACHED_DAYS = 32
_KEPT_SNAPSHOTS = 8
#: A state is saved when at least so many days were added to it at once.
_SAVE_AFTER_DAYS = 7


@dataclass(frozen=True)
class DayFeatures:
    """One day's events, by (user, timestamp, event id), and the running counts of each row.

    Attributes:
        events: rows of the `events` table; in a log without labels each is followed by sampled negatives, which have
            no event id, and all have the `observed_label`.
        counts: float32 `(rows, counts)`, strictly before each row's timestamp: the columns of `input_names`.
        visible: bool `(rows,)`, whether later rows may see the row; False for sampled negatives.
    """

    events: pa.Table
    counts: NDArray[np.float32]
    visible: NDArray[np.bool_]

    def without_negatives(self) -> DayFeatures:
        """The rows without the sampled negatives."""
        if self.events["event_id"].null_count == 0:
            return self
        rows = np.flatnonzero(self.events["event_id"].is_valid())
        return DayFeatures(self.events.take(rows), self.counts[rows], self.visible[rows])


class DayFeatureCache:
    """Reads day features of a lake, rolling one count state forward over the days."""

    def __init__(self, lake: Project) -> None:
        self._lake = lake
        made_of = lake.config.events.model_dump_json().encode()
        self._folder = lake.data / "counts" / hashlib.sha256(made_of).hexdigest()[:8]
        self._state: _CountState | None = None
        self._days: LRUCache[tuple[Day, int, int], DayFeatures] = LRUCache(_CACHED_DAYS)

    def read(self, day: Day, watermark: int, *, complete: bool = False) -> DayFeatures:
        """Read a day as of a watermark.

        Args:
            day: the day.
            watermark: bound on `ingested_at` (us) of the earlier days' events, and of the day's own.
            complete: take all of the day's own events, also those that were ingested after the watermark.
        """
        events = self._lake.events.read(day=day).sort_by(_ORDER)
        if not complete:
            events = _ingested_until(events, watermark)
        key = (day, watermark, events.num_rows)
        if key in self._days:
            return self._days[key]
        state = self._state_at(day, watermark)
        rows = self._with_negatives(events, day, state.items)
        if self._lake.config.counts is not None:
            self._lake.shared(Aggregations).roll_on(watermark)
        declared = self._declared(rows, watermark, _ingested_after(events, watermark))
        counts = np.concatenate([state.counts.features(events, rows), declared], axis=1)
        features = DayFeatures(rows, counts, np.asarray(rows["event_id"].is_valid()))
        self._days[key] = features
        return features

    def read_as_of_midnight(self, day: Day, watermark: int, *, complete: bool = False) -> DayFeatures:
        """As `read`, with counts as they were when the day began: what a model knows that is fed by nightly jobs alone."""
        features = self.read(day, watermark, complete=complete)
        began = pa.scalar(day_start(day), pa.timestamp("us", "UTC"))
        place = features.events.column_names.index("timestamp")
        rows = features.events.set_column(place, "timestamp", pa.repeat(began, features.events.num_rows))
        nothing = self._lake.events.schema.empty_table()
        return DayFeatures(features.events, self.counts_of(rows, nothing, day, watermark), features.visible)

    def counts_of(
        self, rows: pa.Table, new: pa.Table, day: Day, watermark: int, *, reader: Encoder | Ranker | None = None
    ) -> NDArray[np.float32]:
        """Counts of rows of one day, in real time: the same columns as those of `read`, strictly before each row.

        Args:
            rows: the rows asked for.
            new: events that count as well, of any day up to this one, and are not in the lake yet.
            day: the day.
            watermark: bound on `ingested_at` (us) of the earlier days' events; all of the day's own count.
            reader: what reads them; the columns that it does not read are 0, which saves time.
        """
        of_lake = self._lake.shared(EventDayCache).events(day)
        extra = pa.concat_tables([_ingested_after(of_lake, watermark), new])
        declared = self._declared(rows, watermark, extra, reader)
        if reader is not None and reader.counts is not True:
            running = np.zeros((rows.num_rows, len(count_names(self._lake.config))), np.float32)
        else:
            running = self._running(rows, pa.concat_tables([of_lake, new]), day, watermark)
        return np.concatenate([running, declared], axis=1)

    def _running(self, rows: pa.Table, events: pa.Table, day: Day, watermark: int) -> NDArray[np.float32]:
        """The built-in counts of rows of a day, from the state of its start, new events of earlier days and the day's own."""
        counts = self._state_at(day, watermark).counts
        earlier = events.filter(pc.field("ds") < pa.scalar(day))
        if earlier.num_rows:
            counts = counts.copy()
            counts.add_late(earlier)
        return counts.features(events.filter(pc.field("ds") == pa.scalar(day)), rows)

    def _declared(
        self, rows: pa.Table, watermark: int, extra: pa.Table, reader: Encoder | Ranker | None = None
    ) -> NDArray[np.float32]:
        """Inputs by declared aggregations: those that encoders and rankers read, or one of them."""
        config, aggregations = self._lake.config, self._lake.shared(Aggregations)
        columns = aggregations.columns(list(declared(config)))
        names = list(declared(config) if reader is None else config.counts_of(reader))
        if not names:
            return np.zeros((rows.num_rows, len(columns)), np.float32)
        at = as_micros(rows["timestamp"], "timestamp")
        values = aggregations.features(rows, at, watermark, extra=extra, names=names)
        unread = np.zeros(rows.num_rows)
        return as_inputs(columns, {column.name: values.get(column.name, unread) for column in columns})

    def _state_at(self, day: Day, watermark: int) -> _CountState:
        state = self._nearest_state(day, watermark)
        self._state = None  # a failure half-way must not leave a half-rolled state behind
        if state.watermark < watermark:
            self._add_late_events(state, watermark)
        missing = [earlier for earlier in self._lake.events.days() if state.day <= earlier < day]
        for earlier in missing:
            state.advance(self._lake.config, earlier, _ingested_until(self._lake.events.read(day=earlier), watermark))
        state.day = max(state.day, day)
        self._state = state
        if len(missing) >= _SAVE_AFTER_DAYS:
            self.save_state()
        return state

    def save_state(self) -> None:
        """Write the rolling state to disk, from which the next process goes on counting."""
        state = self._state
        if state is None or state.day <= max((s.day for s in self._snapshots()), default=Day.min):
            return
        with suppress(LockedError), hold(self._lake.data / "locks" / "counts.lock", "keeping a count state"):
            with atomic.folder(self._folder / f"{state.day.isoformat()}_{state.watermark}") as folder:
                state.save(folder)
            for old in self._snapshots()[:-_KEPT_SNAPSHOTS]:
                shutil.rmtree(old.path)

    def _with_negatives(self, events: pa.Table, day: Day, earlier: pa.Table | None) -> pa.Table:
        if self._lake.config.events.labels:
            return events
        items = item_table(self._lake.config, events, earlier)
        return sample(events, self._lake.config.tokens.negatives, 0, day, items=items)

    def _nearest_state(self, day: Day, watermark: int) -> _CountState:
        rolling = self._state
        if rolling is not None and rolling.day <= day and rolling.watermark <= watermark:
            return rolling
        kept = [s for s in self._snapshots() if s.day <= day and s.watermark <= watermark]
        for newest in sorted(kept, key=lambda s: (s.day, s.watermark), reverse=True):
            with suppress(NotFoundError, FileNotFoundError):  # another process may just have dropped it
                return _CountState.load(newest.path, newest.day, newest.watermark)
        return _CountState(Counts.empty(self._lake.config), None, Day.min, watermark)

    def _add_late_events(self, state: _CountState, watermark: int) -> None:
        span = [dt.datetime.fromtimestamp(micros / 1e6, dt.UTC) for micros in (state.watermark, watermark)]
        for day in self._lake.events.days_with("ingested_at", *span):
            if day < state.day:
                self._add_late_of_day(state, day, watermark)
        state.watermark = watermark

    def _add_late_of_day(self, state: _CountState, day: Day, watermark: int) -> None:
        late = _ingested_until(self._lake.events.read(day=day), watermark)
        late = late.filter(pc.field("ingested_at") > pa.scalar(state.watermark, pa.timestamp("us", "UTC")))
        if late.num_rows:
            state.counts.add_late(late)
            state.add_items(self._lake.config, late)

    def _snapshots(self) -> list[_CountSnapshot]:
        return [
            _CountSnapshot(as_day(p.name[:10]), int(p.name[11:]), p) for p in sorted(self._folder.glob("????-??-??_*"))
        ]


@dataclass(frozen=True)
class _CountSnapshot:
    day: Day
    watermark: int
    path: Path


@dataclass
class _CountState:
    """Counts, and for logs without labels the items that negatives are drawn from, of all events with ds < day."""

    counts: Counts
    items: pa.Table | None
    day: Day
    watermark: int

    def advance(self, config: Config, day: Day, events: pa.Table) -> None:
        self.counts.advance(day, events)
        self.add_items(config, events)

    def add_items(self, config: Config, events: pa.Table) -> None:
        if not config.events.labels:
            self.items = item_table(config, events, self.items)

    def save(self, folder: Path) -> None:
        self.counts.save(folder / "counts.arrow")
        if self.items is not None:
            feather.write_feather(self.items, folder / "items.arrow")

    @classmethod
    def load(cls, folder: Path, day: Day, watermark: int) -> _CountState:
        items = folder / "items.arrow"
        return cls(
            Counts.load(folder / "counts.arrow"), feather.read_table(items) if items.exists() else None, day, watermark
        )


def _ingested_after(events: pa.Table, watermark: int) -> pa.Table:
    return events.filter(pc.field("ingested_at") > pa.scalar(watermark, pa.timestamp("us", "UTC")))


def _ingested_until(events: pa.Table, watermark: int) -> pa.Table:
    return events.filter(pc.field("ingested_at") <= pa.scalar(watermark, pa.timestamp("us", "UTC")))
