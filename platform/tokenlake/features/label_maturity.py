"""Label maturity: when the label of an event becomes known, and the labels that are pending."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.config import Filter, Label
from tokenlake.features.keys import Ints
from tokenlake.times import NEVER

Bools: TypeAlias = NDArray[np.bool_]
#: How far back a positive is looked for where a label that becomes known late has no `window` to bound it.
_UNBOUNDED = dt.timedelta(days=28)
#: Most sorted runs of pending labels before they are merged into one.
_RUNS = 32


@dataclass(frozen=True, slots=True)
class EventLabels:
    """One label of n events.

    Attributes:
        matures: bool (n,), whether the label ever becomes known.
        known_from: int64 (n,), the instant (us) after which a query sees the label; never before the event's own.
        positive: bool (n,).
    """

    matures: Bools
    known_from: Ints
    positive: Bools


def lookback(labels: Iterable[Label]) -> dt.timedelta:
    """The longest time after an event in which one of its labels may become known; zero where all are known at once."""
    return max((label.window or _UNBOUNDED for label in labels if label.known_at), default=dt.timedelta())


def event_labels(table: pa.Table, label: str, timestamps: Ints) -> EventLabels:
    """Read a label of the rows of the `events` table; a label is never known before its event."""
    value, known_at = table[label], table[f"{label}_known_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    known = pc.and_(pc.is_valid(value), pc.is_valid(known_at)).to_numpy()
    when = np.maximum(known_at.fill_null(NEVER).to_numpy(), timestamps)
    return EventLabels(known, when, value.cast(pa.int64()).fill_null(0).to_numpy() > 0)


def passes_from(
    filters: Sequence[Filter], events: pa.Table, timestamps: Ints, labels: Callable[[str], EventLabels]
) -> Ints:
    """The instant (us) after which each event is known to pass any of the filters; NEVER if it passes none.

    Args:
        filters: of labels and categorical features; without any, all events pass.
        events: rows of the `events` table.
        timestamps: int64 (n,), theirs.
        labels: gives a label of the rows by its name.
    """
    if not filters:
        return timestamps
    known_from: Ints = np.minimum.reduce([_passes(f, events, timestamps, labels) for f in filters])
    return known_from


def _passes(f: Filter, events: pa.Table, timestamps: Ints, labels: Callable[[str], EventLabels]) -> Ints:
    if f.label is not None:
        label = labels(f.label)
        return np.where(label.matures & label.positive, label.known_from, NEVER)
    passes = pc.is_in(events[f.feature], value_set=pa.array(f.among)).to_numpy()
    return np.where(passes, timestamps, NEVER)


@dataclass(frozen=True, slots=True)
class KeyLabels:
    """Labels by key: the key's code, the instant (us) after which the label is known, and its value; arrays of one length."""

    codes: Ints
    known_from: Ints
    positive: Bools

    def take(self, index: Bools | Ints | slice) -> KeyLabels:
        """The labels at an index."""
        return KeyLabels(self.codes[index], self.known_from[index], self.positive[index])

    @staticmethod
    def concat(parts: Sequence[KeyLabels]) -> KeyLabels:
        """Concatenate; no labels when there are no parts."""
        return KeyLabels(
            np.concatenate([np.empty(0, np.int64), *(part.codes for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.known_from for part in parts)]),
            np.concatenate([np.empty(0, np.bool_), *(part.positive for part in parts)]),
        )


class PendingLabels:
    """Labels that will become known later, in a few runs sorted by instant, so that adding a day rewrites no older run."""

    def __init__(self, runs: Sequence[KeyLabels] = ()) -> None:
        self._runs = list(runs)

    def copy(self) -> PendingLabels:
        """An independent copy."""
        return PendingLabels(self._runs)

    def add(self, labels: KeyLabels) -> None:
        """Add labels in any order."""
        if len(labels.known_from):
            self._runs.append(labels.take(np.argsort(labels.known_from)))
        if len(self._runs) > _RUNS:
            everything = self.all()
            self._runs = [everything.take(np.argsort(everything.known_from))]

    def known_before(self, instant: int) -> KeyLabels:
        """Labels that become known before an instant."""
        return KeyLabels.concat([run.take(slice(_before(run, instant))) for run in self._runs])

    def pop_known_before(self, instant: int) -> KeyLabels:
        """Remove and return the labels that become known before an instant."""
        due = self.known_before(instant)
        rest = [run.take(slice(_before(run, instant), None)) for run in self._runs]
        self._runs = [run for run in rest if len(run.known_from)]
        return due

    def all(self) -> KeyLabels:
        """All labels."""
        return KeyLabels.concat(self._runs)


def _before(run: KeyLabels, instant: int) -> int:
    return int(np.searchsorted(run.known_from, instant))
