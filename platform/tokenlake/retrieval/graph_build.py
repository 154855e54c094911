"""Builds a day's graph of similar users and its rows of `edges`; the weights are fitted on events after an earlier day."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from tokenlake.features.activity import take_ranges, training_queries
from tokenlake.features.keys import Ints
from tokenlake.lake.project import Project
from tokenlake.retrieval import artefacts
from tokenlake.retrieval.artefacts import GRAPH, GRAPH_INFO, folder_of
from tokenlake.retrieval.edges import FEATURES, EdgeFeatures, EdgeModel
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.index import Index
from tokenlake.retrieval.pools import ItemPools
from tokenlake.retrieval.queries import drop_self, encode
from tokenlake.times import Day, day_start

_ONE_DAY = dt.timedelta(days=1)
#: Most queries that the edge weights are fitted on.
_QUESTIONS = 1500
#: Most users of one step, and most elements of one (users, items) matrix.
_STEP, _CELLS = 128, 1 << 22


def fitted_on(lake: Project, day: Day) -> Day | None:
    """The earlier day whose vectors the edge weights of `day` are fitted on, since the events after it are known by then."""
    settings = lake.config.retrieval
    bound = day - dt.timedelta(days=settings.edge_days)
    earlier = [d for d in lake.user_embeddings.days(lake.config.embedding_version) if d <= bound]
    return earlier[-1] if earlier and settings.weights == "learned" else None


def build_graph(lake: Project, day: Day) -> None:
    """Build and publish a day's graph: the graph file, then its rows of `edges`, then the build info.

    A reader sees the complete old or new graph. If the process is killed in between, the day has no build info, and is
    built again. The indexes of the day and of `fitted_on` must exist, and the caller holds the lock.
    """
    stamp, watermark = artefacts.build_info(lake, day), lake.watermark()
    graph = make_graph(lake, day)
    folder = folder_of(lake, day)
    (folder / GRAPH_INFO).unlink(missing_ok=True)
    graph.save(folder / GRAPH)
    write_edges(lake, graph)
    source, model = fitted_on(lake, day), graph.model
    stats = {"weights": model.kind, "hits": model.hits, "fitted_on": str(source), "edges": len(graph.targets)}
    artefacts.record(lake, "graph", graph.identity, len(graph), stats)
    made = {"stamp": stamp, "edges": len(graph.targets), "watermark": watermark, "fitted_on": str(source)}
    artefacts.write_info(folder / GRAPH_INFO, made, [folder / GRAPH])


def make_graph(lake: Project, day: Day) -> Graph:
    """Compute a day's graph from its indexes and the events up to its end."""
    source, model = fitted_on(lake, day), EdgeModel()
    pools, own = ItemPools(lake, day, source or day), not lake.config.retrieval.exclude_seen
    if source is not None:
        model = _fit(lake, pools, EdgeFeatures(Index(folder_of(lake, source) / "users"), pools, own=own), day)
    index = Index(folder_of(lake, day) / "users")
    return _graph(EdgeFeatures(index, pools, own=own), model, day_start(day + _ONE_DAY), own=own)


def write_edges(lake: Project, graph: Graph) -> None:
    """Replace a day of the `edges` table by the edges of a graph, in one commit."""
    lake.edges.replace_day(graph.identity.day, graph.edges(), version=graph.identity.version)


def _fit(lake: Project, pools: ItemPools, near: EdgeFeatures, day: Day) -> EdgeModel:
    """Fit edge weights to the positives between the index's day and the end of `day`."""
    since, end = day_start(near.index.identity.day + _ONE_DAY), day_start(day + _ONE_DAY)
    codes, now, positives, offsets = training_queries(pools.log, since, end, lake.config.require_embeddings().group)
    chosen = np.sort(np.random.default_rng(day.toordinal()).permutation(len(codes))[:_QUESTIONS])
    if not len(chosen):
        return EdgeModel()
    codes, now, k = codes[chosen], now[chosen], lake.config.retrieval.neighbors
    vectors, active = encode(lake, pools, near.index.identity, codes, now)
    places = near.index.places(pools.log.users.take(pa.array(codes)))
    rows, cosines = drop_self(*near.index.search_rows(vectors, k + 1), places)
    features, hits, trials = [np.zeros((0, len(FEATURES)))], [np.zeros(0)], [np.zeros(0)]
    for part in _parts(np.flatnonzero(active), pools):
        edges = near.edges(codes[part], places[part], now[part], rows[part], cosines[part])
        wanted = np.zeros((len(part), len(pools.ids)))
        questions_of, begins = take_ranges(positives, offsets[chosen[part]], offsets[chosen[part] + 1])
        np.add.at(wanted, (np.repeat(np.arange(len(part)), np.diff(begins)), pools.items[questions_of]), 1)
        can = np.ones(wanted.shape)
        if lake.config.retrieval.exclude_seen:
            seen, ends = pools.seen(codes[part], now[part])
            can[np.repeat(np.arange(len(part)), np.diff(ends)), seen] = 0
        cells = edges.owners(), edges.items
        features.append(edges.features)
        hits.append(edges.sums((wanted * can)[cells] * edges.decay))
        trials.append(edges.sums(can[cells] * edges.decay))
    return EdgeModel.fit(np.concatenate(features), np.concatenate(hits), np.concatenate(trials))


def _parts(queries: Ints, pools: ItemPools) -> list[Ints]:
    """Split queries into parts, so that a (queries, items) matrix stays small."""
    step = max(1, min(_STEP, _CELLS // max(len(pools.ids), 1)))
    return np.array_split(queries, -(-len(queries) // step)) if len(queries) else []


def _graph(near: EdgeFeatures, model: EdgeModel, now: int, *, own: bool) -> Graph:
    index = near.index
    codes = near.pools.log.codes_of(index.ids)
    targets, weights, lengths, selves = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for part in _parts(np.arange(len(index)), near.pools):
        near_rows, cosines = index.knn[0][part], index.knn[1][part]
        edges = near.edges(codes[part], part, np.full(len(part), now), near_rows, cosines)
        given, owner = model.weights(edges.features), np.repeat(np.arange(len(part)), np.diff(edges.queries))
        else_ = edges.features[:, FEATURES.index("own")] == 0
        totals = np.bincount(owner[else_], weights=given[else_], minlength=len(part))
        counts = np.bincount(owner[else_], minlength=len(part))
        scaled = np.where(
            totals[owner] > 0, given / np.where(totals > 0, totals, 1)[owner], 1 / np.maximum(counts, 1)[owner]
        )
        selves.append(np.where(totals > 0, scaled[edges.queries[1:] - 1], 0.0) if own else np.zeros(len(part)))
        owner, scaled, rows = owner[else_], scaled[else_], edges.rows[else_]
        order = np.lexsort((rows, -scaled, owner))
        targets.append(rows[order])
        weights.append(scaled[order])
        lengths.append(counts)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return Graph(
        index.identity,
        index.ids,
        offsets,
        np.concatenate(targets),
        np.concatenate(weights),
        np.concatenate(selves),
        model,
    )
