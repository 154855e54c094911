"""Item pools: the known positives and events of users before a query time, from which candidates are drawn."""

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

#: Time span of the popularity that fills up candidates.
POPULAR = dt.timedelta(days=28)
_LONG_AGO = dt.timedelta(days=365)


class ItemPools:
    """Positives and all events of a lake up to a day, by user and time.

    Args:
        lake: the lake with the events.
        last: the last day that is read.
        first: the first day with queries. If the config has a `window` and does not exclude seen items, earlier events
            that no such query can reach are not read.

    Attributes:
        log: events up to and with the last day.
        ids: sorted item ids; an item's code is its position.
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
        """Positives of users within the window before their query times: item codes, decay weights, offsets of the users."""
        window, half = self._config.retrieval.window, self._config.retrieval.half_life
        start, end = self.positives.spans(users, as_of, reach=window)
        rows, offsets = take_ranges(np.arange(len(self.positives.rows)), start, end)
        decay = np.ones(len(rows))
        if half is not None:
            age = np.repeat(as_of, np.diff(offsets)) - self.positives.when[rows]
            decay = 0.5 ** (age / (half / dt.timedelta(microseconds=1)))
        return self.items[self.positives.rows[rows]], decay, offsets

    def seen(self, users: Ints, as_of: Ints) -> tuple[Ints, Ints]:
        """Codes of all items in users' events before their query times, and offsets; an item may occur twice."""
        rows, offsets = take_ranges(self.everything.rows, *self.everything.spans(users, as_of))
        return self.items[rows], offsets

    def last_seen(self, users: Ints, as_of: Ints) -> Ints:
        """Time of each user's last event before `as_of`; one year before `as_of` if there is none."""
        start, end = self.everything.spans(users, as_of)
        when = np.append(self.everything.when, 0)
        return np.where(end > start, when[end - 1], as_of - _LONG_AGO // dt.timedelta(microseconds=1))

    def popularity(self, day: Day, span: dt.timedelta | None = POPULAR) -> Popularity:
        """Number of positives of each item before a day's start, within `span` or in all."""
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
    """Popularity of items, by code.

    Attributes:
        counts: int64 (n,).
        order: codes in descending order of count, then by code.
        place: position of each code in `order`.
    """

    counts: Ints
    order: Ints
    place: Ints

    @classmethod
    def of(cls, counts: Ints) -> Popularity:
        """Compute the order from the items' counts."""
        order = np.lexsort((np.arange(len(counts)), -counts))
        place = np.empty(len(counts), np.int64)
        place[order] = np.arange(len(counts))
        return cls(counts, order, place)


def best(scores: NDArray[np.float64], popular: Popularity, k: int) -> Ints:
    """The k best items by score, then popularity, then code. Items without either, or with a negative score, are left out."""
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
    """Ranks from 0 of items in the result of `best`, without sorting: int64 (n,); -1 for an item that `best` leaves out.

    Args:
        scores: (q, n_items).
        popular: popularity of the same items.
        rows: int64 (n,), the row of `scores` for each item.
        items: int64 (n,), item codes.
    """
    out = np.full(len(rows), -1, np.int64)
    by_row = np.argsort(rows, kind="stable")
    for asked in np.split(by_row, np.flatnonzero(np.diff(rows[by_row])) + 1):
        if len(asked):
            _rank(scores[rows[asked[0]]], popular, asked, items, out)
    return out


def _rank(scores: NDArray[np.float64], popular: Popularity, asked: Ints, items: Ints, out: Ints) -> None:
    """Write the ranks of one row's items into `out`; compares only the items with a score, which are few."""
    listed = np.flatnonzero(scores)
    others, places = scores[listed], popular.place[listed]
    scored = int(np.count_nonzero(others > 0))
    for i in asked.tolist():
        item = items[i]
        score, place = scores[item], popular.place[item]
        if score > 0:
            out[i] = np.count_nonzero((others > score) | ((others == score) & (places < place)))
        elif score == 0 and popular.counts[item] > 0:
            out[i] = scored + place - np.count_nonzero(places < place)
