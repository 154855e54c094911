"""Inputs of the models: a table of events as tensors, and the earlier tokens of their users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from tokenlake_models.errors import InstancesError
from tokenlake_models.jagged import take_rows


@dataclass(frozen=True, slots=True)
class Instances:
    """`n` events with all their features, in any order, on one device.

    Attributes:
        categorical: `{name: (n,)}` vocabulary rows, 0 = out of vocabulary; always holds `user_id` and `item_id`.
        multi: `{name: (values (total,), offsets (n + 1,))}` vocabulary rows of a multi-valued feature.
        numeric: `(n, k)`, NaN = missing.
        vectors: `{name: (n, d)}`, a row of NaN = missing.
        counts: `(n, c)` running counts strictly before each event; `c = 0` if there are none.
        labels: `(n, L)`, 0 where unknown. Never an input of a model, only its target.
        known: `(n, L)`, whether the label is a training target.
        users: `(n,)` code of the event's user within this table, `0 .. U - 1`.
        timestamps: `(n,)` microseconds since 1970, UTC.
        seen: `(n,)` whether later rows of the user may read the row; None: all. False for sampled negatives, which
            never happened, and for rows that are also in the history.
    """

    categorical: dict[str, Int64[Tensor, " n"]]
    multi: dict[str, tuple[Int64[Tensor, " _"], Int64[Tensor, " n_1"]]]
    numeric: Float32[Tensor, "n k"]
    vectors: dict[str, Float32[Tensor, "n _"]]
    counts: Float32[Tensor, "n c"]
    labels: Float32[Tensor, "n L"]
    known: Bool[Tensor, "n L"]
    users: Int64[Tensor, " n"]
    timestamps: Int64[Tensor, " n"]
    seen: Bool[Tensor, " n"] | None = None

    def __len__(self) -> int:
        """Number of events."""
        return len(self.timestamps)

    def select(self, index: Int64[Tensor, " m"]) -> Instances:
        """The events `index`, in that order; users keep their codes."""
        return Instances(
            categorical={name: rows[index] for name, rows in self.categorical.items()},
            multi={name: take_rows(values, offsets, index) for name, (values, offsets) in self.multi.items()},
            numeric=self.numeric[index],
            vectors={name: vector[index] for name, vector in self.vectors.items()},
            counts=self.counts[index],
            labels=self.labels[index],
            known=self.known[index],
            users=self.users[index],
            timestamps=self.timestamps[index],
            seen=None if self.seen is None else self.seen[index],
        )

    def visible(self) -> Bool[Tensor, " n"]:
        """`seen` as a tensor, all True if it is None."""
        return torch.ones_like(self.timestamps, dtype=torch.bool) if self.seen is None else self.seen

    @staticmethod
    def concat(parts: Sequence[Instances]) -> Instances:
        """Concatenate tables whose user codes stand for the same users.

        Raises:
            InstancesError: no table was given, or their features differ.
        """
        if not parts:
            raise InstancesError("Instances.concat needs at least one table, got none")
        first = parts[0]
        for part in parts[1:]:
            for kind in ("categorical", "multi", "vectors"):
                given, expected = sorted(getattr(part, kind)), sorted(getattr(first, kind))
                if given != expected:
                    raise InstancesError(f"Instances.concat: one table has {kind} features {given}, another {expected}")
        return Instances(
            categorical={k: torch.cat([p.categorical[k] for p in parts]) for k in first.categorical},
            multi={k: _concat_jagged([p.multi[k] for p in parts]) for k in first.multi},
            numeric=torch.cat([p.numeric for p in parts]),
            vectors={k: torch.cat([p.vectors[k] for p in parts]) for k in first.vectors},
            counts=torch.cat([p.counts for p in parts]),
            labels=torch.cat([p.labels for p in parts]),
            known=torch.cat([p.known for p in parts]),
            users=torch.cat([p.users for p in parts]),
            timestamps=torch.cat([p.timestamps for p in parts]),
            seen=None if all(p.seen is None for p in parts) else torch.cat([p.visible() for p in parts]),
        )


@dataclass(frozen=True, slots=True)
class History:
    """Stored tokens of the users `0 .. U - 1` of an `Instances`, each user's oldest first.

    A query does not see tokens at or after its timestamp, so a history that contains later tokens leaks nothing.

    Attributes:
        tokens: `(total, dim)`.
        timestamps: `(total,)` microseconds since 1970, UTC; ascending within a user.
        offsets: `(U + 1,)`.
    """

    tokens: Float32[Tensor, "total dim"]
    timestamps: Int64[Tensor, " total"]
    offsets: Int64[Tensor, " users_1"]

    @staticmethod
    def empty(users: int, dim: int) -> History:
        """An empty history for `users` users."""
        return History(
            torch.zeros(0, dim), torch.zeros(0, dtype=torch.int64), torch.zeros(users + 1, dtype=torch.int64)
        )


def _concat_jagged(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    values = torch.cat([v for v, _ in parts])
    lengths = torch.cat([o.diff() for _, o in parts])
    return values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
