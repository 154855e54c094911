"""What users did, as the user encoder reads it: days of events, activity sources, and histories before a moment."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.config import Config, Filter
from tokenlake.lake.lake import Lake
from tokenlake.pipeline.keys import Ints, factorize, flat
from tokenlake.pipeline.maturity import outcomes_of
from tokenlake.times import NEVER, Day, as_micros

_ORDER = [("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")]
_KEPT_DAYS = 512
_ALWAYS = np.iinfo(np.int64).min
Instants: TypeAlias = Ints


class Days:
    """Reads runs of days; the days themselves stay in memory, since a back-fill reads each many times."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._kept: OrderedDict[tuple[Day, int | None], pa.Table] = OrderedDict()

    def read(self, first: Day, last: Day, watermark: int | None, *, late: Day | None = None) -> Log:
        """Read events from one day to another.

        Args:
            first: the first day.
            last: the last one.
            watermark: bound on `ingested_at` (us); None for none.
            late: a day whose events are all taken, also those that were ingested after the watermark.
        """
        parts = [self._day(day) for day in self._lake.events.days() if first <= day <= last]
        if watermark is not None:
            bound = pc.field("ingested_at") <= pa.scalar(watermark, pa.timestamp("us", "UTC"))
            parts = [p.filter(bound) if _day_of(p) != late else p for p in parts]
        schema = self._lake.events.schema
        return Log(self._lake.config, pa.concat_tables([schema.empty_table(), *parts]).sort_by(_ORDER))

    def _day(self, day: Day) -> pa.Table:
        key = day, self._lake.events.commit_version()
        if key not in self._kept:
            self._kept[key] = self._lake.events.read(day=day)
            if len(self._kept) > _KEPT_DAYS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


@dataclass(frozen=True)
class Chosen:
    """Some rows of a log, ascending, and the instants (us) after which it may be known that they were chosen."""

    rows: Ints
    when: Instants


class Log:
    """Events of some days.

    Attributes:
        events: rows of the `events` table, by (user, timestamp, event id).
        users: distinct users; the code of one is its place.
        codes: int64 (n,), the user's code of each row, ascending.
        timestamps: int64 (n,), microseconds UTC.
    """

    def __init__(self, config: Config, events: pa.Table) -> None:
        self._config = config
        self.events = events
        self.codes, self.users = factorize(flat(events["user_id"]))
        self.timestamps: Instants = np.array(as_micros(events["timestamp"], "timestamp"))

    def __len__(self) -> int:
        return len(self.codes)

    def codes_of(self, users: pa.Array) -> Ints:
        """Codes of users; -1 for one who did nothing here."""
        return np.asarray(pc.index_in(users, value_set=self.users).fill_null(-1).to_numpy(), np.int64)

    @cached_property
    def positives(self) -> Chosen:
        """Events that the encoder learns to foresee: `positive` of the config, else the first label, else all."""
        assert self._config.embeddings is not None
        declared = self._config.embeddings.positive
        if declared is None:
            declared = tuple(Filter(label=name) for name in list(self._config.events.labels)[:1])
        return self.chosen(declared)

    def sources(self) -> list[Chosen]:
        """Events of each activity source of the config."""
        assert self._config.embeddings is not None
        return [self.chosen(filters) for filters in self._config.embeddings.sources.values()]

    def chosen(self, filters: Sequence[Filter]) -> Chosen:
        """Events that pass any of the filters; without one, all."""
        if not filters:
            return Chosen(np.arange(len(self)), self.timestamps)
        when = np.minimum.reduce([self._known(f) for f in filters])
        rows = np.flatnonzero(when < NEVER)
        return Chosen(rows, when[rows])

    def _known(self, f: Filter) -> Instants:
        """Since when each row is known to pass; NEVER if it does not."""
        if f.label is not None:
            outcomes = outcomes_of(self.events, f.label, self.timestamps)
            return np.where(outcomes.known & outcomes.positive, outcomes.when, NEVER)
        passes = pc.is_in(self.events[f.feature], value_set=pa.array(f.among)).to_numpy()
        return np.where(passes, self.timestamps, NEVER)


class Histories:
    """Finds the last events of a source that a user is known to have done before a moment.

    Args:
        log: the events.
        source: those of the source.

    Attributes:
        rows: rows of the log, by (user, instant of being known).
        when: those instants (us).
    """

    def __init__(self, log: Log, source: Chosen) -> None:
        codes = log.codes[source.rows]
        order = np.lexsort((source.rows, source.when, codes))
        self.rows = source.rows[order]
        self.when = source.when[order]
        self._instants = np.unique(source.when)
        self._key = self._keys(codes[order], self.when)

    def spans(
        self, users: Ints, now: Instants, length: int | None = None, reach: dt.timedelta | None = None
    ) -> tuple[Ints, Ints]:
        """First and last place (exclusive) in `rows` of what each user is known to have done strictly before `now`.

        Args:
            users: int64 (q,), codes; -1 did nothing.
            now: int64 (q,), microseconds.
            length: rows a question at most, the last ones; None for all.
            reach: how far back; None for all.
        """
        end = np.searchsorted(self._key, self._keys(users, now))
        since = np.full(len(now), _ALWAYS) if reach is None else now - reach // dt.timedelta(microseconds=1)
        start = np.searchsorted(self._key, self._keys(users, since))
        if length is not None:
            start = np.maximum(start, end - length)
        return np.minimum(start, end), end

    def before(self, users: Ints, now: Instants, length: int, reach: dt.timedelta | None = None) -> tuple[Ints, Ints]:
        """Find those rows of the log: (total,), each question's ascending, and offsets (q + 1,)."""
        rows, offsets = taken(self.rows, *self.spans(users, now, length, reach))
        owner = np.repeat(np.arange(len(users)), np.diff(offsets))
        return rows[np.lexsort((rows, owner))], offsets

    def _keys(self, users: Ints, when: Instants) -> Ints:
        # Places among the distinct instants, since users times microseconds would overflow.
        return users * (len(self._instants) + 1) + np.searchsorted(self._instants, when)


def taken(values: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Slices `values[start:end]`, one after the other, and their offsets."""
    offsets = np.concatenate([[0], np.cumsum(end - start)])
    return values[np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], end - start)], offsets


def _day_of(part: pa.Table) -> Day | None:
    return part["ds"][0].as_py() if part.num_rows else None


def within(chosen: Chosen, first: int | None, end: int) -> NDArray[np.bool_]:
    """Which of the chosen become known from one instant to another."""
    return (chosen.when < end) if first is None else (chosen.when >= first) & (chosen.when < end)
