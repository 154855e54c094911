"""The job of user statistics: what each user did in the last days, as it was known at the end of a day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from cachetools import LRUCache

from tokenlake.features.keys import Ints, factorize, flat
from tokenlake.features.label_maturity import Bools, event_labels
from tokenlake.lake.project import Project
from tokenlake.times import DAY_US, NEVER, Day, as_micros, available_at

STATISTICS = "statistics"
#: The metric that tells how many events a day's statistics were counted from, and over how many days.
COUNTED = "events"
_DEFAULT_WINDOW = 90
_KEPT_DAYS = 512


class EventSummaries:
    """Days of events with what statistics need of them; kept in memory, since a back-fill reads each many times."""

    def __init__(self, lake: Project) -> None:
        self._lake = lake
        self._kept: LRUCache[tuple[Day, int], pa.Table] = LRUCache(_KEPT_DAYS)

    def read(self, first: Day, last: Day) -> pa.Table:
        """Events of some days.

        Returns:
            `user_id`, `timestamp` (int64 us), and of each label `when_<label>` (int64 us, the instant after which it
            is seen; `NEVER` if never) and `positive_<label>`.
        """
        counts = self._lake.events.counts()
        days = [self._day(day, rows) for day, rows in sorted(counts.items()) if first <= day <= last and rows]
        return pa.concat_tables(days) if days else self._summary(self._lake.events.schema.empty_table())

    def _day(self, day: Day, rows: int) -> pa.Table:
        key = day, rows  # events are only ever added
        if key not in self._kept:
            labels = [column for name in self._labels for column in (name, f"{name}_known_at")]
            self._kept[key] = self._summary(self._lake.events.read(day=day, columns=["user_id", "timestamp", *labels]))
        return self._kept[key]

    def _summary(self, events: pa.Table) -> pa.Table:
        timestamps = np.array(as_micros(events["timestamp"], "timestamp"))
        columns = {"user_id": events["user_id"], "timestamp": pa.array(timestamps)}
        for name in self._labels:
            label_values = event_labels(events, name, timestamps)
            columns[f"when_{name}"] = pa.array(np.where(label_values.matures, label_values.known_from, NEVER))
            columns[f"positive_{name}"] = pa.array(label_values.positive)
        return pa.table(columns)

    @property
    def _labels(self) -> list[str]:
        return list(self._lake.config.events.labels)


def window_of(lake: Project) -> int:
    """Days that statistics look back: as far as the embeddings do."""
    return lake.config.embeddings.retention_days if lake.config.embeddings else _DEFAULT_WINDOW


def statistics_of(lake: Project, day: Day) -> tuple[pa.Table, int]:
    """Work out a day's statistics, of everyone who did something in the last days.

    Returns:
        Rows of `user_statistics`, and how many events they were counted from.
    """
    window, end = window_of(lake), available_at(day)
    events = lake.shared(EventSummaries).read(day - dt.timedelta(days=window - 1), day)
    codes, users = factorize(flat(events["user_id"]))
    timestamps, n = events["timestamp"].to_numpy(), len(users)
    last = np.zeros(n, np.int64)
    np.maximum.at(last, codes, timestamps)
    columns = {
        "user_id": users,
        "events": pa.array(np.bincount(codes, minlength=n)),
        "active_days": pa.array(_distinct_days(codes, timestamps, n)),
        "last_event_at": pa.array(last, pa.timestamp("us", "UTC")),
    }
    for name in lake.config.events.labels:
        # A query at the day's end sees what was known strictly before it.
        known: Bools = events[f"when_{name}"].to_numpy() < end
        positive = known & events[f"positive_{name}"].to_numpy()
        seen, counted = np.bincount(codes[known], minlength=n), np.bincount(codes[positive], minlength=n)
        columns[f"{name}_known"], columns[f"{name}_count"] = pa.array(seen), pa.array(counted)
        columns[f"{name}_rate"] = pa.array(counted / np.maximum(seen, 1), mask=seen == 0)
    columns["ds"] = pa.repeat(pa.scalar(day, pa.date32()), n)
    columns["available_at"] = pa.repeat(pa.scalar(end, pa.timestamp("us", "UTC")), n)
    return pa.table(columns), len(codes)


def stale_days(lake: Project, days: Iterable[Day]) -> list[Day]:
    """Those of the days whose statistics were never made, or were counted from other events than the lake now holds."""
    window, counts, there = window_of(lake), lake.events.counts(), set(lake.user_statistics.days())
    counted = {
        metric.day: metric.value
        for metric in lake.catalog.metrics(COUNTED, job=STATISTICS)
        if metric.labels.get("window") == str(window)
    }

    def events(day: Day) -> int:
        first = day - dt.timedelta(days=window - 1)
        return sum(rows for other, rows in counts.items() if first <= other <= day)

    return [day for day in days if counts.get(day) and (day not in there or counted.get(day) != events(day))]


def _distinct_days(codes: Ints, timestamps: Ints, n: int) -> Ints:
    if not n:
        return codes
    days = timestamps // DAY_US
    first = int(days.min())
    span = int(days.max()) - first + 1
    return np.bincount(np.unique(codes * span + days - first) // span, minlength=n)
