"""What users are known to have done by a time: the pools that candidates are drawn from, and what they overlap in."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.features.activity import EventDayCache, EventLog, Histories, Selection, take_ranges
from tokenlake.features.encoding_cache import block_start
from tokenlake.features.keys import Ints
from tokenlake.features.user_inputs import positions_of
from tokenlake.lake.project import Project
from tokenlake.times import Day, day_start

#: Span of the popularity that fills up candidates.
POPULAR = dt.timedelta(days=28)
_LONG_AGO = dt.timedelta(days=365)


class ItemPools:
    """Positives and all events of a lake up to a day, by user and time.

    Args:
        lake: that holds the events.
        last: the last day that is read.
        first: the first day that is asked about, where everything before may be left out that no question about it or
            a later one can reach: with a `window`, and where what was seen long ago may come again.

    Attributes:
        log: events up to and with the last day.
        ids: item ids in order; an item's code is its place.
        items: int64 (n,), item code of each row of the log.
    """

    def __init__(self, lake: Project, last: Day, first: Day | None = None) -> None:
        self._config = lake.config
        self.log: EventLog = lake.shared(EventDayCache).read(self._needed(lake, last, first), last, None)
        items = self.log.column("item_id")
        ids = pc.unique(items)
        self.ids: pa.Array = ids.take(pc.array_sort_indices(ids))
        self.items = positions_of(items, self.ids)
        self.positives = Histories(self.log, self.log.positives)
        self.everything = Histories(self.log, Selection(np.arange(len(self.log)), self.log.timestamps))
        self._popular: dict[tuple[Day, dt.timedelta | None], Popularity] = {}

    @staticmethod
    def _needed(lake: Project, last: Day, first: Day | None) -> Day:
        settings = lake.config.retrieval
        if first is None or settings.window is None or settings.exclude_seen:
            return Day.min
        reach = max(dt.timedelta(days=lake.config.require_embeddings().retention_days), settings.window, POPULAR)
        return block_start(min(first, last) - reach - dt.timedelta(days=1))

    @cached_property
    def _in_time(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.log.positives.when, kind="stable")
        return self.log.positives.when[order], self.items[self.log.positives.rows[order]]

    def votes(self, users: Ints, as_of: Ints) -> tuple[Ints, NDArray[np.float64], Ints]:
        """Positives of users, each before its query time, within the window: item codes, decay, and offsets of the users."""
        window, half = self._config.retrieval.window, self._config.retrieval.half_life
        start, end = self.positives.spans(users, as_of, reach=window)
        rows, offsets = take_ranges(np.arange(len(self.positives.rows)), start, end)
        decay = np.ones(len(rows))
        if half is not None:
            age = np.repeat(as_of, np.diff(offsets)) - self.positives.when[rows]
            decay = 0.5 ** (age / (half / dt.timedelta(microseconds=1)))
        return self.items[self.positives.rows[rows]], decay, offsets

    def seen(self, users: Ints, as_of: Ints) -> tuple[Ints, Ints]:
        """Codes of the items that users met at all, each before its query time, and offsets; an item may come twice."""
        rows, offsets = take_ranges(self.everything.rows, *self.everything.spans(users, as_of))
        return self.items[rows], offsets

    def last_seen(self, users: Ints, as_of: Ints) -> Ints:
        """Instant of each user's last event before `as_of`; a year before it where there is none."""
        start, end = self.everything.spans(users, as_of)
        when = np.append(self.everything.when, 0)
        return np.where(end > start, when[end - 1], as_of - _LONG_AGO // dt.timedelta(microseconds=1))

    def popularity(self, day: Day, span: dt.timedelta | None = POPULAR) -> Popularity:
        """Positives of each item before a day's start, in a span or in all."""
        key = day, span
        if key not in self._popular:
            when, items = self._in_time
            end = day_start(day)
            since = None if span is None else end - span // dt.timedelta(microseconds=1)
            first = 0 if since is None else int(np.searchsorted(when, since))
            part = items[first : int(np.searchsorted(when, end))]
            self._popular[key] = Popularity.of(np.bincount(part, minlength=len(self.ids)))
        return self._popular[key]


@dataclass(frozen=True)
class Popularity:
    """How popular items are, by code.

    Attributes:
        counts: int64 (n,).
        order: codes by count, the largest first, then by code.
        place: where each code stands in it.
    """

    counts: Ints
    order: Ints
    place: Ints

    @classmethod
    def of(cls, counts: Ints) -> Popularity:
        """Sort items by their counts."""
        order = np.lexsort((np.arange(len(counts)), -counts))
        place = np.empty(len(counts), np.int64)
        place[order] = np.arange(len(counts))
        return cls(counts, order, place)


def best(scores: NDArray[np.float64], popular: Popularity, k: int) -> Ints:
    """The k best items: by score, then popularity, then code; only such as have either. A negative score leaves out."""
    chosen = np.flatnonzero(scores > 0)
    if len(chosen) > k:
        least = np.partition(scores[chosen], len(chosen) - k)[len(chosen) - k]
        chosen = chosen[scores[chosen] >= least]
    chosen = chosen[np.lexsort((popular.place[chosen], -scores[chosen]))[:k]]
    if len(chosen) < k:
        rest = popular.order[: np.count_nonzero(popular.counts)]
        chosen = np.concatenate([chosen, rest[scores[rest] == 0][: k - len(chosen)]])
    return chosen


def ranks(scores: NDArray[np.float64], popular: Popularity, rows: Ints, items: Ints) -> Ints:
    """Places from 0 that `best` gives items, without sorting anything: int64 (n,); -1 for one that has neither.

    Args:
        scores: (q, n_items).
        popular: of the same items.
        rows: int64 (n,), the row of scores that each is asked for in.
        items: int64 (n,), codes.
    """
    out = np.full(len(rows), -1, np.int64)
    by_row = np.argsort(rows, kind="stable")
    for asked in np.split(by_row, np.flatnonzero(np.diff(rows[by_row])) + 1):
        if len(asked):
            _rank(scores[rows[asked[0]]], popular, asked, items, out)
    return out


def _rank(scores: NDArray[np.float64], popular: Popularity, asked: Ints, items: Ints, out: Ints) -> None:
    """Fill in the places of one row's items; only those with a score are compared, which are few."""
    listed = np.flatnonzero(scores)
    theirs, places = scores[listed], popular.place[listed]
    scored = int(np.count_nonzero(theirs > 0))
    for i in asked.tolist():
        item = items[i]
        mine, place = scores[item], popular.place[item]
        if mine > 0:
            out[i] = np.count_nonzero((theirs > mine) | ((theirs == mine) & (places < place)))
        elif mine == 0 and popular.counts[item] > 0:
            out[i] = scored + place - np.count_nonzero(places < place)
