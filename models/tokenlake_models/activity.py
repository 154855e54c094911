"""What the user encoder reads: events as tensors, and which of them a user had done by a moment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tokenlake_models.jagged import take_rows

#: Rows of vocabularies by feature: `{name: (n,)}`.
Categorical = dict[str, Tensor]
#: `{name: (values (total,), offsets (n + 1,))}`.
Multi = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Activity:
    """`n` events, in any order, that histories point at.

    Attributes:
        categorical: vocabulary rows, 0 = out of vocabulary; `item_id` is among them, `user_id` is not.
        multi: vocabulary rows of multi-valued features.
        labels: `(n, L)` 0 or 1; read only by a moment after `known_at`.
        known_at: `(n, L)` microseconds UTC from which a label may be seen; the largest int64 where never.
        timestamps: `(n,)` microseconds since 1970, UTC.
    """

    categorical: Categorical
    multi: Multi
    labels: Int64[Tensor, "n L"]
    known_at: Int64[Tensor, "n L"]
    timestamps: Int64[Tensor, " n"]

    def __len__(self) -> int:
        """Number of events."""
        return len(self.timestamps)


@dataclass(frozen=True, slots=True)
class Moments:
    """`q` questions: who is this user at that time?

    Attributes:
        now: `(q,)` microseconds UTC.
        histories: one for each source, `(rows (total,), offsets (q + 1,))`: rows of an `Activity`, oldest first, all
            strictly before the question's `now`.
    """

    now: Int64[Tensor, " q"]
    histories: tuple[tuple[Int64[Tensor, " _"], Int64[Tensor, " q_1"]], ...]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.now)

    def lengths(self) -> Int64[Tensor, " q"]:
        """Events read by each question, over all sources."""
        return torch.stack([offsets.diff() for _, offsets in self.histories]).sum(0)

    def select(self, index: Int64[Tensor, " m"]) -> Moments:
        """The questions `index`, in that order."""
        return Moments(self.now[index], tuple(take_rows(rows, offsets, index) for rows, offsets in self.histories))


@dataclass(frozen=True, slots=True)
class Items:
    """`m` items with their features.

    Attributes:
        categorical: vocabulary rows, `item_id` among them.
        multi: vocabulary rows of multi-valued features.
        events: `(m,)` how often each was met: what negatives are sampled by.
    """

    categorical: Categorical
    multi: Multi
    events: Float64[Tensor, " m"]

    def __len__(self) -> int:
        """Number of items."""
        return len(self.events)

    def select(self, index: Int64[Tensor, " k"]) -> Items:
        """The items `index`, in that order."""
        return Items(
            {name: rows[index] for name, rows in self.categorical.items()},
            {name: take_rows(values, offsets, index) for name, (values, offsets) in self.multi.items()},
            self.events[index],
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """What followed each of `q` moments.

    Attributes:
        items: `(total,)` rows of an `Items`.
        offsets: `(q + 1,)`.
    """

    items: Int64[Tensor, " total"]
    offsets: Int64[Tensor, " q_1"]
