"""Baselines of candidates: item-kNN on the same users, times and rules, and the user's own past."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
from numpy.typing import NDArray

from tokenlake.config import Retrieval
from tokenlake.features.activity import take_ranges
from tokenlake.features.keys import Ints
from tokenlake.retrieval.pools import ItemPools
from tokenlake.times import Day, day_start

#: Number of a user's latest positives that item-kNN starts from.
_PROFILE = 50
#: Number of similar items kept for each item.
_SIMILAR = 200


class ItemKnn:
    """Item-kNN: cosines between items by their common positive users, as of the start of a day.

    Args:
        pools: positives by user and time.
        settings: the rules of the candidates: window, half-life, exclusion of seen items.
    """

    def __init__(self, pools: ItemPools, settings: Retrieval) -> None:
        self._pools, self._settings = pools, settings
        self._day: Day | None = None

    def scores(self, users: Ints, now: Ints, day: Day) -> NDArray[np.float64]:
        """Score every item for users at query times of one day: (q, items)."""
        if day != self._day:
            self._start(day)
        out = np.zeros((len(users), len(self._pools.ids)))
        items, decay, offsets = self._pools.votes(users, now)
        for row, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
            latest = slice(max(begin, end - _PROFILE), end)
            for item, weight in zip(items[latest].tolist(), decay[latest].tolist(), strict=True):
                similar, cosines = self._similar(item)
                out[row, similar] += weight * cosines
        return out

    def _start(self, day: Day) -> None:
        """Compute the distinct (user, item) positives before the day."""
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
            together = np.bincount(take_ranges(items, starts[who], starts[who + 1])[0], minlength=len(self._norm))
            found = np.flatnonzero(together)
            cosines = together[found] / (self._norm[item] * self._norm[found])
            if len(found) > _SIMILAR:
                near = cosines >= np.partition(cosines, len(found) - _SIMILAR)[len(found) - _SIMILAR]
                found, cosines = found[near], cosines[near]
            top = np.lexsort((found, -cosines))[:_SIMILAR]
            self._kept[item] = found[top], cosines[top]
        return self._kept[item]


def own_past(pools: ItemPools, users: Ints, now: Ints) -> NDArray[np.float64]:
    """Scores of users' own earlier positives with the rules' decay: (q, items). A control for items bought repeatedly."""
    items, decay, offsets = pools.votes(users, now)
    cells = np.repeat(np.arange(len(users)), np.diff(offsets)) * len(pools.ids) + items
    flat = np.bincount(cells, weights=decay, minlength=len(users) * len(pools.ids))
    return np.asarray(flat, np.float64).reshape(len(users), len(pools.ids))
