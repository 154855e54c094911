"""The learned edge weights of the similarity graph: how well a similar user's events predict (docs/retrieval.md).

The features of an edge (u, v) at a time are the cosine of the two vectors and some counts: common items, number and age
of v's events, how many users have v among their nearest, and whether u is among v's nearest. A Poisson regression maps
them to the rate at which one event of v's pool is one of u's next positives. It is fitted on later events.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenlake.features.keys import Ints
from tokenlake.retrieval.index import Index
from tokenlake.retrieval.pools import ItemPools
from tokenlake.times import DAY_US

FEATURES = ("cosine", "overlap", "shared", "size", "age", "degree", "mutual", "own")
_COSINE, _OWN = FEATURES.index("cosine"), FEATURES.index("own")
_RIDGE = 1.0
_STEPS = 30
_FEWEST_HITS = 30
_LARGEST = 8.0


@dataclass(frozen=True)
class Edges:
    """Edges from some users, each at one query time, and the positives of their neighbours.

    Attributes:
        rows: int64 (e,), the neighbours' rows of the index. If a user's own past counts, its own row (or -1) is last.
        features: float64 (e, len(FEATURES)).
        items: int64 (total,), item codes of the neighbours' positives.
        decay: float64 (total,), weight of each positive by its age.
        offsets: int64 (e + 1,), events of each edge.
        queries: int64 (q + 1,), edges of each user.
    """

    rows: Ints
    features: NDArray[np.float64]
    items: Ints
    decay: NDArray[np.float64]
    offsets: Ints
    queries: Ints

    def owners(self) -> Ints:
        """The user of each event, int64 (total,)."""
        edges = np.repeat(np.arange(len(self.queries) - 1), np.diff(self.queries))
        return np.repeat(edges, np.diff(self.offsets))

    def sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sum values of the events by edge."""
        ends = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return np.asarray(ends[self.offsets[1:]] - ends[self.offsets[:-1]], np.float64)


class EdgeFeatures:
    """Computes the features of edges from one day's index and the item pools.

    Args:
        index: the index of users.
        pools: positives by user and time.
        own: whether a user's own past counts as one of its neighbours.
    """

    def __init__(self, index: Index, pools: ItemPools, *, own: bool) -> None:
        self.index, self.pools, self._own = index, pools, own
        self._codes = pools.log.codes_of(index.ids)
        near = index.knn[0]
        self._degree = np.bincount(near[near >= 0], minlength=len(index))

    def edges(
        self, users: Ints, places: Ints, now: Ints, rows: NDArray[np.int64], cosines: NDArray[np.float32]
    ) -> Edges:
        """Compute the edges from some users, each at a query time.

        Args:
            users: int64 (q,), codes in the pools' log; -1 for a user without events.
            places: int64 (q,), rows of the index; -1 for a user that is not in it.
            now: int64 (q,), query times in microseconds; only earlier events are counted.
            rows: int64 (q, k), rows of the nearest users, -1 for none; without the user's own row.
            cosines: float32 (q, k), their cosines.
        """
        there = (rows >= 0) & (rows != places[:, None])
        mutual = (self.index.knn[0][rows] == places[:, None, None]).any(2) & (places >= 0)[:, None]
        codes, degree = self._codes[rows], self._degree[rows]
        own = np.zeros(rows.shape, np.bool_)
        if self._own:  # one more column, for the user's own past
            rows, cosines, there = _with(rows, places), _with(cosines, 1), _with(there, values=True)
            mutual, codes, degree, own = (
                _with(mutual, values=False),
                _with(codes, users),
                _with(degree, 0),
                _with(own, values=True),
            )
        queries = np.concatenate([[0], np.cumsum(there.sum(1))])
        owner = np.repeat(np.arange(len(users)), np.diff(queries))
        rows, codes, when = rows[there], codes[there], now[owner]
        items, decay, offsets = self.pools.votes(codes, when)
        edges = Edges(rows, np.zeros((len(rows), len(FEATURES))), items, decay, offsets, queries)
        own_items, begins, flags = *self._own_items(users, now), np.zeros((len(users), len(self.pools.ids)), np.bool_)
        flags[np.repeat(np.arange(len(users)), np.diff(begins)), own_items] = True
        shared = edges.sums(flags[edges.owners(), items])
        size, profile = np.diff(offsets), np.diff(begins)[owner]
        columns = (
            cosines[there],
            shared / np.sqrt(np.maximum(size, 1) * np.maximum(profile, 1)),
            np.log1p(shared),
            np.log1p(size),
            np.log1p((when - self.pools.last_seen(codes, when)) / DAY_US),
            np.log1p(degree[there]),
            mutual[there],
            own[there],
        )
        return dataclasses.replace(edges, features=np.column_stack([np.asarray(c, np.float64) for c in columns]))

    def _own_items(self, users: Ints, now: Ints) -> tuple[Ints, Ints]:
        items, _, offsets = self.pools.votes(users, now)
        return items, offsets


def _with(table: NDArray[Any], values: Any) -> NDArray[Any]:
    return np.column_stack([table, np.broadcast_to(np.asarray(values, table.dtype), len(table))])


@dataclass(frozen=True)
class EdgeModel:
    """The model of edge weights.

    Attributes:
        kind: `learned`, or `cosine` if the config says so, or there were too few events to fit.
        mean: mean of the features in the fit.
        deviation: standard deviation of the features in the fit.
        beta: intercept and slopes.
        hits: positives that neighbours' events predicted in the fit.
    """

    kind: Literal["learned", "cosine"] = "cosine"
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    beta: tuple[float, ...] = ()
    hits: float = 0.0

    def weights(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weight of each edge, at least 0: the predicted rate, or the cosine."""
        if self.kind == "cosine":
            return np.maximum(features[:, _COSINE], 0.0)
        scaled = _scaled(features, np.array(self.mean), np.array(self.deviation))
        return np.asarray(np.exp(scaled @ np.array(self.beta)), np.float64)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EdgeModel:
        """Create a model from JSON, where tuples are lists."""
        mean, deviation, beta = (tuple(data[name]) for name in ("mean", "deviation", "beta"))
        return cls(data["kind"], mean, deviation, beta, data["hits"])

    @classmethod
    def fit(cls, features: NDArray[np.float64], hits: NDArray[np.float64], trials: NDArray[np.float64]) -> EdgeModel:
        """Fit rates by ridge-penalised Poisson regression (Newton's method).

        Args:
            features: (e, len(FEATURES)).
            hits: (e,), number of the edge's events that became positives.
            trials: (e,), number of the edge's events that could have become positives.
        """
        use = trials > 0
        features, hits, trials = features[use], hits[use], trials[use]
        if hits.sum() < _FEWEST_HITS:
            return cls(hits=float(hits.sum()))
        mean, deviation = features.mean(0), features.std(0)
        deviation[deviation == 0] = 1.0
        x = _scaled(features, mean, deviation)
        beta = np.zeros(x.shape[1])
        beta[0] = np.log(hits.sum() / trials.sum())
        penalty = np.full(len(beta), _RIDGE)
        penalty[0] = 0.0
        for _ in range(_STEPS):
            expected = trials * np.exp(np.clip(x @ beta, -30, 3))
            gradient = x.T @ (hits - expected) - penalty * beta
            hessian = (x * expected[:, None]).T @ x + np.diag(penalty + 1e-9)
            step = np.linalg.solve(hessian, gradient)
            beta += np.clip(step, -1, 1)
            if np.abs(step).max() < 1e-6:
                break
        return cls("learned", tuple(mean.tolist()), tuple(deviation.tolist()), tuple(beta.tolist()), float(hits.sum()))


def _scaled(
    features: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    clipped = np.clip((features - mean) / deviation, -_LARGEST, _LARGEST)
    return np.column_stack([np.ones(len(features)), clipped])


def shares(weights: NDArray[np.float64], queries: Ints) -> NDArray[np.float64]:
    """Scale the weights of each user's edges to a sum of 1; weights that are all 0 stay 0."""
    owner = np.repeat(np.arange(len(queries) - 1), np.diff(queries))
    totals = np.bincount(owner, weights=weights, minlength=len(queries) - 1)
    return np.asarray(weights / np.where(totals > 0, totals, 1.0)[owner], np.float64)
