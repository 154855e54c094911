"""Totals of one kind of key (users, items, tags), exact integers, and the labels that have yet to mature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.pipeline.arrays import as_ints
from tokenlake.pipeline.keys import Ints, Keys
from tokenlake.times import DAY_US, NEVER

Bools = NDArray[np.bool_]
#: Instants of a day and, as number 0, all that came before it.
_SPAN = DAY_US + 1


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One label of n events.

    Attributes:
        known: bool (n,), whether the label is ever known.
        when: int64 (n,), the instant (us) after which a query sees it; at least the event's own.
        positive: bool (n,).
    """

    known: Bools
    when: Ints
    positive: Bools


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Which keys occur in which rows: a user once a row, tags any number of times.

    Attributes:
        rows: int64 (m,), ascending.
        codes: int64 (m,), positions in the batch's distinct keys.
    """

    rows: Ints
    codes: Ints


@dataclass(frozen=True, slots=True)
class Pending:
    """Labels of keys that are not seen yet, by their instant; three arrays of one length."""

    when: Ints
    codes: Ints
    positive: Bools

    @classmethod
    def none(cls) -> Pending:
        """No labels."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_))

    def take(self, chosen: Bools | Ints | slice) -> Pending:
        """Select some."""
        return Pending(self.when[chosen], self.codes[chosen], self.positive[chosen])

    def merged(self, other: Pending) -> Pending:
        """Put both together, sorted by instant."""
        if not len(other.when):
            return self
        when = np.concatenate([self.when, other.when])
        order = np.argsort(when, kind="stable")
        codes, positive = np.concatenate([self.codes, other.codes]), np.concatenate([self.positive, other.positive])
        return Pending(when[order], codes[order], positive[order])


def outcomes_of(table: pa.Table, label: str, timestamps: Ints) -> Outcomes:
    """Read a label of the rows of the `events` table; a label is never known before its event."""
    value, known_at = table[label], table[f"{label}_known_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    known = pc.and_(pc.is_valid(value), pc.is_valid(known_at)).to_numpy()
    when = np.maximum(known_at.fill_null(NEVER).to_numpy(), timestamps)
    return Outcomes(known, when, value.cast(pa.int64()).fill_null(0).to_numpy() > 0)


class Tally:
    """Running totals of one kind of key.

    A row of totals holds `[events, known 0, positives 0, known 1, ...]`: two columns per label after the first.
    """

    def __init__(self, labels: int) -> None:
        self.keys = Keys()
        self._totals = np.zeros((0, 1 + 2 * labels), np.int64)
        self._pending = [Pending.none()] * labels

    def add(self, distinct: pa.Array, occurrences: Occurrences, outcomes: Sequence[Outcomes], until: int) -> None:
        """Add events, and let the labels mature whose instant is before `until`."""
        codes = self.keys.add(distinct)
        self._reserve(len(self.keys))
        if len(codes):
            self._totals[codes, 0] += np.bincount(occurrences.codes, minlength=len(codes))
        for label, outcome in enumerate(outcomes):
            fresh = _labels(occurrences, outcome)
            fresh = Pending(fresh.when, codes[fresh.codes], fresh.positive)
            early = fresh.when < until
            self._mature(label, fresh.take(early))
            pending = self._pending[label].merged(fresh.take(~early))
            due = int(np.searchsorted(pending.when, until))
            self._mature(label, pending.take(slice(due)))
            self._pending[label] = pending.take(slice(due, None))

    def before(
        self,
        distinct: pa.Array,
        occurrences: Occurrences,
        timestamps: Ints,
        outcomes: Sequence[Outcomes],
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
        instants = _instants(queries.codes, at[queries.rows], day_start)
        order = np.argsort(instants)  # sorted needles are found several times faster
        asked = _Asked(queries.codes, instants[order], order, len(distinct))
        stamps = np.sort(_instants(occurrences.codes, timestamps[occurrences.rows], day_start))
        out[:, 0] += asked.count(stamps)
        by_code = np.argsort(known)
        for label, outcome in enumerate(outcomes):
            maturing = self._maturing(label, known, by_code, day_start + DAY_US)
            fresh = _labels(occurrences, outcome)
            fresh = fresh.take(fresh.when < day_start + DAY_US)
            codes, when = np.concatenate([maturing.codes, fresh.codes]), np.concatenate([maturing.when, fresh.when])
            positive = np.concatenate([maturing.positive, fresh.positive])
            stamps = _instants(codes, when, day_start)
            out[:, 1 + 2 * label] += asked.count(np.sort(stamps))
            out[:, 2 + 2 * label] += asked.count(np.sort(stamps[positive]))
        return out

    def copy(self) -> Tally:
        """The same, to be changed on its own."""
        tally = Tally(len(self._pending))
        tally.keys = self.keys.copy()
        tally._totals = self._totals.copy()
        tally._pending = list(self._pending)
        return tally

    def to_arrays(self) -> dict[str, pa.Array]:
        """Everything, to be saved."""
        arrays = {"keys": self.keys.values(), "totals": pa.array(self._totals[: len(self.keys)].ravel())}
        for label, pending in enumerate(self._pending):
            arrays[f"when_{label}"] = pa.array(pending.when)
            arrays[f"codes_{label}"] = pa.array(pending.codes)
            arrays[f"positive_{label}"] = pa.array(pending.positive)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, pa.Array], labels: int) -> Tally:
        """Undo `to_arrays`."""
        tally = cls(labels)
        tally.keys = Keys(arrays["keys"])
        tally._totals = as_ints(arrays["totals"]).reshape(-1, 1 + 2 * labels)
        tally._pending = [
            Pending(
                as_ints(arrays[f"when_{label}"]),
                as_ints(arrays[f"codes_{label}"]),
                arrays[f"positive_{label}"].to_numpy(zero_copy_only=False),
            )
            for label in range(labels)
        ]
        return tally

    def _mature(self, label: int, labels: Pending) -> None:
        np.add.at(self._totals[:, 1 + 2 * label], labels.codes, 1)
        np.add.at(self._totals[:, 2 + 2 * label], labels.codes[labels.positive], 1)

    def _maturing(self, label: int, known: Ints, by_code: Ints, end: int) -> Pending:
        """Pending labels of the batch's keys that are seen before `end`, their codes those of the batch."""
        pending = self._pending[label]
        pending = pending.take(slice(int(np.searchsorted(pending.when, end))))
        if not len(pending.when) or not len(known):
            return Pending.none()
        place = by_code[np.searchsorted(known, pending.codes, sorter=by_code).clip(max=len(known) - 1)]
        pending = Pending(pending.when, place, pending.positive)
        return pending.take(known[place] == self._pending[label].codes[: len(place)])

    def _reserve(self, size: int) -> None:
        if size > len(self._totals):
            grown = np.zeros((max(size, 2 * len(self._totals)), self._totals.shape[1]), np.int64)
            grown[: len(self._totals)] = self._totals
            self._totals = grown


@dataclass(frozen=True, slots=True)
class _Asked:
    """Queries of a batch: how many sorted instants of the same key lie before each."""

    codes: Ints
    ascending: Ints
    order: Ints
    keys: int

    def count(self, instants: Ints) -> Ints:
        reached = np.empty(len(self.order), np.int64)
        reached[self.order] = np.searchsorted(instants, self.ascending)
        first = np.searchsorted(instants, np.arange(self.keys, dtype=np.int64) * _SPAN)
        counted: Ints = reached - first[self.codes]
        return counted


def _instants(codes: Ints, when: Ints, day_start: int) -> Ints:
    """Key and instant as one number: sorted by it, a key's instants lie together, in their order."""
    return codes * _SPAN + np.clip(when - day_start + 1, 0, DAY_US)


def _labels(occurrences: Occurrences, outcome: Outcomes) -> Pending:
    known = outcome.known[occurrences.rows]
    rows = occurrences.rows[known]
    return Pending(outcome.when[rows], occurrences.codes[known], outcome.positive[rows])
