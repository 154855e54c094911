"""Totals of one kind of key (users, items, tags): exact integers, up to the start of a day and within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tokenlake.features.keys import Ints, KeyIndex
from tokenlake.features.label_maturity import EventLabels, KeyLabels, PendingLabels
from tokenlake.storage.arrays import as_ints
from tokenlake.times import DAY_US

#: Instants of a day and, as number 0, all that came before it.
_SPAN = DAY_US + 1


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Which keys occur in which rows: a user once a row, tags any number of times.

    Attributes:
        rows: int64 (m,), ascending.
        codes: int64 (m,), positions in the batch's distinct keys.
    """

    rows: Ints
    codes: Ints

    def labels(self, outcome: EventLabels) -> KeyLabels:
        """One label of the rows, as labels of their keys."""
        known = outcome.known[self.rows]
        rows = self.rows[known]
        return KeyLabels(self.codes[known], outcome.when[rows], outcome.positive[rows])


class RunningTotals:
    """Running totals of one kind of key, and the labels that will be added when they mature.

    A row of totals holds `[events, known 0, positives 0, known 1, ...]`: two columns per label after the first.
    """

    def __init__(self, labels: int) -> None:
        self.keys = KeyIndex()
        self._totals = np.zeros((0, 1 + 2 * labels), np.int64)
        self._backlogs = [PendingLabels() for _ in range(labels)]

    def add(self, distinct: pa.Array, occurrences: Occurrences, outcomes: Sequence[EventLabels], until: int) -> None:
        """Add events, and let the labels mature whose instant is before `until`."""
        codes = self.keys.add(distinct)
        self._reserve(len(self.keys))
        if len(codes):
            self._totals[codes, 0] += np.bincount(occurrences.codes, minlength=len(codes))
        for label, (outcome, backlog) in enumerate(zip(outcomes, self._backlogs, strict=True)):
            fresh = occurrences.labels(outcome)
            fresh = KeyLabels(codes[fresh.codes], fresh.when, fresh.positive)
            early = fresh.when < until
            backlog.add(fresh.take(~early))
            for mature in (fresh.take(early), backlog.pop(until)):
                np.add.at(self._totals[:, 1 + 2 * label], mature.codes, 1)
                np.add.at(self._totals[:, 2 + 2 * label], mature.codes[mature.positive], 1)

    def before(
        self,
        distinct: pa.Array,
        occurrences: Occurrences,
        timestamps: Ints,
        outcomes: Sequence[EventLabels],
        queries: Occurrences,
        at: Ints,
        day_start: int,
    ) -> Ints:
        """Totals strictly before each query's instant: this state's, plus those of the day's other events.

        Args:
            distinct: the keys that codes stand for.
            occurrences: of the day's events.
            timestamps: int64 (events,), us.
            outcomes: labels of the day's events.
            queries: occurrences in the queries, (m,).
            at: int64 (queries,), their instants, all on the day.
            day_start: its first instant.

        Returns:
            int64 (m, columns).
        """
        known = self.keys.find(distinct)
        totals = np.zeros((len(distinct), self._totals.shape[1]), np.int64)
        totals[known >= 0] = self._totals[known[known >= 0]]
        out: Ints = totals[queries.codes]
        asked = _DayQueries.of(queries.codes, at[queries.rows], len(distinct), day_start)
        out[:, 0] += asked.count(occurrences.codes, timestamps[occurrences.rows])
        for label, (outcome, backlog) in enumerate(zip(outcomes, self._backlogs, strict=True)):
            end = day_start + DAY_US
            fresh = occurrences.labels(outcome)
            seen = KeyLabels.concat([_of_batch(backlog.until(end), known), fresh.take(fresh.when < end)])
            out[:, 1 + 2 * label] += asked.count(seen.codes, seen.when)
            out[:, 2 + 2 * label] += asked.count(seen.codes[seen.positive], seen.when[seen.positive])
        return out

    def copy(self) -> RunningTotals:
        """The same, to be changed on its own."""
        tally = RunningTotals(0)
        tally.keys = self.keys.copy()
        tally._totals = self._totals.copy()
        tally._backlogs = [backlog.copy() for backlog in self._backlogs]
        return tally

    def to_arrays(self) -> dict[str, pa.Array]:
        """Everything, to be saved."""
        arrays = {"keys": self.keys.values(), "totals": pa.array(self._totals[: len(self.keys)].ravel())}
        for label, backlog in enumerate(self._backlogs):
            pending = backlog.all()
            arrays[f"codes_{label}"] = pa.array(pending.codes)
            arrays[f"when_{label}"] = pa.array(pending.when)
            arrays[f"positive_{label}"] = pa.array(pending.positive)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, pa.Array], labels: int) -> RunningTotals:
        """Undo `to_arrays`."""
        tally = cls(labels)
        tally.keys = KeyIndex(arrays["keys"])
        tally._totals = as_ints(arrays["totals"]).reshape(-1, 1 + 2 * labels)
        for label, backlog in enumerate(tally._backlogs):
            positive = arrays[f"positive_{label}"].to_numpy(zero_copy_only=False)
            backlog.add(KeyLabels(as_ints(arrays[f"codes_{label}"]), as_ints(arrays[f"when_{label}"]), positive))
        return tally

    def _reserve(self, size: int) -> None:
        if size > len(self._totals):
            grown = np.zeros((max(size, 2 * len(self._totals)), self._totals.shape[1]), np.int64)
            grown[: len(self._totals)] = self._totals
            self._totals = grown


@dataclass(frozen=True, slots=True)
class _DayQueries:
    """The queries of a batch, by key and instant: sorted needles are found several times faster.

    Key and instant are one number, `code * _SPAN + instant of the day`: sorted, a key's instants lie together.
    """

    codes: Ints
    order: Ints
    needles: Ints
    firsts: Ints
    day_start: int

    @classmethod
    def of(cls, codes: Ints, at: Ints, keys: int, day_start: int) -> _DayQueries:
        places = _places(codes, at, day_start)
        order = np.argsort(places)
        return cls(codes, order, places[order], np.arange(keys, dtype=np.int64) * _SPAN, day_start)

    def count(self, codes: Ints, when: Ints) -> Ints:
        """For each query, how many of these instants are of its key and strictly before it."""
        places = np.sort(_places(codes, when, self.day_start))
        reached = np.empty_like(self.order)
        reached[self.order] = np.searchsorted(places, self.needles)
        counted: Ints = reached - np.searchsorted(places, self.firsts)[self.codes]
        return counted


def _places(codes: Ints, when: Ints, day_start: int) -> Ints:
    return codes * _SPAN + np.clip(when - day_start + 1, 0, DAY_US)


def _of_batch(labels: KeyLabels, known: Ints) -> KeyLabels:
    """The labels of a batch's keys only, by the batch's codes; `known` are the tally's codes of the batch's keys."""
    if not len(labels.codes) or not len(known):
        return KeyLabels.concat([])
    order = np.argsort(known)
    place = order[np.searchsorted(known, labels.codes, sorter=order).clip(max=len(known) - 1)]
    return KeyLabels(place, labels.when, labels.positive).take(known[place] == labels.codes)
