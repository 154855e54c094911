"""The features that users and items had last before an instant: what is known of a candidate that has no event yet."""

from __future__ import annotations

from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.features.activity import EventLog, Instants
from tokenlake.features.keys import Ints, factorize, flat


class Profiles:
    """Finds the last event of a user or item before an instant; its features `of: user` or `of: item` are the profile.

    Args:
        log: the events.
        of: whose profiles.
    """

    def __init__(self, log: EventLog, of: Literal["user", "item"]) -> None:
        codes, self._ids = factorize(flat(log.column(f"{of}_id")))
        self._instants = np.unique(log.timestamps)
        key = self._keys(codes, log.timestamps)
        self._rows = np.argsort(key, kind="stable")
        self._key, self._codes = key[self._rows], codes[self._rows]

    def rows_before(self, ids: pa.Array, at: Instants) -> Ints:
        """Rows of the log (n,), -1 where there is none: the last event of each id strictly before its instant."""
        codes = np.asarray(pc.index_in(ids, value_set=self._ids).fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
        place = np.searchsorted(self._key, self._keys(codes, at)) - 1
        if not len(self._rows):
            return np.full(len(codes), -1)
        return np.where((place >= 0) & (codes >= 0) & (self._codes[place] == codes), self._rows[place], -1)

    def _keys(self, codes: Ints, at: Instants) -> Ints:
        """One number for an id and an instant, ascending in both."""
        return codes * (len(self._instants) + 1) + np.searchsorted(self._instants, at)


class ProfileCache:
    """The profiles of logs, made once for each log that is still in use."""

    def __init__(self, _lake: object = None) -> None:
        self._made: WeakKeyDictionary[EventLog, dict[str, Profiles]] = WeakKeyDictionary()

    def of(self, log: EventLog, of: Literal["user", "item"]) -> Profiles:
        """The profiles of the users or items of a log."""
        made = self._made.setdefault(log, {})
        if of not in made:
            made[of] = Profiles(log, of)
        return made[of]
