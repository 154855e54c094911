"""Candidates from users to users to items (U2U2I, arXiv 2406.05898; docs/retrieval.md).

    score(item) = sum over neighbours v of u: w(u, v) * sum over v's positives of the item before t: decay(age)

The query vector of u is encoded of its events before t; neighbours, their vectors and the weights' model are of the
newest day that was available at t. What scores nothing is filled up by popularity.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.config import Retrieval
from tokenlake.errors import NotFoundError, SchemaError
from tokenlake.lake.lake import Lake
from tokenlake.pipeline.activity import Instants
from tokenlake.pipeline.keys import Ints
from tokenlake.retrieval.edges import EdgeModel, Edges, Neighborhood
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.identity import Identity
from tokenlake.retrieval.index import Index
from tokenlake.retrieval.pools import Pools, best
from tokenlake.retrieval.queries import encode, others
from tokenlake.times import Day, as_micros, day_of


@dataclass(frozen=True)
class Candidates:
    """Candidates of q queries, best first: jagged.

    Attributes:
        items: Arrow array (total,) of item ids.
        scores: float64 (total,); 0 for those that popularity filled up.
        offsets: int64 (q + 1,).
        days: the day whose index and graph served each query; None where none was available.
    """

    items: pa.Array
    scores: NDArray[np.float64]
    offsets: Ints
    days: list[Day | None]

    def of(self, query: int) -> pa.Array:
        """Items of one query."""
        return self.items[int(self.offsets[query]) : int(self.offsets[query + 1])]


@dataclass(frozen=True)
class Ablation:
    """What to leave out, to see what it is worth.

    Attributes:
        realtime: encode the query of the events before t; without it, take yesterday's row of the graph.
        cosine: weigh neighbours by cosine instead of by what was learned.
        stale: days by which index, graph and encoder are older than they need be.
    """

    realtime: bool = True
    cosine: bool = False
    stale: int = 0


class Retriever:
    """Answers queries of one lake up to a day.

    Args:
        lake: with embeddings, indexed.
        last: the last day whose events are read.
        ablation: defaults to none.
    """

    def __init__(self, lake: Lake, last: Day, ablation: Ablation | None = None, pools: Pools | None = None) -> None:
        self._lake = lake
        self._settings: Retrieval = lake.config.retrieval
        self._ablation = ablation or Ablation()
        self.pools = pools or Pools(lake, last)
        self._days = lake.user_embeddings.days(lake.config.embedding_version)
        self._kept: _OneDay | None = None

    def available(self, now: int) -> Day | None:
        """The newest day whose vectors were available at an instant, or None."""
        end = day_of(now) - dt.timedelta(days=1 + self._ablation.stale)
        return max((day for day in self._days if day <= end), default=None)

    def vectors(self, users: pa.Array, at: Instants) -> list[NDArray[np.float32] | None]:
        """Query vector of each user at a time, by the encoder of the day that serves it; None where none does."""
        codes = self.pools.log.codes_of(users)
        days = [self.available(int(now)) for now in at]
        out: list[NDArray[np.float32] | None] = [None] * len(days)
        for day in {day for day in days if day is not None}:
            queries = [i for i, d in enumerate(days) if d == day]
            found, _ = encode(
                self._lake, self.pools, self._lake.index("users", day).identity, codes[queries], at[queries]
            )
            for i, vector in zip(queries, found, strict=True):
                out[i] = vector
        return out

    def candidates(self, users: pa.Array, at: Instants, k: int = 100) -> Candidates:
        """Find candidates of each user at a time.

        Args:
            users: q ids.
            at: int64 (q,), microseconds.
            k: candidates a query, at most.
        """
        codes = self.pools.log.codes_of(users)
        chosen: list[Ints] = [np.zeros(0, np.int64)] * len(users)
        scores: list[NDArray[np.float64]] = [np.zeros(0)] * len(users)
        days = [self.available(int(now)) for now in at]
        for day in sorted(set(days), key=lambda d: d or Day.min):
            queries = np.array([i for i, d in enumerate(days) if d == day], np.int64)
            edges = self._edges(day, users, codes, at, queries)
            for i, edge in zip(queries.tolist(), edges, strict=True):
                chosen[i], scores[i] = self._answer(int(codes[i]), int(at[i]), edge, k)
        offsets = np.cumsum([0, *(len(c) for c in chosen)])
        flat = np.concatenate([np.zeros(0, np.int64), *chosen])
        return Candidates(self.pools.ids.take(pa.array(flat)), np.concatenate([np.zeros(0), *scores]), offsets, days)

    def _answer(
        self, user: int, now: int, edges: tuple[Edges, NDArray[np.float64]] | None, k: int
    ) -> tuple[Ints, NDArray[np.float64]]:
        scores = np.zeros(len(self.pools.ids))
        if edges is not None:
            told, weights = edges
            each = np.repeat(weights, np.diff(told.offsets)) * told.decay
            np.add.at(scores, told.items, each)
        excluded = self.pools.seen(user, now) if self._settings.exclude_seen else np.zeros(0, np.int64)
        items = best(scores, self.pools.popularity(day_of(now)), excluded, k)
        return items, scores[items]

    def _edges(
        self, day: Day | None, users: pa.Array, codes: Ints, at: Instants, queries: Ints
    ) -> list[tuple[Edges, NDArray[np.float64]] | None]:
        if day is None:
            return [None] * len(queries)
        if self._kept is None or self._kept.identity.day != day:
            self._kept = _OneDay(self._lake, self.pools, day)
        now = at[queries]
        if self._ablation.realtime:
            found = self._kept.nearest(codes[queries], users.take(pa.array(queries)), now)
        else:
            found = self._kept.yesterdays(codes[queries], users.take(pa.array(queries)), now)
        model = EdgeModel() if self._ablation.cosine else self._kept.graph.model
        return [None if e is None else (e, _normalised(model.weights(e.features))) for e in found]


class _OneDay:
    """Index, graph, encoder and neighbourhood of one day, all of one identity."""

    def __init__(self, lake: Lake, pools: Pools, day: Day) -> None:
        self._lake, self._pools = lake, pools
        self.index: Index = lake.index("users", day)
        self.graph: Graph = lake.graph(day)
        self.identity: Identity = self.index.identity
        self.identity.require(self.graph.identity, "the graph")
        self._near = Neighborhood(self.index, pools, own=not lake.config.retrieval.exclude_seen)

    def nearest(self, codes: Ints, users: pa.Array, now: Instants) -> list[Edges | None]:
        """Edges by a vector of each user's events before `now`; None for one who did nothing."""
        vectors, active = encode(self._lake, self._pools, self.identity, codes, now)
        places = self.index.places(users)
        k = self._lake.config.retrieval.neighbors
        rows, cosines = self.index.search_rows(vectors, k + 1, identity=self.identity)
        return [
            self._near.edges(int(codes[i]), int(places[i]), int(now[i]), *others(rows[i], cosines[i], places[i], k))
            if active[i]
            else None
            for i in range(len(codes))
        ]

    def yesterdays(self, codes: Ints, users: pa.Array, now: Instants) -> list[Edges | None]:
        """Edges by the vectors at the end of the day; None for one who has none."""
        places = self.index.places(users)
        near, cosines = self.index.knn
        return [
            None if p < 0 else self._near.edges(int(codes[i]), int(p), int(now[i]), near[p], cosines[p])
            for i, p in enumerate(places)
        ]


def candidates(lake: Lake, users: object, at: object, k: int) -> Candidates:
    """What `lake.candidates` does."""
    ids = users if isinstance(users, pa.Array) else pa.array(np.atleast_1d(np.asarray(users)).tolist())
    ids = ids.cast(lake.events.schema.field("user_id").type)
    when = np.atleast_1d(as_micros(at, "at"))
    if len(when) not in (1, len(ids)):
        raise SchemaError(f"{len(ids)} users and {len(when)} times given; give one time, or one for each user")
    if k < 1:
        raise SchemaError(f"k={k} given; at least 1 candidate must be asked for")
    if not lake.user_embeddings.days(lake.config.embedding_version):
        raise NotFoundError(f"no user embeddings yet; `tokenlake backfill {lake.root}` makes them")
    when = np.broadcast_to(when, len(ids))
    last = day_of(int(when.max())) if len(ids) else Day.min
    return Retriever(lake, last).candidates(ids, when, k)


def _normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = weights.sum()
    return weights / total if total > 0 else weights
