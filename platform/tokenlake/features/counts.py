"""Running counts: what was known of a user, an item or a tag strictly before an event.

A query at time t counts the events with timestamp < t, and the labels that were known before t. Everything is kept as
exact integers, so that a state rolled on day by day, one made from scratch and one that took in late events are the
same (docs/point-in-time.md).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.config import Config
from tokenlake.errors import CorruptionError, SchemaError
from tokenlake.features.keys import Ints, exploded, factorize, flat
from tokenlake.features.label_maturity import EventLabels, event_labels
from tokenlake.features.running_totals import Occurrences, RunningTotals
from tokenlake.storage.arrays import read_arrays, write_arrays
from tokenlake.times import Day, as_day, as_micros, day_of, day_start

#: Means are smoothed: the global mean counts as this many labels.
STRENGTH = 10.0
#: The group of all events, which gives the global means.
_ALL = "*"
#: Groups with one key a row.
_SINGLE = (_ALL, "user_id", "item_id")
_ONE_DAY = dt.timedelta(days=1)
_FORMAT = 1


def count_names(config: Config) -> tuple[str, ...]:
    """Name the features that `Counts` of a config gives, in their order.

    `user_count` is log1p of the user's events so far; with labels there are also, per label, `user_clicked_known`,
    log1p of those whose label is known, and `user_clicked_mean`, the share of positives among these, smoothed towards the
    share among all events. So for `item` and for every multi-valued feature, whose values are pooled.
    """
    return _names(("user", "item", *config.events.of_kind("multi")), tuple(config.events.labels))


class Counts:
    """Running counts as of the start of a day.

    Attributes:
        day: the first day that the state does not hold; None while it holds nothing.
        names: what the columns of `features` are, see `count_names`.

    >>> counts = Counts.empty(config)
    >>> for day in days:
    ...     x = counts.features(events[day])  # (rows, len(counts.names))
    ...     counts.advance(day, events[day])
    """

    def __init__(self, multi: tuple[str, ...], labels: tuple[str, ...]) -> None:
        self._multi = multi
        self._labels = labels
        self._totals = {group: RunningTotals(len(labels)) for group in (*_SINGLE, *map(_group, multi))}
        self.day: Day | None = None
        self.names = _names(("user", "item", *multi), labels)

    @classmethod
    def empty(cls, config: Config) -> Counts:
        """Before the first event."""
        return cls(config.events.of_kind("multi"), tuple(config.events.labels))

    def features(self, events: pa.Table, queries: pa.Table | None = None) -> NDArray[np.float32]:
        """Count strictly before each query's timestamp; changes nothing.

        Args:
            events: all events of one day, in any order, with their labels. Every earlier day must have been added.
            queries: rows of the same day with user_id, item_id, timestamp and the multi-valued features; the events
                themselves by default.

        Returns:
            float32 (rows, len(names)) in the order of the queries.

        Raises:
            SchemaError: rows of several days, or of a day that the state holds already.
        """
        past = _CountBatch.of(events, self._multi, self._labels)
        asked_batch = past if queries is None else _CountBatch.of(queries, self._multi, ())
        out = np.zeros((len(asked_batch.timestamps), len(self.names)), np.float32)
        if not len(asked_batch.timestamps):
            return out
        start = day_start(self._one_day(past, asked_batch))
        before = {group: self._before(group, past, asked_batch, start) for group in self._totals}
        everything = before.pop(_ALL)
        priors = (everything[:, 2::2] + 1) / (everything[:, 1::2] + 2)
        for i, totals in enumerate(before.values()):
            width = totals.shape[1]
            _write(totals, priors, out[:, i * width : (i + 1) * width])
        return out

    def advance(self, day: Day, events: pa.Table) -> None:
        """Add all events of a day; the state is then that at the start of the next.

        Days without events may be left out. Labels mature by themselves, as days go by.

        Raises:
            SchemaError: events of another day, or a day that the state holds already.
        """
        day = as_day(day)
        batch = _CountBatch.of(events, self._multi, self._labels)
        if len(batch.timestamps) and self._one_day(batch) != day:
            raise SchemaError(f"events of {day_of(batch.timestamps[0])} given for {day}; pass the events of that day")
        self._require_new(day)
        self._add(batch, day + _ONE_DAY)

    def add_late(self, events: pa.Table) -> None:
        """Add events that came late, of any earlier days.

        Days after the state's own are taken as well, as long as all that was added before is earlier: they are days
        that were left out because they had no events then.
        """
        batch = _CountBatch.of(events, self._multi, self._labels)
        if len(batch.timestamps):
            after = day_of(batch.timestamps.max()) + _ONE_DAY
            self._add(batch, max(self.day or after, after))

    def copy(self) -> Counts:
        """An independent copy."""
        counts = Counts(self._multi, self._labels)
        counts._totals = {group: totals.copy() for group, totals in self._totals.items()}
        counts.day = self.day
        return counts

    def save(self, path: Path) -> None:
        """Write the state to a file, atomically."""
        arrays = {
            f"{group}.{name}": array
            for group, totals in self._totals.items()
            for name, array in totals.to_arrays().items()
        }
        day = self.day.isoformat() if self.day else None
        header = {"format": _FORMAT, "day": day, "multi": self._multi, "labels": self._labels}
        write_arrays(path, arrays, header)

    @classmethod
    def load(cls, path: Path) -> Counts:
        """Read a state that `save` wrote.

        Raises:
            NotFoundError: there is no such file.
            CorruptionError: the file is damaged.
        """
        arrays, header = read_arrays(path)
        if header.get("format") != _FORMAT:
            raise CorruptionError(f"{path} is no count state of this release; delete it: the job makes it again")
        counts = cls(tuple(header["multi"]), tuple(header["labels"]))
        counts.day = as_day(header["day"]) if header["day"] else None
        for group in counts._totals:
            mine = {name.removeprefix(f"{group}."): a for name, a in arrays.items() if name.startswith(f"{group}.")}
            counts._totals[group] = RunningTotals.from_arrays(mine, len(counts._labels))
        return counts

    def _add(self, batch: _CountBatch, day: Day) -> None:
        for group, totals in self._totals.items():
            rows, values = batch.keys[group]
            codes, distinct = factorize(values)
            totals.add(distinct, Occurrences(rows, codes), batch.labels, day_start(day))
        self.day = day

    def _before(self, group: str, past: _CountBatch, asked: _CountBatch, start: int) -> Ints:
        """Totals of the key, or of all the keys together, of each query; int64 (queries, columns)."""
        rows, values = past.keys[group]
        asked_rows, asked_values = asked.keys[group]
        both = values if asked is past else pa.concat_arrays([values, asked_values])
        codes, distinct = factorize(both)
        occurrences = Occurrences(rows, codes[: len(rows)])
        queries = Occurrences(asked_rows, codes[-len(asked_rows) :] if len(asked_rows) else codes[:0])
        totals = self._totals[group].before(
            distinct, occurrences, past.timestamps, past.labels, queries, asked.timestamps, start
        )
        return totals if group in _SINGLE else _pooled(totals, asked_rows, len(asked.timestamps))

    def _one_day(self, *batches: _CountBatch) -> Day:
        stamps = np.concatenate([batch.timestamps for batch in batches])
        first, last = day_of(stamps.min()), day_of(stamps.max())
        if first != last:
            raise SchemaError(f"rows from {first} to {last} given; counts take one day at a time")
        self._require_new(first)
        return first

    def _require_new(self, day: Day) -> None:
        if self.day is not None and day < self.day:
            raise SchemaError(
                f"{day} is in the state already, which is at the start of {self.day}; take an earlier state, or "
                "`add_late` events that came late"
            )


@dataclass(frozen=True, slots=True)
class _CountBatch:
    """A table as counting needs it: instants, per group the row and value of each key, and labels."""

    timestamps: Ints
    keys: dict[str, tuple[Ints, pa.Array]]
    labels: list[EventLabels]

    @classmethod
    def of(cls, table: pa.Table, multi: Iterable[str], labels: Sequence[str]) -> _CountBatch:
        rows = np.arange(table.num_rows)
        timestamps = as_micros(table["timestamp"], "timestamp")
        keys = {
            _ALL: (rows, pa.array(np.zeros(len(rows), np.int64))),
            "user_id": (rows, _ids(table, "user_id")),
            "item_id": (rows, _ids(table, "item_id")),
        }
        keys |= {_group(name): exploded(table[name]) for name in multi}
        return cls(timestamps, keys, [event_labels(table, label, timestamps) for label in labels])


def _group(multi: str) -> str:
    """The group of a multi-valued feature's values: its name, but that no feature is the group of all events.

    The other two of `_SINGLE` are columns of the events, and so no feature's name.
    """
    return multi if multi.strip(_ALL) else multi + _ALL


def _ids(table: pa.Table, name: str) -> pa.Array:
    if table[name].null_count:
        raise SchemaError(f"{name}: {table[name].null_count} nulls given; every row needs one")
    return flat(table[name])


def _pooled(totals: Ints, rows: Ints, size: int) -> Ints:
    """Sum the totals of each row's keys."""
    sums = np.zeros((len(totals) + 1, totals.shape[1]), np.int64)
    np.cumsum(totals, axis=0, out=sums[1:])
    bounds = np.searchsorted(rows, np.arange(size + 1))
    pooled: Ints = sums[bounds[1:]] - sums[bounds[:-1]]
    return pooled


def _write(totals: Ints, priors: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """Features of one group: log1p(events), then per label the smoothed mean and log1p(known)."""
    known, positives = totals[:, 1::2], totals[:, 2::2]
    out[:, 0] = np.log1p(totals[:, 0])
    out[:, 1::2] = (positives + STRENGTH * priors) / (known + STRENGTH)
    out[:, 2::2] = np.log1p(known)


def _names(groups: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    per_label = [f"{label}_{what}" for label in labels for what in ("mean", "known")]
    return tuple(f"{group}_{name}" for group in groups for name in ("count", *per_label))
