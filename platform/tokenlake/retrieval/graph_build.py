"""Makes a day's graph of similar users: weights fitted to what followed an earlier day, and its rows of `edges`."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.lake.lake import Lake
from tokenlake.pipeline.embedding import questions
from tokenlake.pipeline.keys import Ints
from tokenlake.retrieval import artefacts
from tokenlake.retrieval.artefacts import GRAPH, GRAPH_MADE, folder_of
from tokenlake.retrieval.edges import EdgeModel, Neighborhood
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.index import Index
from tokenlake.retrieval.pools import Pools
from tokenlake.retrieval.queries import encode, others
from tokenlake.times import Day, day_start

_ONE_DAY = dt.timedelta(days=1)
#: Questions that edge weights are fitted to, at most.
_QUESTIONS = 1500


def fitted_on(lake: Lake, day: Day) -> Day | None:
    """The day whose vectors the edge weights of `day` are fitted on: what happened since is known by then."""
    settings = lake.config.retrieval
    bound = day - dt.timedelta(days=settings.edge_days)
    earlier = [d for d in lake.user_embeddings.days(lake.config.embedding_version) if d <= bound]
    return earlier[-1] if earlier and settings.weights == "learned" else None


def build_graph(lake: Lake, day: Day) -> None:
    """Build and publish a day's graph: the file, then its rows of `edges`, then the note that both are there.

    A reader of either sees the old one or the new one whole. Killed in between, the day has no note, and is built again.
    The indexes of the day and of `fitted_on` must be there, and the caller holds the lock.
    """
    stamp, watermark = artefacts.stamp(lake, day), lake.watermark()
    graph = make_graph(lake, day)
    folder = folder_of(lake, day)
    (folder / GRAPH_MADE).unlink(missing_ok=True)
    graph.save(folder / GRAPH)
    write_edges(lake, graph)
    source, model = fitted_on(lake, day), graph.model
    stats = {"weights": model.kind, "hits": model.hits, "fitted_on": str(source), "edges": len(graph.targets)}
    artefacts.record(lake, "graph", graph.identity, len(graph), stats)
    made = {"stamp": stamp, "edges": len(graph.targets), "watermark": watermark, "fitted_on": str(source)}
    artefacts.write_made(folder / GRAPH_MADE, made, [folder / GRAPH])


def make_graph(lake: Lake, day: Day) -> Graph:
    """A day's graph, of its indexes and of the events up to its end."""
    pools = Pools(lake, day)
    own = not lake.config.retrieval.exclude_seen
    source, model = fitted_on(lake, day), EdgeModel()
    if source is not None:
        model = _fit(lake, pools, Neighborhood(Index(folder_of(lake, source) / "users"), pools, own=own), day)
    index = Index(folder_of(lake, day) / "users")
    return _graph(Neighborhood(index, pools, own=own), model, day_start(day + _ONE_DAY), own=own)


def write_edges(lake: Lake, graph: Graph) -> None:
    """Replace a day of the `edges` table by a graph's, in one commit."""
    rows = {
        "src": graph.ids.take(pa.array(graph.sources)),
        "dst": graph.ids.take(pa.array(graph.targets)),
        "weight": pa.array(graph.weights),
    }
    lake.edges.replace_day(graph.identity.day, pa.table(rows), version=graph.identity.version)


def _fit(lake: Lake, pools: Pools, near: Neighborhood, day: Day) -> EdgeModel:
    """Fit edge weights to the positives between the index's day and the end of `day`."""
    since, end = day_start(near.index.identity.day + _ONE_DAY), day_start(day + _ONE_DAY)
    assert lake.config.embeddings is not None
    codes, now, positives, offsets = questions(pools.log, since, end, lake.config.embeddings.group)
    chosen = np.sort(np.random.default_rng(day.toordinal()).permutation(len(codes))[:_QUESTIONS])
    if not len(chosen):
        return EdgeModel()
    codes, now, k = codes[chosen], now[chosen], lake.config.retrieval.neighbors
    vectors, active = encode(lake, pools, near.index.identity, codes, now)
    places = near.index.places(pools.log.users.take(pa.array(codes)))
    rows, cosines = near.index.search_rows(vectors, k + 1)
    features, hits, trials = [], [], []
    for i, question in enumerate(chosen.tolist()):
        if not active[i]:
            continue
        edges = near.edges(int(codes[i]), int(places[i]), int(now[i]), *others(rows[i], cosines[i], places[i], k))
        next_items = pools.items[positives[offsets[question] : offsets[question + 1]]]
        wanted = np.bincount(next_items, minlength=len(pools.ids))
        can = np.ones(len(pools.ids))
        if lake.config.retrieval.exclude_seen:
            can[pools.seen(int(codes[i]), int(now[i]))] = 0
        features.append(edges.features)
        hits.append(edges.sums((wanted * can)[edges.items] * edges.decay))
        trials.append(edges.sums(can[edges.items] * edges.decay))
    if not features:
        return EdgeModel()
    return EdgeModel.fit(np.concatenate(features), np.concatenate(hits), np.concatenate(trials))


def _graph(near: Neighborhood, model: EdgeModel, now: int, *, own: bool) -> Graph:
    index = near.index
    codes = near.pools.log.codes_of(index.ids)
    targets: list[Ints] = []
    weights: list[NDArray[np.float64]] = []
    selves = np.zeros(len(index))
    for place in range(len(index)):
        edges = near.edges(int(codes[place]), place, now, index.knn[0][place], index.knn[1][place])
        given = model.weights(edges.features)
        count = len(given) - own
        total = given[:count].sum()
        scaled = given[:count] / total if total > 0 else np.full(count, 1 / max(count, 1))
        selves[place] = given[count] / total if own and total > 0 else 0.0
        order = np.lexsort((edges.rows[:count], -scaled))
        targets.append(edges.rows[:count][order])
        weights.append(scaled[order])
    offsets = np.cumsum([0, *(len(t) for t in targets)])
    joined = np.concatenate([np.zeros(0, np.int64), *targets]), np.concatenate([np.zeros(0), *weights])
    return Graph(index.identity, index.ids, offsets, *joined, selves, model)
