"""When labels of events become known, and those that have not yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.features.keys import Ints
from tokenlake.times import NEVER

Bools: TypeAlias = NDArray[np.bool_]
#: Runs of a backlog before they are made one.
_RUNS = 32


@dataclass(frozen=True, slots=True)
class EventLabels:
    """One label of n events.

    Attributes:
        known: bool (n,), whether the label is ever known.
        when: int64 (n,), the instant (us) after which a query sees it; at least the event's own.
        positive: bool (n,).
    """

    matures: Bools
    known_from: Ints
    positive: Bools


def event_labels(table: pa.Table, label: str, timestamps: Ints) -> EventLabels:
    """Read a label of the rows of the `events` table; a label is never known before its event."""
    value, known_at = table[label], table[f"{label}_known_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    known = pc.and_(pc.is_valid(value), pc.is_valid(known_at)).to_numpy()
    when = np.maximum(known_at.fill_null(NEVER).to_numpy(), timestamps)
    return EventLabels(known, when, value.cast(pa.int64()).fill_null(0).to_numpy() > 0)


@dataclass(frozen=True, slots=True)
class KeyLabels:
    """Labels of keys: the code of the key, the instant (us) after which the label is seen, its value. One length."""

    codes: Ints
    known_from: Ints
    positive: Bools

    def take(self, index: Bools | Ints | slice) -> KeyLabels:
        """Select some."""
        return KeyLabels(self.codes[index], self.known_from[index], self.positive[index])

    @staticmethod
    def concat(parts: Sequence[KeyLabels]) -> KeyLabels:
        """All of them; none at all of no parts."""
        return KeyLabels(
            np.concatenate([np.empty(0, np.int64), *(part.codes for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.known_from for part in parts)]),
            np.concatenate([np.empty(0, np.bool_), *(part.positive for part in parts)]),
        )


class PendingLabels:
    """Labels that will be known some day: a few runs, each by instant, so that adding a day touches no older one."""

    def __init__(self, runs: Sequence[KeyLabels] = ()) -> None:
        self._runs = list(runs)

    def copy(self) -> PendingLabels:
        """The same, to be changed on its own."""
        return PendingLabels(self._runs)

    def add(self, labels: KeyLabels) -> None:
        """Add labels in any order."""
        if len(labels.known_from):
            self._runs.append(labels.take(np.argsort(labels.known_from)))
        if len(self._runs) > _RUNS:
            everything = self.all()
            self._runs = [everything.take(np.argsort(everything.known_from))]

    def known_before(self, instant: int) -> KeyLabels:
        """Labels that are seen at an instant."""
        return KeyLabels.concat([run.take(slice(_before(run, instant))) for run in self._runs])

    def pop_known_before(self, instant: int) -> KeyLabels:
        """Take out the labels that are seen at an instant."""
        due = self.known_before(instant)
        rest = [run.take(slice(_before(run, instant), None)) for run in self._runs]
        self._runs = [run for run in rest if len(run.known_from)]
        return due

    def all(self) -> KeyLabels:
        """All labels."""
        return KeyLabels.concat(self._runs)


def _before(run: KeyLabels, instant: int) -> int:
    return int(np.searchsorted(run.known_from, instant))
