"""What a ranker's queries read of the past, made batch by batch: earlier events, or stored tokens. Imports torch: to be imported late."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from tokenlake.config import RankerSequence
from tokenlake.features.activity import EventLog, Instants, take_ranges
from tokenlake.features.keys import Ints
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.times import DAY_US, EARLIEST, Day, day_start
from tokenlake.tokens.store import TokenStore
from tokenlake_models.ranking import StepBatch

#: Of a log that is this many times longer than what its queries read, the rows are sorted; else marked.
_SPARSE = 16


class StepSource(Protocol):
    """The steps of one sequence, for a fixed set of queries."""

    def batch(self, queries: Ints) -> StepBatch:
        """The steps of some queries, by their numbers (q,), oldest first in each."""


class EventSteps:
    """Earlier events as steps: strictly before each query's time, with the labels known by then.

    Args:
        log: events of all days that a step may come from.
        spec: which events, how many, and which of their features.
        labels: names of the ranker's labels, the columns of a step's label states; None for one that events don't have.
        features: the categorical features of a step.
        vocabulary: rows of the features' values.
        users: q ids, the user of each query.
        as_of: int64 (q,), microseconds, the time of each query.
    """

    def __init__(
        self,
        log: EventLog,
        spec: RankerSequence,
        labels: Sequence[str | None],
        features: Sequence[str],
        vocabulary: Vocabulary,
        users: pa.Array,
        as_of: Instants,
    ) -> None:
        self._histories = log.histories_of(spec.only)
        self._users, self._as_of = log.codes_of(users), as_of
        self._length, self._reach = spec.length, spec.reach
        self._timestamps = log.timestamps
        self._read = self._rows_read(len(log))
        self._rows = {name: vocabulary.lookup(name, log.take(name, self._read)) for name in features}
        self._labels = [None if name is None else log.label(name) for name in labels]

    def _rows_read(self, total: int) -> Ints:
        """The rows of the log that any of the queries reads, ascending: only their features are looked up."""
        start, end = self._histories.spans(self._users, self._as_of, self._length, self._reach)
        if (end - start).sum() < total // _SPARSE:
            return np.unique(take_ranges(self._histories.rows, start, end)[0])
        opened = np.bincount(start, minlength=total + 1) - np.bincount(end, minlength=total + 1)
        return np.sort(self._histories.rows[np.flatnonzero(np.cumsum(opened)[: len(self._histories.rows)] > 0)])

    def batch(self, queries: Ints) -> StepBatch:
        """As `StepSource.batch`."""
        as_of = self._as_of[queries]
        rows, offsets = self._histories.before(self._users[queries], as_of, self._length, self._reach)
        now = np.repeat(as_of, np.diff(offsets))
        states = [
            np.zeros(len(rows), np.int64)
            if label is None
            else np.where(label.known_from[rows] < now, 1 + label.positive[rows], 0)
            for label in self._labels
        ]
        place = np.searchsorted(self._read, rows)
        return StepBatch(
            timestamps=torch.from_numpy(self._timestamps[rows]),
            labels=torch.from_numpy(_columns(states, len(rows))),
            offsets=torch.from_numpy(offsets),
            categorical={name: torch.from_numpy(codes[place]) for name, codes in self._rows.items()},
            tokens=None,
        )


class TokenSteps:
    """Stored tokens as steps: strictly before each query's time, with the labels known by then.

    Args:
        store: the tokens of one version.
        length: most tokens of a query.
        labels: names of the ranker's labels, the columns of a step's label states; None for one that events don't have.
        users: q ids, the user of each query.
        as_of: int64 (q,), microseconds, the time of each query.
        unread: days whose queries read nothing: those of the tokens' bootstrap chunk, on whose labels their encoder was
            trained.
    """

    def __init__(
        self,
        store: TokenStore,
        length: int,
        labels: Sequence[str | None],
        users: pa.Array,
        as_of: Instants,
        unread: Collection[Day],
    ) -> None:
        self._store, self._length, self._labels, self._users = store, length, labels, users
        days = [day_start(day) // DAY_US for day in unread]
        self._before = np.where(np.isin(as_of // DAY_US, days), EARLIEST, as_of)

    def batch(self, queries: Ints) -> StepBatch:
        """As `StepSource.batch`."""
        found = self._store.fetch(
            self._users.take(pa.array(queries)), before=self._before[queries], length=self._length
        )
        states = [
            np.where(found.known[name], 1 + (found.side[name] > 0), 0)
            if name in found.known
            else np.zeros(len(found.timestamps), np.int64)
            for name in self._labels
        ]
        return StepBatch(
            timestamps=torch.from_numpy(found.timestamps),
            labels=torch.from_numpy(_columns(states, len(found.timestamps))),
            offsets=torch.from_numpy(found.offsets),
            categorical={},
            tokens=torch.from_numpy(found.floats()),
        )


def _columns(states: Sequence[NDArray[np.int64]], count: int) -> Ints:
    return np.stack(states, axis=1) if states else np.zeros((count, 0), np.int64)
