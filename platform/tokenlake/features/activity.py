"""What users did, as the user encoder reads it: days of events, activity sources, and histories before a query time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from cachetools import LRUCache
from numpy.typing import NDArray

from tokenlake.config import Config, Filter
from tokenlake.features.keys import Ints, factorize, flat
from tokenlake.features.label_maturity import EventLabels, event_labels, passes_from
from tokenlake.features.negatives import item_table
from tokenlake.lake.project import Project
from tokenlake.times import DAY_US, EARLIEST, NEVER, Day, as_micros

_ORDER = [("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")]
_KEPT_DAYS, _KEPT_LOGS = 512, 4
Instants: TypeAlias = Ints


class EventDay:
    """One day's events by (user, timestamp, event id), and what is computed from them once and cached.

    Attributes:
        day: the day of the events.
        fingerprint: of the files that hold the day's events: whatever was computed from two days of equal fingerprint is equal.
        events: rows of the `events` table.
        users: the user of each event (n,).
        timestamps: int64 (n,), microseconds UTC.
    """

    def __init__(self, day: Day, state: str, events: pa.Table) -> None:
        self.day, self.fingerprint = day, state
        self.events = events.sort_by(_ORDER)
        self.users = flat(self.events["user_id"])
        self.timestamps: Instants = np.array(as_micros(self.events["timestamp"], "timestamp"))
        self._items: pa.Table | None = None
        self._known: dict[tuple[Filter, ...], Instants] = {}
        self._labels: dict[str, EventLabels] = {}

    def __len__(self) -> int:
        return len(self.timestamps)

    def labels(self, label: str) -> EventLabels:
        """One label of every event."""
        if label not in self._labels:
            self._labels[label] = event_labels(self.events, label, self.timestamps)
        return self._labels[label]

    def items(self, config: Config) -> pa.Table:
        """The day's `item_table`."""
        if self._items is None:
            self._items = item_table(config, self.events)
        return self._items

    def known_from(self, filters: tuple[Filter, ...]) -> Instants:
        """The instant (us) after which each event is known to pass any of the filters; NEVER if it passes none. Without filters, all pass."""
        if not filters:
            return self.timestamps
        if filters not in self._known:
            self._known[filters] = passes_from(filters, self.events, self.timestamps, self.labels)
        return self._known[filters]


class EventDayCache:
    """Reads ranges of event days and caches the days, since a back-fill reads each many times."""

    def __init__(self, lake: Project) -> None:
        self._lake = lake
        self._kept: LRUCache[tuple[Day, str], tuple[EventDay, int]] = LRUCache(_KEPT_DAYS)
        self._files: tuple[int | None, dict[Day, str]] = None, {}
        self._logs: LRUCache[tuple[Any, ...], EventLog] = LRUCache(_KEPT_LOGS)

    def read(self, first: Day, last: Day, watermark: int | None, *, complete: Day | None = None) -> EventLog:
        """Read events from one day to another.

        Args:
            first: the first day.
            last: the last one.
            watermark: bound on `ingested_at` (us); None for none.
            complete: a day of which all events are taken, also those that were ingested after the watermark.
        """
        states = {day: state for day, state in self._fingerprints().items() if first <= day <= last}
        key = (self._files[0], first, last, watermark, complete)
        if key not in self._logs:
            parts = [self._day(day, states[day], None if day == complete else watermark) for day in sorted(states)]
            self._logs[key] = EventLog(self._lake.config, self._lake.events.schema, parts)
        return self._logs[key]

    def events(self, day: Day) -> pa.Table:
        """All events of a day."""
        state = self._fingerprints().get(day)
        return self._lake.events.schema.empty_table() if state is None else self._day(day, state, None).events

    def fingerprint(self, first: Day, last: Day) -> str:
        """A fingerprint of the events of a range of days: it changes when any of them does."""
        told = [f"{day} {state}" for day, state in sorted(self._fingerprints().items()) if first <= day <= last]
        return xxhash.xxh64_hexdigest("\n".join(told).encode())

    def _fingerprints(self) -> dict[Day, str]:
        commit = self._lake.events.commit_version()
        if self._files[0] != commit or commit is None:
            self._files = commit, {d: _fingerprint(names) for d, names in self._lake.events.files_by_day().items()}
        return self._files[1]

    def _day(self, day: Day, state: str, bound: int | None) -> EventDay:
        key = day, state
        if key not in self._kept:
            events = self._lake.events.read(day=day)
            newest = int(as_micros(events["ingested_at"], "ingested_at").max()) if len(events) else 0
            self._kept[key] = EventDay(day, state, events), newest
        part, newest = self._kept[key]
        if bound is None or newest <= bound:
            return part
        early = pc.field("ingested_at") <= pa.scalar(bound, pa.timestamp("us", "UTC"))
        return EventDay(day, f"{state} until {bound}", part.events.filter(early))


@dataclass(frozen=True)
class Selection:
    """Some rows of a log, ascending, and the instants (us) after which it may be known that they belong to the selection."""

    rows: Ints
    when: Instants


class EventLog:
    """Events of some days, by (user, timestamp, event id).

    Attributes:
        days: the event days, in order.
        users: distinct users, in order; a user's code is its position there.
        codes: int64 (n,), the user's code of each row, ascending.
        day_number, day_row: int64 (n,), where each row comes from: the number of its day in `days`, and its row in that day.
        order: int64 (n,), the position of each row when the days' rows are concatenated.
        timestamps: int64 (n,), microseconds UTC.
    """

    def __init__(self, config: Config, schema: pa.Schema, parts: Sequence[EventDay]) -> None:
        self._config, self._schema, self.days = config, schema, list(parts)
        column = pa.chunked_array([part.users for part in self.days], flat(schema.empty_table()["user_id"]).type)
        codes, users = factorize(flat(column))
        order = pc.array_sort_indices(users)
        self.users: pa.Array = users.take(order)
        rank = np.empty(len(users), np.int64)
        rank[order.to_numpy()] = np.arange(len(users))
        codes = rank[codes]
        # The days are in order, and so is each day: what is left is to bring users together.
        self.order = np.argsort(codes, kind="stable")
        self.codes = codes[self.order]
        sizes = [len(part) for part in self.days]
        self.day_number = np.repeat(np.arange(len(sizes)), sizes)[self.order]
        self.day_row = self.order - np.concatenate([[0], np.cumsum(sizes)])[self.day_number].astype(np.int64)
        self.timestamps: Instants = self.in_log_order([part.timestamps for part in self.days])
        self._histories_of: dict[tuple[Filter, ...], Histories] = {}
        self._labels_of: dict[str, EventLabels] = {}
        self._columns: dict[str, pa.Array] = {}

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def events(self) -> pa.Table:
        """Rows of the `events` table."""
        tables = [self._schema.empty_table(), *(part.events for part in self.days)]
        return pa.concat_tables(tables).take(pa.array(self.order))

    def column(self, name: str) -> pa.Array:
        """One column of `events`, without the others."""
        values = pa.chunked_array(
            [part.events[name].combine_chunks() for part in self.days], self._schema.field(name).type
        )
        return values.combine_chunks().take(pa.array(self.order))

    def take(self, name: str, rows: Ints) -> pa.Array:
        """One column of some rows of `events`, null where the row is -1; the column is kept."""
        if name not in self._columns:
            parts = [part.events[name].combine_chunks() for part in self.days]
            self._columns[name] = pa.chunked_array(parts, self._schema.field(name).type).combine_chunks()
        place = self.order[rows] if len(self.order) else rows
        return self._columns[name].take(pa.array(place, mask=rows < 0))

    def label(self, name: str) -> EventLabels:
        """One label of every row; kept."""
        if name not in self._labels_of:
            found = [part.labels(name) for part in self.days]
            self._labels_of[name] = EventLabels(
                self.in_log_order([one.matures.astype(np.int64) for one in found]) > 0,
                self.in_log_order([np.where(one.matures, one.known_from, NEVER) for one in found]),
                self.in_log_order([one.positive.astype(np.int64) for one in found]) > 0,
            )
        return self._labels_of[name]

    def item_table(self) -> pa.Table:
        """Every item with its number of events, and the features that it had last."""
        return item_table(self._config, self.events)

    def codes_of(self, users: pa.Array) -> Ints:
        """Codes of users; -1 for a user without events in this log."""
        return np.asarray(pc.index_in(users, value_set=self.users).fill_null(-1).to_numpy(), np.int64)

    @cached_property
    def positives(self) -> Selection:
        """Events that the encoder is trained to predict: `positive` of the config, else the first label, else all."""
        declared = self._config.require_embeddings().positive
        if declared is None:
            declared = tuple(Filter(label=name) for name in list(self._config.events.labels)[:1])
        return self.select(declared)

    @cached_property
    def sources(self) -> list[Selection]:
        """Events of each activity source of the config."""
        return [self.select(filters) for filters in self._config.require_embeddings().sources.values()]

    def select(self, filters: Sequence[Filter]) -> Selection:
        """Events that pass any of the filters; without one, all."""
        when = self.in_log_order([part.known_from(tuple(filters)) for part in self.days])
        rows = np.flatnonzero(when < NEVER)
        return Selection(rows, when[rows])

    @cached_property
    def histories(self) -> list[Histories]:
        """For each source, the histories of users at any query time."""
        return [Histories(self, source) for source in self.sources]

    def histories_of(self, filters: tuple[Filter, ...]) -> Histories:
        """The histories of the events that pass any of the filters, or of all; kept."""
        if filters not in self._histories_of:
            self._histories_of[filters] = Histories(self, self.select(filters))
        return self._histories_of[filters]

    @cached_property
    def labels(self) -> tuple[Ints, Ints]:
        """All labels of the rows, 0 or 1, and the instants (us) after which each is known, NEVER if never: (n, L) each."""
        labels = list(self._config.events.labels)
        positive, when = np.zeros((2, len(self), len(labels)), np.int64)
        for i, name in enumerate(labels):
            label = self.label(name)
            positive[:, i], when[:, i] = label.positive, label.known_from
        return positive, when

    def in_log_order(self, values: Sequence[Ints]) -> Ints:
        """Concatenate values of the days' rows and put them into the order of the log's rows."""
        return np.concatenate([np.zeros(0, np.int64), *values])[self.order]


class Histories:
    """Finds the last events of a source that a user is known to have done before a query time.

    Args:
        log: the events.
        source: those of the source.

    Attributes:
        rows: rows of the log, by (user, instant of being known).
        when: those instants (us).
    """

    def __init__(self, log: EventLog, source: Selection) -> None:
        codes = log.codes[source.rows]
        self.rows, self.when = source.rows, source.when
        # Rows are in order of time; only what becomes known later than it happens can be out of it.
        self._in_order = not ((codes[1:] == codes[:-1]) & (self.when[1:] < self.when[:-1])).any()
        if not self._in_order:
            order = np.lexsort((source.rows, source.when, codes))
            codes, self.rows, self.when = codes[order], source.rows[order], source.when[order]
        self._first = int(self.when.min()) if len(self.when) else 0
        self._span = int(self.when.max()) - self._first + 2 if len(self.when) else 2
        # Users times microseconds may overflow: then positions among the distinct instants stand for them.
        self._distinct_times = np.unique(self.when) if (len(log.users) + 1) * self._span >= 2**62 else None
        self._key = self._keys(codes, self.when)

    def spans(
        self, users: Ints, as_of: Instants, length: int | None = None, reach: dt.timedelta | None = None
    ) -> tuple[Ints, Ints]:
        """First and last place (exclusive) in `rows` of what each user is known to have done strictly before `as_of`.

        Args:
            users: int64 (q,), codes; -1 for a user without events.
            as_of: int64 (q,), microseconds, the query times.
            length: most rows of a query, the last ones; None for all.
            reach: how far back; None for all.
        """
        end = np.searchsorted(self._key, self._keys(users, as_of))
        since = np.full(len(as_of), EARLIEST) if reach is None else as_of - reach // dt.timedelta(microseconds=1)
        start = np.searchsorted(self._key, self._keys(users, since))
        if length is not None:
            start = np.maximum(start, end - length)
        return np.minimum(start, end), end

    def before(self, users: Ints, as_of: Instants, length: int, reach: dt.timedelta | None = None) -> tuple[Ints, Ints]:
        """Find those rows of the log: (total,), ascending within each query, and offsets (q + 1,)."""
        rows, offsets = take_ranges(self.rows, *self.spans(users, as_of, length, reach))
        if self._in_order:
            return rows, offsets
        owner = np.repeat(np.arange(len(users)), np.diff(offsets))
        return rows[np.lexsort((rows, owner))], offsets

    def _keys(self, users: Ints, when: Instants) -> Ints:
        if self._distinct_times is not None:
            return users * (len(self._distinct_times) + 1) + np.searchsorted(self._distinct_times, when)
        return users * self._span + np.clip(when, self._first, self._first + self._span - 1) - self._first


def take_ranges(values: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Concatenate the slices `values[start:end]`; returns the values and the slices' offsets."""
    offsets = np.concatenate([[0], np.cumsum(end - start)])
    return values[np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], end - start)], offsets


def _fingerprint(names: Sequence[str]) -> str:
    return xxhash.xxh64_hexdigest("\n".join(sorted(names)).encode())


def known_within(selection: Selection, first: int | None, end: int) -> NDArray[np.bool_]:
    """Which rows of a selection become known from one instant to another."""
    return (selection.when < end) if first is None else (selection.when >= first) & (selection.when < end)


def training_queries(log: EventLog, first: int | None, end: int, group: int) -> tuple[Ints, Instants, Ints, Ints]:
    """Training queries: each stands for up to `group` positives of one user and day, at the time of the first.

    Args:
        log: the events.
        first: instant from which a positive must become known; None for all.
        end: instant before which it must.
        group: most positives of one query.

    Returns:
        Codes of the users (q,), query times (q,), rows of the positives (total,), and offsets (q + 1,).
    """
    rows = log.positives.rows[known_within(log.positives, first, end)]
    if not len(rows):
        return rows, rows, rows, np.zeros(1, np.int64)
    owner, day = log.codes[rows], log.timestamps[rows] // DAY_US
    fresh = np.concatenate([[True], (owner[1:] != owner[:-1]) | (day[1:] != day[:-1])])
    begin = np.maximum.accumulate(np.where(fresh, np.arange(len(rows)), 0))
    starts = np.flatnonzero((np.arange(len(rows)) - begin) % group == 0)
    return owner[starts], log.timestamps[rows[starts]], rows, np.append(starts, len(rows))
