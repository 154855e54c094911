"""Inputs of the user encoder: events as tensors, and the histories of users at query times."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from tokenlake_models.jagged import offsets_of, ranges, row_numbers, take_rows

#: Rows of vocabularies by feature: `{name: (n,)}`.
Categorical = dict[str, Tensor]
#: `{name: (values (total,), offsets (n + 1,))}`.
Multi = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Stream:
    """Events of one activity source as rows of attention: one row per user and day.

    Attributes:
        rows: `(m,)` rows of an `Activity`, by user, day, and the instant at which they entered the source.
        ties: `(g + 1,)` offsets into `rows`: groups of events of one instant, whose order does not matter.
        offsets: `(s + 1,)` offsets into these groups: one row per user and day.
    """

    rows: Int64[Tensor, " m"]
    ties: Int64[Tensor, " g_1"]
    offsets: Int64[Tensor, " s_1"]

    def of(self, days: Int64[Tensor, " k"]) -> Stream:
        """Select some rows (a user's day each), in the given order."""
        count = self.offsets.diff()[days]
        instants = ranges(self.offsets[days], count)
        sizes = self.ties.diff()[instants]
        return Stream(self.rows[ranges(self.ties[instants], sizes)], offsets_of(sizes), offsets_of(count))

    def until(self, positions: Int64[Tensor, " _"]) -> Stream:
        """The part that must be encoded for the events at some positions of `rows`: these and earlier instants of their days."""
        instant = row_numbers(self.ties)[positions]
        last = self.offsets.new_full((len(self.offsets) - 1,), -1)
        last = last.scatter_reduce(0, row_numbers(self.offsets)[instant], instant, "amax")
        days = (last >= 0).nonzero()[:, 0]
        begin, count = self.offsets[days], last[days] + 1 - self.offsets[days]
        instants = ranges(begin, count)
        sizes = self.ties.diff()[instants]
        return Stream(self.rows[ranges(self.ties[instants], sizes)], offsets_of(sizes), offsets_of(count))


@dataclass(frozen=True, slots=True)
class Activity:
    """`n` events, in any order, to which histories refer.

    Attributes:
        categorical: vocabulary rows, 0 = out of vocabulary; `item_id` is among them, `user_id` is not.
        multi: vocabulary rows of multi-valued features.
        labels: `(n, L)` 0 or 1; read only by a query after `known_at`.
        known_at: `(n, L)` microseconds UTC at which a label becomes known; the largest int64 for never.
        timestamps: `(n,)` microseconds since 1970, UTC.
        streams: one for each source.
        numeric: `(n, N)` raw numbers, NaN for a missing one; None if no feature is numeric.
    """

    categorical: Categorical
    multi: Multi
    labels: Int64[Tensor, "n L"]
    known_at: Int64[Tensor, "n L"]
    timestamps: Int64[Tensor, " n"]
    streams: tuple[Stream, ...]
    numeric: Float32[Tensor, "n N"] | None = None

    def __len__(self) -> int:
        """Number of events."""
        return len(self.timestamps)

    def without_ids(self, dropped: Int64[Tensor, " _"]) -> Activity:
        """A copy in which these events have an unknown item."""
        ids = self.categorical["item_id"].index_fill(0, dropped, 0)
        return replace(self, categorical=self.categorical | {"item_id": ids})


@dataclass(frozen=True, slots=True)
class UserQueries:
    """`q` queries: each is a user at a query time.

    Attributes:
        as_of: `(q,)` query times, microseconds UTC.
        histories: one for each source, `(rows (total,), offsets (q + 1,))`: rows of an `Activity`, oldest first, all
            strictly before the query's `as_of`.
        users: `(q,)` numbers that identify users; None if all queries are of different users.
    """

    as_of: Int64[Tensor, " q"]
    histories: tuple[tuple[Int64[Tensor, " _"], Int64[Tensor, " q_1"]], ...]
    users: Int64[Tensor, " q"] | None = None

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.as_of)

    def lengths(self) -> Int64[Tensor, " q"]:
        """Events read by each query, over all sources."""
        return torch.stack([offsets.diff() for _, offsets in self.histories]).sum(0)

    def select(self, index: Int64[Tensor, " m"]) -> UserQueries:
        """The queries `index`, in that order."""
        histories = tuple(take_rows(rows, offsets, index) for rows, offsets in self.histories)
        return UserQueries(self.as_of[index], histories, None if self.users is None else self.users[index])


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoded events of one source: keys and values that any query can pool.

    Attributes:
        values: `(m, 2 * width)`.
        positions: `(n,)` the position in `values` of each row of an `Activity`; undefined for rows that are not in it.
    """

    values: Float32[Tensor, "m two_width"]
    positions: Int64[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class Items:
    """`m` items with their features.

    Attributes:
        categorical: vocabulary rows, `item_id` among them.
        multi: vocabulary rows of multi-valued features.
        events: `(m,)` number of events of each item, the weight in the sampling of negatives.
        numeric: `(m, N)` raw numbers of the item, NaN for a missing one; None if no item feature is numeric.
    """

    categorical: Categorical
    multi: Multi
    events: Float64[Tensor, " m"]
    numeric: Float32[Tensor, "m N"] | None = None

    def __len__(self) -> int:
        """Number of items."""
        return len(self.events)

    def select(self, index: Int64[Tensor, " k"]) -> Items:
        """The items `index`, in that order."""
        return Items(
            {name: rows[index] for name, rows in self.categorical.items()},
            {name: take_rows(values, offsets, index) for name, (values, offsets) in self.multi.items()},
            self.events[index],
            None if self.numeric is None else self.numeric[index],
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """The target items of `q` queries: the next positives.

    Attributes:
        items: `(total,)` rows of an `Items`.
        offsets: `(q + 1,)`.
    """

    items: Int64[Tensor, " total"]
    offsets: Int64[Tensor, " q_1"]
