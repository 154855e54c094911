"""Candidates of a user from the items of similar users (U2U2I, arXiv 2406.05898; docs/retrieval.md).

    score(item) = sum over neighbours v of u: w(u, v) * sum over v's positives of the item before t: decay(age)

The query vector of u is encoded from its events before t; neighbours, their vectors and the model of the weights are
those of the newest day that was available at t. Missing candidates are filled up with the most popular items.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.config import Retrieval
from tokenlake.errors import NotFoundError, SchemaError
from tokenlake.features.activity import Instants
from tokenlake.features.keys import Ints
from tokenlake.lake.project import Project
from tokenlake.retrieval.edges import EdgeFeatures, EdgeModel, Edges, shares
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.identity import Identity
from tokenlake.retrieval.index import Index
from tokenlake.retrieval.load import load_graph, load_index, serving_day
from tokenlake.retrieval.pools import ItemPools, best
from tokenlake.retrieval.queries import drop_self, encode
from tokenlake.times import Day, as_micros, day_of
from tokenlake.tokens.ids import query_ids

#: Most queries of one step, and most elements of one score matrix.
_STEP, _CELLS = 128, 1 << 22


@dataclass(frozen=True)
class Candidates:
    """Candidates of q queries, best first: jagged.

    Attributes:
        items: Arrow array (total,) of item ids.
        scores: float64 (total,); 0 for items that were filled up by popularity.
        offsets: int64 (q + 1,).
        days: for each query the day of the index and graph that were used; None where none was available.
    """

    items: pa.Array
    scores: NDArray[np.float64]
    offsets: Ints
    days: list[Day | None]

    def of(self, query: int) -> pa.Array:
        """Candidate items of one query."""
        return self.items[int(self.offsets[query]) : int(self.offsets[query + 1])]


@dataclass(frozen=True)
class Ablation:
    """Parts of the retrieval to switch off, to measure what each contributes.

    Attributes:
        realtime: encode the query vector from the events before t; False: use the user's row of the graph.
        cosine: weigh neighbours by cosine instead of the learned weights.
        stale: use an index, graph and encoder that are this many days older.
    """

    realtime: bool = True
    cosine: bool = False
    stale: int = 0


class Retriever:
    """Finds candidates in one lake, for query times up to the end of a day.

    Args:
        lake: a lake with embeddings and indexes.
        last: the last day whose events are read.
        ablation: defaults to none.
    """

    def __init__(
        self, lake: Project, last: Day, ablation: Ablation | None = None, pools: ItemPools | None = None
    ) -> None:
        self._lake = lake
        self._settings: Retrieval = lake.config.retrieval
        self._ablation = ablation or Ablation()
        self.pools = pools or ItemPools(lake, last)
        self._days = lake.user_embeddings.days(lake.config.embedding_version)
        self._served: dict[Day, Day | None] = {}
        self._serving: _ServingDay | None = None

    def available(self, now: int) -> Day | None:
        """The newest day whose index and graph were available at an instant, or None: `load.serving_day`."""
        end = day_of(now) - dt.timedelta(days=1 + self._ablation.stale)
        if end not in self._served:
            self._served[end] = serving_day(self._lake, self._days, end)
        return self._served[end]

    def candidates(self, users: pa.Array, at: Instants, k: int = 100) -> Candidates:
        """Find candidates of each user at a time.

        Args:
            users: q ids.
            at: int64 (q,), microseconds.
            k: most candidates of a query.
        """
        best_of: list[Ints] = [np.zeros(0, np.int64)] * len(users)
        scores_of: list[NDArray[np.float64]] = [np.zeros(0)] * len(users)
        for queries, scores in self.scores(users, at):
            for i, row in zip(queries.tolist(), scores, strict=True):
                best_of[i] = best(row, self.pools.popularity(day_of(int(at[i]))), k)
                scores_of[i] = row[best_of[i]]
        offsets = np.cumsum([0, *(len(c) for c in best_of)])
        flat = np.concatenate([np.zeros(0, np.int64), *best_of])
        days = [self.available(int(now)) for now in at]
        return Candidates(self.pools.ids.take(pa.array(flat)), np.concatenate([np.zeros(0), *scores_of]), offsets, days)

    def scores(self, users: pa.Array, at: Instants) -> Iterator[tuple[Ints, NDArray[np.float64]]]:
        """Score every item for each query: yields query indices and (queries, items) scores, -1 for an excluded item."""
        codes = self.pools.log.codes_of(users)
        served = np.array([self.available(int(now)) or Day.min for now in at])
        step = max(1, min(_STEP, _CELLS // max(len(self.pools.ids), 1)))
        for day in sorted(set(served.tolist())):
            queries = np.flatnonzero(served == day)
            for part in np.array_split(queries, -(-len(queries) // step)):
                scores = self._scores(day, users.take(pa.array(part)), codes[part], at[part])
                if self._settings.exclude_seen:
                    items, offsets = self.pools.seen(codes[part], at[part])
                    scores[np.repeat(np.arange(len(part)), np.diff(offsets)), items] = -1
                yield part, scores

    def _scores(self, day: Day, users: pa.Array, codes: Ints, now: Instants) -> NDArray[np.float64]:
        shape = len(codes), len(self.pools.ids)
        if day == Day.min:
            return np.zeros(shape)
        if self._serving is None or self._serving.identity.day != day:
            self._serving = _ServingDay(self._lake, self.pools, day)
        edges = self._serving.edges(users, codes, now, realtime=self._ablation.realtime)
        model = EdgeModel() if self._ablation.cosine else self._serving.graph.model
        weights = shares(model.weights(edges.features), edges.queries)
        each = np.repeat(weights, np.diff(edges.offsets)) * edges.decay
        cells = edges.owners() * shape[1] + edges.items
        scores = np.bincount(cells, weights=each, minlength=shape[0] * shape[1])
        return np.asarray(scores, np.float64).reshape(shape)  # without events, `bincount` returns integers


class _ServingDay:
    """Index, graph, encoder and edge features of one day, all with the same identity."""

    def __init__(self, lake: Project, pools: ItemPools, day: Day) -> None:
        self._lake, self._pools = lake, pools
        self.index: Index = load_index(lake, "users", day)
        self.graph: Graph = load_graph(lake, day)
        self.identity: Identity = self.index.identity
        self.identity.require(self.graph.identity, "the graph")
        self._edge_features = EdgeFeatures(self.index, pools, own=not lake.config.retrieval.exclude_seen)

    def edges(self, users: pa.Array, codes: Ints, now: Instants, *, realtime: bool) -> Edges:
        """Edges of users at query times, by a vector of their earlier events, or else by their row of the day's index."""
        places = self.index.places(users)
        if realtime:
            vectors, known = encode(self._lake, self._pools, self.identity, codes, now)
            k = self._lake.config.retrieval.neighbors
            rows, cosines = drop_self(*self.index.search_rows(vectors, k + 1, identity=self.identity), places)
        else:
            known = places >= 0
            rows, cosines = self.index.knn[0][places], self.index.knn[1][places]
        edges = self._edge_features.edges(codes[known], places[known], now[known], rows[known], cosines[known])
        counts = np.zeros(len(codes), np.int64)
        counts[known] = np.diff(edges.queries)
        return replace(edges, queries=np.concatenate([[0], np.cumsum(counts)]))


def candidates(lake: Project, users: object, at: object, k: int) -> Candidates:
    """Find candidates of users at query times; implements `lake.candidates`."""
    ids = query_ids(users, lake.events.schema.field("user_id").type)
    when = np.atleast_1d(as_micros(at, "at"))
    if len(when) not in (1, len(ids)):
        raise SchemaError(f"{len(ids)} users and {len(when)} times given; give one time, or one for each user")
    if k < 1:
        raise SchemaError(f"k={k} given; at least 1 candidate must be asked for")
    if not lake.user_embeddings.days(lake.config.embedding_version):
        raise NotFoundError(f"no user embeddings yet; `tokenlake backfill {lake.root}` makes them")
    when = np.broadcast_to(when, len(ids))
    last = day_of(int(when.max())) if len(ids) else Day.min
    first = day_of(int(when.min())) if len(ids) else Day.min
    return Retriever(lake, last, pools=ItemPools(lake, last, first)).candidates(ids, when, k)
