"""The point-in-time join: for each query (key, time) the newest row of that key that is visible to it.

Queries are sorted, rows are not. Each row is assigned to the first query that can see it; all later queries of the same
key can see it too. So the rows are streamed once, in any order, and their number is not limited.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenlake.storage.native import address, load
from tokenlake.times import EARLIEST

Ints = NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max


class _Struct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "times", "best_time", "best_created", "best_row")),
        *((name, ctypes.c_int32) for name in ("strict", "known")),
    )


@cache
def native_library() -> ctypes.CDLL | None:
    """The compiled loops of asof.c; None where there is no compiler: NumPy does the work then."""
    library = load(Path(__file__).with_name("asof.c"))
    if library is not None:
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        library.tl_asof_feed.argtypes = [pointer, size, pointer, pointer, pointer, size]
        library.tl_asof_feed.restype = None
        library.tl_asof_finish.argtypes = [pointer, size]
        library.tl_asof_finish.restype = None
    return library


def _order(codes: NDArray[np.int32], times: Ints) -> Ints:
    """The sort order by (code, time): two sorts of integers, which are faster than `lexsort`."""
    rank = np.empty(len(times), np.int64)
    rank[np.argsort(times)] = np.arange(len(times))
    return np.argsort(codes * np.int64(len(times)) + rank)


class AsOf:
    """The state of one join.

    Args:
        codes: (n,) int32 keys of the queries, 0 to `keys` - 1; -1: no row can match.
        times: (n,) int64 nanoseconds of the queries; `EARLIEST` matches no row.
        keys: number of keys.
        strict: a row at the query's own time is not visible.
        known: a row is not visible before its created time either, and never if that is missing.
    """

    def __init__(
        self, codes: NDArray[np.int32], times: Ints, keys: int, *, strict: bool = False, known: bool = False
    ) -> None:
        asked = np.flatnonzero((codes >= 0) & (times != EARLIEST))
        self._order = asked[_order(codes[asked], times[asked])]
        self._count = len(codes)
        self._codes = codes[self._order]
        self._times = np.ascontiguousarray(times[self._order])
        self._starts = np.searchsorted(self._codes, np.arange(keys + 1)).astype(np.int64)
        self._strict, self._known = strict, known
        n = len(self._order)
        self._best_time, self._best_created = np.full(n, EARLIEST), np.full(n, EARLIEST)
        self._best_row = np.full(n, -1, np.int64)
        self._guard = threading.Lock()

    def feed(self, codes: NDArray[np.int32], times: Ints, created: Ints | None, first: int) -> None:
        """Add rows; may be called from any thread.

        Args:
            codes: (n,) int32 keys; -1: the key of no query.
            times: (n,) int64 nanoseconds; a row at `EARLIEST` is never visible.
            created: (n,) int64 nanoseconds. Of rows with equal times the one created last wins, and a missing created
                time loses; of rows that are equal in both, the one with the larger number wins.
            first: number of the first row.
        """
        with self._guard:
            library = native_library()
            if library is None:
                self._feed_slowly(codes, times, created, first)
                return
            codes, times = np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(times, np.int64)
            created = None if created is None else np.ascontiguousarray(created, np.int64)
            place = None if created is None else address(created)
            library.tl_asof_feed(ctypes.byref(self._struct()), len(codes), address(codes), address(times), place, first)

    def finish(self, ttl: int | None = None) -> Ints:
        """The (n,) numbers of the rows that the queries see, -1 for none.

        Args:
            ttl: nanoseconds; a row that is older than that at the query's time is not visible.
        """
        library = native_library()
        if library is None:
            self._finish_slowly()
        else:
            library.tl_asof_finish(ctypes.byref(self._struct()), len(self._starts) - 1)
        rows = self._best_row
        if ttl is not None:
            oldest = np.where(self._times >= EARLIEST + ttl, self._times - ttl, EARLIEST)
            rows = np.where(self._best_time >= oldest, rows, -1)
        found = np.full(self._count, -1, np.int64)
        found[self._order] = rows
        return found

    def _struct(self) -> _Struct:
        arrays = (self._starts, self._times, self._best_time, self._best_created, self._best_row)
        return _Struct(*map(address, arrays), int(self._strict), int(self._known))

    def _feed_slowly(self, codes: NDArray[np.int32], times: Ints, created: Ints | None, first: int) -> None:
        made = np.zeros(len(codes), np.int64) if created is None else created
        since = np.maximum(times, made) if self._known and created is not None else times
        usable = (codes >= 0) & (times != EARLIEST)
        if self._known and created is not None:
            usable &= made != EARLIEST
        local = np.flatnonzero(usable)
        instants = np.unique(self._times)
        wide = len(instants) + 1
        asked = self._codes * np.int64(wide) + np.searchsorted(instants, self._times)
        rank = np.searchsorted(instants, since[local], "right" if self._strict else "left")
        place = np.searchsorted(asked, codes[local] * np.int64(wide) + rank)
        inside = place < self._starts[codes[local] + 1]
        local, place = local[inside], place[inside]
        self._keep(place, times[local], made[local], first + local)

    def _keep(self, place: Ints, times: Ints, made: Ints, rows: Ints) -> None:
        """Store for each place the newest of these rows and the row stored so far."""
        held = np.flatnonzero(self._best_row >= 0)
        place, times = np.concatenate([held, place]), np.concatenate([self._best_time[held], times])
        made, rows = np.concatenate([self._best_created[held], made]), np.concatenate([self._best_row[held], rows])
        order = np.lexsort((rows, made, times, place))
        last = order[np.flatnonzero(np.append(place[order][1:] != place[order][:-1], True))] if len(order) else order
        self._best_time[place[last]] = times[last]
        self._best_created[place[last]] = made[last]
        self._best_row[place[last]] = rows[last]

    def _finish_slowly(self) -> None:
        rank = np.empty(len(self._order), np.int64)
        order = np.lexsort((self._best_row, self._best_created, self._best_time, self._best_row >= 0))
        rank[order] = np.arange(len(order))
        top = np.maximum.accumulate(self._codes * np.int64(len(order)) + rank) - self._codes * np.int64(len(order))
        source = order[top] if len(order) else order
        self._best_time, self._best_created = self._best_time[source], self._best_created[source]
        self._best_row = self._best_row[source]
