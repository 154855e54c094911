"""What candidates are measured against: what is popular, and item-kNN on the same users, times and rules."""

from __future__ import annotations

import datetime as dt

import numpy as np
from numpy.typing import NDArray

from tokenlake.config import Retrieval
from tokenlake.pipeline.activity import taken
from tokenlake.pipeline.keys import Ints
from tokenlake.retrieval.pools import Pools, best
from tokenlake.times import Day, day_of, day_start

#: Positives of a user that item-kNN starts from, the latest.
_PROFILE = 50
#: Similar items kept of each.
_SIMILAR = 200


def popular(pools: Pools, settings: Retrieval, user: int, now: int, span: dt.timedelta | None, k: int) -> Ints:
    """The items with most positives before the day, over a span or all time."""
    counts = pools.popularity(day_of(now), span)
    return best(np.zeros(len(counts)), counts, _excluded(pools, settings, user, now), k)


class ItemKnn:
    """Item-kNN: cosines of items by the users who were positive on both, as of the start of a day.

    Args:
        pools: positives by user and time.
        settings: the rules that the candidates obey: window, half-life, what was seen.
    """

    def __init__(self, pools: Pools, settings: Retrieval) -> None:
        self._pools, self._settings = pools, settings
        self._day: Day | None = None

    def candidates(self, user: int, now: int, k: int) -> Ints:
        """Codes of the k best items for a user at a time, filled up by popularity."""
        day = day_of(now)
        if day != self._day:
            self._start(day)
        items, decay, _ = self._pools.votes(np.array([user]), now)
        scores = np.zeros(len(self._pools.ids))
        for item, weight in zip(items[-_PROFILE:].tolist(), decay[-_PROFILE:].tolist(), strict=True):
            similar, cosines = self._similar(item)
            scores[similar] += weight * cosines
        return best(scores, self._pools.popularity(day), _excluded(self._pools, self._settings, user, now), k)

    def _start(self, day: Day) -> None:
        """Lay out who was positive on what before the day, once a user and item."""
        pools, end = self._pools, day_start(day)
        fresh = pools.positives.when < end
        if self._settings.window is not None:
            fresh &= pools.positives.when >= end - self._settings.window // dt.timedelta(microseconds=1)
        rows = pools.positives.rows[fresh]
        pairs = np.unique(np.column_stack([pools.log.codes[rows], pools.items[rows]]), axis=0)
        users, items = pairs[:, 0], pairs[:, 1]
        self._items_of = items, np.searchsorted(users, np.arange(len(pools.log.users) + 1))
        by_item = np.argsort(items, kind="stable")
        self._users_of = users[by_item], np.searchsorted(items[by_item], np.arange(len(pools.ids) + 1))
        self._norm = np.sqrt(np.maximum(np.diff(self._users_of[1]), 1))
        self._kept: dict[int, tuple[Ints, NDArray[np.float64]]] = {}
        self._day = day

    def _similar(self, item: int) -> tuple[Ints, NDArray[np.float64]]:
        if item not in self._kept:
            users, begins = self._users_of
            who = users[begins[item] : begins[item + 1]]
            items, starts = self._items_of
            together = np.bincount(taken(items, starts[who], starts[who + 1])[0], minlength=len(self._norm))
            found = np.flatnonzero(together)
            cosines = together[found] / (self._norm[item] * self._norm[found])
            top = np.lexsort((found, -cosines))[:_SIMILAR]
            self._kept[item] = found[top], cosines[top]
        return self._kept[item]


def _excluded(pools: Pools, settings: Retrieval, user: int, now: int) -> Ints:
    return pools.seen(user, now) if settings.exclude_seen else np.zeros(0, np.int64)
