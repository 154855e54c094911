"""How much a similar user's events foretell: the learned weights of the similarity graph (docs/retrieval.md).

An edge (u, v) at a time is told by the cosine of their vectors and by what can be counted: what both did, how much v
did and how long ago, how many count v among their nearest, and whether u is among v's. A Poisson regression turns that
into the rate at which one event of v's pool is one of u's next positives. It is fitted to what happened.
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
    """Edges from some users, each at one time, and the events of those that they lead to.

    Attributes:
        rows: int64 (e,), rows of the index; each user's own, or -1, in its last place where it is asked itself.
        features: float64 (e, len(FEATURES)).
        items: int64 (total,), item codes of their positives.
        decay: float64 (total,).
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
    """Describes edges by one day's index and the pools of users.

    Args:
        index: of users.
        pools: positives by user and time.
        own: whether a user's own past is one of its neighbours.
    """

    def __init__(self, index: Index, pools: ItemPools, *, own: bool) -> None:
        self.index, self.pools, self._own = index, pools, own
        self._codes = pools.log.codes_of(index.ids)
        near = index.knn[0]
        self._degree = np.bincount(near[near >= 0], minlength=len(index))

    def edges(
        self, users: Ints, places: Ints, now: Ints, rows: NDArray[np.int64], cosines: NDArray[np.float32]
    ) -> Edges:
        """Describe the edges from some users, each at a query time.

        Args:
            users: int64 (q,), codes in the pools' log; -1 for one who did nothing ever.
            places: int64 (q,), rows of the index; -1 for one who is not there.
            now: int64 (q,), microseconds; everything is counted strictly before.
            rows: int64 (q, k), rows of the index that are near, -1 for none; the user's own is left out.
            cosines: float32 (q, k).
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
        mine, begins, flags = *self._mine(users, now), np.zeros((len(users), len(self.pools.ids)), np.bool_)
        flags[np.repeat(np.arange(len(users)), np.diff(begins)), mine] = True
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

    def _mine(self, users: Ints, now: Ints) -> tuple[Ints, Ints]:
        items, _, offsets = self.pools.votes(users, now)
        return items, offsets


def _with(table: NDArray[Any], values: Any) -> NDArray[Any]:
    return np.column_stack([table, np.broadcast_to(np.asarray(values, table.dtype), len(table))])


@dataclass(frozen=True)
class EdgeModel:
    """Weights of edges by their features.

    Attributes:
        kind: `learned`, or `cosine` where that was asked for, or too little happened to learn from.
        mean: of the features that it was fitted to.
        deviation: likewise.
        beta: intercept and slopes.
        hits: positives that neighbours' events foretold in the fit.
    """

    kind: Literal["learned", "cosine"] = "cosine"
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    beta: tuple[float, ...] = ()
    hits: float = 0.0

    def weights(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weight of each edge, at least 0: a rate, or the cosine."""
        if self.kind == "cosine":
            return np.maximum(features[:, _COSINE], 0.0)
        scaled = _scaled(features, np.array(self.mean), np.array(self.deviation))
        return np.asarray(np.exp(scaled @ np.array(self.beta)), np.float64)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EdgeModel:
        """Read a model's fields, lists standing for tuples."""
        mean, deviation, beta = (tuple(data[name]) for name in ("mean", "deviation", "beta"))
        return cls(data["kind"], mean, deviation, beta, data["hits"])

    @classmethod
    def fit(cls, features: NDArray[np.float64], hits: NDArray[np.float64], trials: NDArray[np.float64]) -> EdgeModel:
        """Fit rates by ridge-penalised Poisson regression (Newton's method).

        Args:
            features: (e, len(FEATURES)).
            hits: (e,), how often the edge's events foretold.
            trials: (e,), how often they could have.
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
    """Weights of each user's edges, scaled to a sum of 1; left alone where they are all 0."""
    owner = np.repeat(np.arange(len(queries) - 1), np.diff(queries))
    totals = np.bincount(owner, weights=weights, minlength=len(queries) - 1)
    return np.asarray(weights / np.where(totals > 0, totals, 1.0)[owner], np.float64)
