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

    def labels(self, label: EventLabels) -> KeyLabels:
        """One label of the rows, as labels of their keys."""
        known = label.matures[self.rows]
        rows = self.rows[known]
        return KeyLabels(self.codes[known], label.known_from[rows], label.positive[rows])


class RunningTotals:
    """Running totals of one kind of key, and the labels that will be added when they mature.

    A row of totals holds `[events, known 0, positives 0, known 1, ...]`: two columns per label after the first.
    """

    def __init__(self, labels: int) -> None:
        self.keys = KeyIndex()
        self._totals = np.zeros((0, 1 + 2 * labels), np.int64)
        self._pending = [PendingLabels() for _ in range(labels)]

    def add(self, distinct: pa.Array, occurrences: Occurrences, labels: Sequence[EventLabels], until: int) -> None:
        """Add events, and let the labels mature whose instant is before `until`."""
        codes = self.keys.add(distinct)
        self._reserve(len(self.keys))
        if len(codes):
            self._totals[codes, 0] += np.bincount(occurrences.codes, minlength=len(codes))
        for label, (outcome, pending_labels) in enumerate(zip(labels, self._pending, strict=True)):
            fresh = occurrences.labels(outcome)
            fresh = KeyLabels(codes[fresh.codes], fresh.known_from, fresh.positive)
            early = fresh.known_from < until
            pending_labels.add(fresh.take(~early))
            for mature in (fresh.take(early), pending_labels.pop_known_before(until)):
                np.add.at(self._totals[:, 1 + 2 * label], mature.codes, 1)
                np.add.at(self._totals[:, 2 + 2 * label], mature.codes[mature.positive], 1)

    def before(
        self,
        distinct: pa.Array,
        occurrences: Occurrences,
        timestamps: Ints,
        labels: Sequence[EventLabels],
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
        day_queries = _DayQueries.of(queries.codes, at[queries.rows], len(distinct), day_start)
        out[:, 0] += day_queries.count(occurrences.codes, timestamps[occurrences.rows])
        for label, (outcome, pending_labels) in enumerate(zip(labels, self._pending, strict=True)):
            end = day_start + DAY_US
            fresh = occurrences.labels(outcome)
            seen = KeyLabels.concat(
                [_of_batch(pending_labels.known_before(end), known), fresh.take(fresh.known_from < end)]
            )
            out[:, 1 + 2 * label] += day_queries.count(seen.codes, seen.known_from)
            out[:, 2 + 2 * label] += day_queries.count(seen.codes[seen.positive], seen.known_from[seen.positive])
        return out

    def copy(self) -> RunningTotals:
        """An independent copy."""
        totals = RunningTotals(0)
        totals.keys = self.keys.copy()
        totals._totals = self._totals.copy()
        totals._pending = [pending_labels.copy() for pending_labels in self._pending]
        return totals

    def to_arrays(self) -> dict[str, pa.Array]:
        """All state as named arrays, to be saved."""
        arrays = {"keys": self.keys.values(), "totals": pa.array(self._totals[: len(self.keys)].ravel())}
        for label, pending_labels in enumerate(self._pending):
            pending = pending_labels.all()
            arrays[f"codes_{label}"] = pa.array(pending.codes)
            arrays[f"when_{label}"] = pa.array(pending.known_from)
            arrays[f"positive_{label}"] = pa.array(pending.positive)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, pa.Array], labels: int) -> RunningTotals:
        """Restore from what `to_arrays` returned."""
        totals = cls(labels)
        totals.keys = KeyIndex(arrays["keys"])
        totals._totals = as_ints(arrays["totals"]).reshape(-1, 1 + 2 * labels)
        for label, pending_labels in enumerate(totals._pending):
            positive = arrays[f"positive_{label}"].to_numpy(zero_copy_only=False)
            pending_labels.add(KeyLabels(as_ints(arrays[f"codes_{label}"]), as_ints(arrays[f"when_{label}"]), positive))
        return totals

    def _reserve(self, size: int) -> None:
        if size > len(self._totals):
            grown = np.zeros((max(size, 2 * len(self._totals)), self._totals.shape[1]), np.int64)
            grown[: len(self._totals)] = self._totals
            self._totals = grown


@dataclass(frozen=True, slots=True)
class _DayQueries:
    """The queries of a batch, sorted by key and instant: binary searches in order are several times faster.

    Key and instant are one number, `code * _SPAN + instant of the day`: sorted, a key's instants lie together.
    """

    codes: Ints
    order: Ints
    sorted_keys: Ints
    key_starts: Ints
    day_start: int

    @classmethod
    def of(cls, codes: Ints, at: Ints, keys: int, day_start: int) -> _DayQueries:
        places = _day_keys(codes, at, day_start)
        order = np.argsort(places)
        return cls(codes, order, places[order], np.arange(keys, dtype=np.int64) * _SPAN, day_start)

    def count(self, codes: Ints, when: Ints) -> Ints:
        """For each query, how many of these instants are of its key and strictly before it."""
        places = np.sort(_day_keys(codes, when, self.day_start))
        reached = np.empty_like(self.order)
        reached[self.order] = np.searchsorted(places, self.sorted_keys)
        counted: Ints = reached - np.searchsorted(places, self.key_starts)[self.codes]
        return counted


def _day_keys(codes: Ints, when: Ints, day_start: int) -> Ints:
    return codes * _SPAN + np.clip(when - day_start + 1, 0, DAY_US)


def _of_batch(labels: KeyLabels, known: Ints) -> KeyLabels:
    """The labels of a batch's keys only, by the batch's codes; `known` are the running totals' codes of the batch's keys."""
    if not len(labels.codes) or not len(known):
        return KeyLabels.concat([])
    order = np.argsort(known)
    place = order[np.searchsorted(known, labels.codes, sorter=order).clip(max=len(known) - 1)]
    return KeyLabels(place, labels.known_from, labels.positive).take(known[place] == labels.codes)
