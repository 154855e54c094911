"""What users are known to have done by a time: the pools that candidates are drawn from, and what they overlap in."""

from __future__ import annotations

import datetime as dt
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.lake.lake import Lake
from tokenlake.pipeline.activity import Chosen, Histories, Log, taken
from tokenlake.pipeline.keys import Ints
from tokenlake.pipeline.user_features import places
from tokenlake.times import Day, day_start

#: Span of the popularity that fills up candidates.
POPULAR = dt.timedelta(days=28)


class Pools:
    """Positives and all events of a lake up to a day, by user and time.

    Attributes:
        log: every event up to and with the last day.
        ids: item ids in order; an item's code is its place.
        items: int64 (n,), item code of each row of the log.
    """

    def __init__(self, lake: Lake, last: Day) -> None:
        self._config = lake.config
        self.log: Log = lake.activity.read(Day.min, last, None)
        items = self.log.column("item_id")
        ids = pc.unique(items)
        self.ids: pa.Array = ids.take(pc.array_sort_indices(ids))
        self.items = places(items, self.ids)
        self.positives = Histories(self.log, self.log.positives)
        self.everything = Histories(self.log, Chosen(np.arange(len(self.log)), self.log.timestamps))
        self._popular: dict[tuple[Day, dt.timedelta | None], NDArray[np.float64]] = {}

    @cached_property
    def _in_time(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.log.positives.when, kind="stable")
        return self.log.positives.when[order], self.items[self.log.positives.rows[order]]

    def votes(self, users: Ints, now: int) -> tuple[Ints, NDArray[np.float64], Ints]:
        """Positives of users before `now`, within the window: item codes, decay, and offsets of the users."""
        window, half = self._config.retrieval.window, self._config.retrieval.half_life
        start, end = self.positives.spans(users, np.full(len(users), now), reach=window)
        rows, offsets = taken(np.arange(len(self.positives.rows)), start, end)
        decay = np.ones(len(rows))
        if half is not None:
            decay = 0.5 ** ((now - self.positives.when[rows]) / (half / dt.timedelta(microseconds=1)))
        return self.items[self.positives.rows[rows]], decay, offsets

    def seen(self, user: int, now: int) -> Ints:
        """Codes of the items that a user met at all before `now`."""
        start, end = self.everything.spans(np.array([user]), np.array([now]))
        return np.unique(self.items[self.everything.rows[start[0] : end[0]]])

    def last_seen(self, users: Ints, now: Ints) -> Ints:
        """Instant of each user's last event before `now`; the start of the log where there is none."""
        start, end = self.everything.spans(users, now)
        first = self.log.timestamps.min() if len(self.log) else 0
        when = np.append(self.everything.when, first)
        return np.where(end > start, when[end - 1], first)

    def popularity(self, day: Day, span: dt.timedelta | None = POPULAR) -> NDArray[np.float64]:
        """Positives of each item before a day's start, in a span or in all."""
        key = day, span
        if key not in self._popular:
            when, items = self._in_time
            end = day_start(day)
            since = None if span is None else end - span // dt.timedelta(microseconds=1)
            first = 0 if since is None else int(np.searchsorted(when, since))
            part = items[first : int(np.searchsorted(when, end))]
            self._popular[key] = np.bincount(part, minlength=len(self.ids)).astype(float)
        return self._popular[key]


def best(scores: NDArray[np.float64], popular: NDArray[np.float64], excluded: Ints, k: int) -> Ints:
    """The k best items: by score, then popularity, then id; only such as have either."""
    scores, popular = scores.copy(), popular.copy()
    scores[excluded] = popular[excluded] = 0
    chosen = np.flatnonzero(scores > 0)
    if len(chosen) < k:
        chosen = np.flatnonzero((scores > 0) | (popular > 0))
    return chosen[np.lexsort((chosen, -popular[chosen], -scores[chosen]))[:k]]
