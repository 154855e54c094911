"""Makes a day's indexes and graph of its embeddings. They are derived: deleted, they are made again when asked for."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.catalog import IndexVersion
from tokenlake.errors import CorruptionError, NotFoundError
from tokenlake.lake.lake import Lake
from tokenlake.lake.tables import Table
from tokenlake.locks import hold
from tokenlake.pipeline.embedding import questions
from tokenlake.pipeline.keys import Ints
from tokenlake.pipeline.publishing import token_matrix
from tokenlake.retrieval.edges import EdgeModel, Neighborhood
from tokenlake.retrieval.faiss_build import build, require_faiss
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.identity import Identity
from tokenlake.retrieval.index import Index, request
from tokenlake.retrieval.pools import Pools
from tokenlake.retrieval.queries import encode, others
from tokenlake.times import Day, day_start

NAMES = ("users", "items")
_ONE_DAY = dt.timedelta(days=1)
_PATIENCE = 600.0
#: Questions that edge weights are fitted to, at most.
_QUESTIONS = 1500


def folder_of(lake: Lake, day: Day) -> Path:
    """Where a day's indexes and graph lie."""
    return lake.data / "retrieval" / lake.config.embedding_version / day.isoformat()


def ensure(lake: Lake, days: Iterable[Day], *, rebuild: bool = False) -> list[Day]:
    """Build what is missing of some days' indexes and graphs; returns the days that were built.

    Raises:
        MissingExtraError: faiss is not installed.
        NotFoundError: a day without embeddings.
    """
    require_faiss()
    wanted = sorted(set(days))
    with hold(lake.data / "locks" / "retrieval", "building indexes", timeout=_PATIENCE):
        stale = [day for day in wanted if rebuild or not is_current(lake, day)]
        sources = {day: _fitted_on(lake, day) for day in stale}
        fits = [day for day in sources.values() if day is not None and day not in stale and not is_current(lake, day)]
        _build_indexes(lake, sorted({*stale, *fits}))
        for day in stale:
            _build_graph(lake, day, sources[day])
    return stale


def load_index(lake: Lake, name: str, day: Day | None) -> Index:
    """What `lake.index` does."""
    if name not in NAMES:
        raise NotFoundError(f"no index {name!r}; there are {list(NAMES)}")
    day = _newest(lake, day)
    if not is_current(lake, day):
        ensure(lake, [day])
    return Index(folder_of(lake, day) / name)


def load_graph(lake: Lake, day: Day | None) -> Graph:
    """What `lake.graph` does."""
    day = _newest(lake, day)
    if not is_current(lake, day) or not (folder_of(lake, day) / "graph.arrow").exists():
        ensure(lake, [day], rebuild=is_current(lake, day))
    return Graph.load(folder_of(lake, day) / "graph.arrow")


def _newest(lake: Lake, day: Day | None) -> Day:
    days = lake.user_embeddings.days(lake.config.embedding_version)
    if not days or (day is not None and day not in days):
        raise NotFoundError(
            f"no embeddings of {day or 'any day'} yet; `tokenlake backfill {lake.root}` makes them"
            + (f" (there are {days[0]} to {days[-1]})" if days else "")
        )
    return days[-1] if day is None else day


def is_current(lake: Lake, day: Day) -> bool:
    """Whether a day's indexes are of the embeddings that stand, and so is its graph, where it has one."""
    folder = folder_of(lake, day)
    try:
        stamp = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(stamp == _stamp(lake, day)) and (folder / "graph.arrow").exists()


def _stamp(lake: Lake, day: Day) -> dict[str, object]:
    """Changes whenever the day's embeddings were written again, or the settings changed."""
    version = lake.config.embedding_version
    return {
        "files": sorted(Path(u).name for t in _tables(lake).values() for u in t.uris(day=day, version=version)),
        "settings": lake.config.retrieval.model_dump(mode="json"),
    }


def _tables(lake: Lake) -> dict[str, Table]:
    return {"users": lake.user_embeddings, "items": lake.item_embeddings}


def _build_indexes(lake: Lake, days: list[Day]) -> None:
    if not days:
        return
    parts: dict[Day, Path] = {}
    settings = lake.config.retrieval
    root = lake.data / "retrieval" / lake.config.embedding_version
    root.mkdir(parents=True, exist_ok=True)
    try:
        for day in days:
            parts[day] = Path(tempfile.mkdtemp(prefix=f".{day}-", dir=root))
            for name, table in _tables(lake).items():
                identity, ids, vectors = read_vectors(table, lake.config.embedding_version, day)
                wish = {"neighbors": settings.neighbors, "exact_below": settings.exact_below}
                request(parts[day] / name, identity, ids, vectors, **wish)
            (parts[day] / "made.json").write_text(json.dumps(_stamp(lake, day)), encoding="utf-8")
        build([part / name for part in parts.values() for name in NAMES])
        for day, part in parts.items():
            shutil.rmtree(folder_of(lake, day), ignore_errors=True)
            part.chmod(0o755)
            part.rename(folder_of(lake, day))
            for name in NAMES:
                index = Index(folder_of(lake, day) / name)
                _record(lake, name, index.identity, len(index), index.stats)
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)


def read_vectors(table: Table, version: str, day: Day) -> tuple[Identity, pa.Array, NDArray[np.float32]]:
    """A day's vectors by id, and their identity.

    Raises:
        NotFoundError: there are none.
        CorruptionError: they are of more than one checkpoint.
    """
    rows = table.read(day=day, version=version)
    if not rows.num_rows:
        raise NotFoundError(f"{table.path.name} has no rows of {day}; `tokenlake run {day}` makes them")
    rows = rows.sort_by(rows.schema.names[0])
    made_by = rows["checkpoint"].unique().to_pylist()
    if len(made_by) > 1:
        raise CorruptionError(f"{table.path.name} of {day} is of the checkpoints {made_by}; run that day again")
    identity = Identity(version, made_by[0], day)
    return identity, rows[rows.schema.names[0]].combine_chunks(), np.ascontiguousarray(token_matrix(rows["embedding"]))


def _record(lake: Lake, name: str, identity: Identity, rows: int, stats: Mapping[str, object]) -> None:
    path = str(folder_of(lake, identity.day))
    lake.catalog.add_index(
        IndexVersion(name, identity.version, identity.checkpoint, identity.day, path, rows, stats=stats)
    )


def _fitted_on(lake: Lake, day: Day) -> Day | None:
    """The day whose vectors the edge weights of `day` are fitted on: what happened since is known by then."""
    settings = lake.config.retrieval
    bound = day - dt.timedelta(days=settings.edge_days)
    earlier = [d for d in lake.user_embeddings.days(lake.config.embedding_version) if d <= bound]
    return earlier[-1] if earlier and settings.weights == "learned" else None


def _build_graph(lake: Lake, day: Day, fitted_on: Day | None) -> None:
    pools = Pools(lake, day)
    own = not lake.config.retrieval.exclude_seen
    model = EdgeModel()
    if fitted_on is not None:
        model = _fit(lake, pools, Neighborhood(Index(folder_of(lake, fitted_on) / "users"), pools, own=own), day)
    index = Index(folder_of(lake, day) / "users")
    graph = _graph(Neighborhood(index, pools, own=own), model, day_start(day + _ONE_DAY), own=own)
    graph.save(folder_of(lake, day) / "graph.arrow")
    stats = {"weights": model.kind, "hits": model.hits, "fitted_on": str(fitted_on), "edges": len(graph.targets)}
    _record(lake, "graph", graph.identity, len(graph), stats)


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
