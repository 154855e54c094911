"""`Graph`: similar users at the end of one day, with learned edge weights, as compressed sparse rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import NotFoundError
from tokenlake.features.activity import take_ranges
from tokenlake.features.keys import Ints
from tokenlake.retrieval.edges import EdgeModel
from tokenlake.retrieval.identity import Identity
from tokenlake.retrieval.index import places_of
from tokenlake.storage.arrays import read_arrays, write_arrays


class Neighbors(NamedTuple):
    """Neighbours of some users, jagged, in descending order of weight."""

    ids: pa.Array
    weights: NDArray[np.float64]
    offsets: Ints


class Graph:
    """Edges to similar users; each user's weights sum to 1.

    Attributes:
        identity: of the vectors that the graph was built from.
        ids: Arrow array (n,) of users.
        offsets: int64 (n + 1,).
        targets: int64 (edges,), places among `ids`, heaviest first.
        weights: float64 (edges,).
        own: float64 (n,), weight of the user's own past; the neighbours' weights sum to 1.
        model: the model that computed the weights.
    """

    def __init__(
        self,
        identity: Identity,
        ids: pa.Array,
        offsets: Ints,
        targets: Ints,
        weights: NDArray[np.float64],
        own: NDArray[np.float64],
        model: EdgeModel,
    ) -> None:
        self.identity, self.ids, self.model = identity, ids, model
        self.offsets, self.targets, self.weights, self.own = offsets, targets, weights, own

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sources(self) -> Ints:
        """Position of the source user of each edge, int64 (edges,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def edges(self) -> pa.Table:
        """Every edge as a row: `src`, `dst` (ids) and `weight`, as the `edges` table holds them."""
        return pa.table(
            {
                "src": self.ids.take(pa.array(self.sources)),
                "dst": self.ids.take(pa.array(self.targets)),
                "weight": pa.array(self.weights),
            }
        )

    def row(self, place: int) -> tuple[Ints, NDArray[np.float64]]:
        """Targets and weights of one user, by its position."""
        part = slice(self.offsets[place], self.offsets[place + 1])
        return self.targets[part], self.weights[part]

    def neighbors(self, users: Any, k: int = 10) -> Neighbors:
        """The k neighbours of each user with the largest weights.

        Raises:
            NotFoundError: a user is not in the graph.
        """
        rows = places_of(users, self.ids)
        if missing := int(np.count_nonzero(rows < 0)):
            raise NotFoundError(
                f"{missing} of {len(rows)} users are not in the graph of {self.identity}: they did nothing in its "
                "retention window"
            )
        start, end = self.offsets[rows], self.offsets[rows + 1]
        edges, offsets = take_ranges(np.arange(len(self.targets)), start, np.minimum(end, start + k))
        return Neighbors(self.ids.take(pa.array(self.targets[edges])), self.weights[edges], offsets)

    def to_networkx(self) -> Any:
        """Convert to a `networkx.DiGraph` with `weight` on its edges, for graph algorithms.

        Raises:
            MissingExtraError: networkx is not installed.
        """
        from tokenlake.retrieval.explore import to_networkx

        return to_networkx(self)

    def explore(self, *, seed: int = 0, resolution: float = 1.0) -> pa.Table:
        """Community, centrality and followers of every user; see `tokenlake.retrieval.explore`.

        Raises:
            MissingExtraError: networkx is not installed.
        """
        from tokenlake.retrieval.explore import explore

        return explore(self, seed=seed, resolution=resolution)

    def save(self, path: Path) -> None:
        """Write to an Arrow IPC file."""
        arrays = {name: pa.array(getattr(self, name)) for name in ("offsets", "targets", "weights", "own")}
        write_arrays(
            path, arrays | {"ids": self.ids}, self.identity.to_json() | {"model": dataclasses.asdict(self.model)}
        )

    @classmethod
    def load(cls, path: Path) -> Graph:
        """Read what `save` wrote."""
        arrays, header = read_arrays(path)
        offsets, targets, weights, own = (arrays[name].to_numpy() for name in ("offsets", "targets", "weights", "own"))
        model = EdgeModel.from_json(header["model"])
        return cls(Identity.from_json(header), arrays["ids"], offsets, targets, weights, own, model)
