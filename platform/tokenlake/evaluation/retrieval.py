"""Recall and NDCG of candidates for the user's next positive, with baselines: what `tokenlake evaluate` prints."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import NotFoundError
from tokenlake.evaluation.baselines import ItemKnn, own_past
from tokenlake.evaluation.variants import embed, variants
from tokenlake.features.activity import Instants, take_ranges
from tokenlake.features.keys import Ints
from tokenlake.lake.project import Project
from tokenlake.pipeline.indexing import index_days
from tokenlake.progress import Progress
from tokenlake.retrieval.candidates import Ablation, Retriever
from tokenlake.retrieval.pools import POPULAR, ItemPools, ranks
from tokenlake.times import DAY_US, Day, day_of, day_start
from tokenlake_models.metrics import Interval

ABLATIONS = {
    "cosine weights": Ablation(cosine=True),
    "without realtime": Ablation(realtime=False),
    "1 day staler": Ablation(stale=1),
    "3 days staler": Ablation(stale=3),
    "7 days staler": Ablation(stale=7),
}
OURS, BASELINE, OWN = "U2U2I", "popularity, 28 days", "own past purchases"
_ONE_DAY = dt.timedelta(days=1)
#: Default number of last days with embeddings in a report.
DAYS = 28
#: Queries of one step of a baseline.
_STEP = 128
#: Rank from 0 of each target among its query's candidates; -1 where it is missing.
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class RetrievalScore:
    """Scores of one method on one group of users.

    Attributes:
        users: `all`, `warm` (with a vector the day before) or `cold`.
        recall: share of events whose item is among the candidates.
        ndcg: mean of 1 / log2(rank + 2), 0 for a missing item.
        lift: recall minus the recall of the popularity over 28 days, with a paired 95% user-bootstrap interval.
    """

    method: str
    users: str
    events: int
    recall: float
    ndcg: float
    lift: Interval


@dataclass(frozen=True)
class RetrievalReport:
    """Recall@k and NDCG@k of the next positive item, for every positive event of the last days."""

    first: Day
    last: Day
    k: int
    events: int
    people: int
    scores: list[RetrievalScore]
    #: Number of days whose index and graph were built for the report.
    indexed: int = 0


def retrieval_report(
    lake: Project,
    *,
    days: int = DAYS,
    k: int = 100,
    ablations: bool = False,
    retrain: bool = False,
    resamples: int = 500,
    progress: Progress | None = None,
) -> RetrievalReport:
    """Find candidates right before every positive event of the last days, with every method, and score them.

    Args:
        lake: a lake with embeddings; missing indexes and graphs of these days are built, and counted in `indexed`.
        days: number of last days with embeddings.
        k: candidates per query.
        ablations: include the ablations (`ABLATIONS`).
        retrain: include other encoders (`variants`), which are trained and embedded first where they are missing.
        resamples: number of resamples of the user bootstrap.
        progress: called after each step.

    Raises:
        NotFoundError: there is no embedded day after the bootstrap chunk.
    """
    queries, tell = _Queries.of(lake, days), progress or (lambda *_: None)
    ours = {name: (lake, a) for name, a in ({OURS: Ablation()} | (ABLATIONS if ablations else {})).items()}
    for name, variant in variants(lake).items() if retrain else ():
        embed(variant, name, queries.last, tell)
        ours[name] = (variant, Ablation())
    indexed = sum(_index_missing(made, queries, ablation.stale, tell) for made, ablation in ours.values())
    places = dict(_places(lake, queries, k, ours, tell))
    groups = {"all": np.ones(len(queries.target), bool), "warm": queries.warm, "cold": ~queries.warm}
    scores = [
        _score(method, group, found, places[BASELINE], queries.user, chosen, resamples)
        for group, chosen in groups.items()
        if chosen.any()
        for method, found in places.items()
    ]
    report = RetrievalReport(
        queries.first, queries.last, k, len(queries.target), len(np.unique(queries.user)), scores, indexed
    )
    _record(lake, report)
    return report


@dataclass(frozen=True)
class _Queries:
    """One query for each user and instant with a positive; one target for each positive.

    `who` and `now` (q,) are the queries; `query`, `target` and `user` (n,) the events; `warm` (n,) whether the user had
    a vector the day before.
    """

    pools: ItemPools
    first: Day
    last: Day
    who: Ints
    now: Instants
    query: Ints
    target: Ints
    user: Ints
    warm: NDArray[np.bool_]

    @classmethod
    def of(cls, lake: Project, days: int) -> _Queries:
        version = lake.config.embedding_version
        embedded = lake.user_embeddings.days(version)
        bootstrap = {plan.day for plan in lake.catalog.plans(version) if plan.bootstrap}
        served = [day for day in embedded if day not in bootstrap]
        if not served:
            raise NotFoundError(
                f"no embeddings after the bootstrap chunk yet; `tokenlake backfill {lake.root}` makes them"
            )
        last = embedded[-1]
        first = max(last - dt.timedelta(days=days - 1), served[0] + _ONE_DAY)
        pools = ItemPools(lake, last)
        rows = pools.log.positives.rows
        rows = rows[
            (pools.log.timestamps[rows] >= day_start(first)) & (pools.log.timestamps[rows] < day_start(last + _ONE_DAY))
        ]
        if not len(rows):
            raise NotFoundError(f"no positive event from {first} to {last}; there is nothing to evaluate on")
        keys = np.column_stack([pools.log.timestamps[rows], pools.log.codes[rows]])
        distinct, query = np.unique(keys, axis=0, return_inverse=True)
        codes = pools.log.codes[rows]
        warm = _warm(lake, pools, codes, pools.log.timestamps[rows])
        return cls(pools, first, last, distinct[:, 1], distinct[:, 0], query.ravel(), pools.items[rows], codes, warm)


def _warm(lake: Project, pools: ItemPools, codes: Ints, now: Instants) -> NDArray[np.bool_]:
    embedded, days = lake.user_embeddings.days(lake.config.embedding_version), [day_of(int(t)) for t in now]
    newest = {day: max((d for d in embedded if d < day), default=Day.min) for day in set(days)}
    served, warm = np.array([newest[day] for day in days]), np.zeros(len(codes), bool)
    for day in sorted(set(served)):
        rows = lake.user_embeddings.read(day=day, version=lake.config.embedding_version, columns=["user_id"])
        chosen = served == day
        warm[chosen] = np.isin(codes[chosen], pools.log.codes_of(rows["user_id"].combine_chunks()))
    return warm


def _index_missing(lake: Project, queries: _Queries, stale: int, progress: Progress) -> int:
    """Build missing indexes and graphs of the days that serve the queries; returns the number of days."""
    first = queries.first - dt.timedelta(days=1 + stale)
    embedded = lake.user_embeddings.days(lake.config.embedding_version)
    # If a day is missing, the day before it is used.
    before = [day for day in embedded if day < first][-1:]
    days = [*before, *(day for day in embedded if first <= day < queries.last)]
    return len({result.day for result in index_days(lake, days, progress=progress)})


def _places(
    lake: Project, queries: _Queries, k: int, ours: dict[str, tuple[Project, Ablation]], progress: Progress
) -> Iterator[tuple[str, Positions]]:
    pools, settings = queries.pools, lake.config.retrieval
    knn = ItemKnn(pools, settings)

    def nothing(users: Ints, now: Instants, _: Day) -> NDArray[np.float64]:
        return np.zeros((len(users), len(pools.ids)))

    def again(users: Ints, now: Instants, _: Day) -> NDArray[np.float64]:
        return own_past(pools, users, now)

    rules = partial(_baseline, queries, k, exclude_seen=settings.exclude_seen, progress=progress)
    yield BASELINE, rules(BASELINE, nothing)
    yield "popularity, all time", rules("popularity, all time", nothing, span=None)
    if not settings.exclude_seen:
        yield OWN, rules(OWN, again)
    yield "item-kNN", rules("item-kNN", knn.scores)
    for name, (made, ablation) in ours.items():
        retriever = Retriever(made, queries.last, ablation, pools)
        users = pools.log.users.take(pa.array(queries.who))
        yield name, _ranked(name, queries, k, retriever.scores(users, queries.now), progress)


def _baseline(
    queries: _Queries,
    k: int,
    name: str,
    score: Callable[[Ints, Instants, Day], NDArray[np.float64]],
    *,
    exclude_seen: bool,
    progress: Progress,
    span: dt.timedelta | None = POPULAR,
) -> Positions:
    def scored() -> Iterator[tuple[Ints, NDArray[np.float64]]]:
        days = queries.now // DAY_US
        for day in np.unique(days):
            chosen = np.flatnonzero(days == day)
            for part in np.array_split(chosen, -(-len(chosen) // _STEP)):
                scores = score(queries.who[part], queries.now[part], day_of(int(queries.now[part[0]])))
                if exclude_seen:
                    items, offsets = queries.pools.seen(queries.who[part], queries.now[part])
                    scores[np.repeat(np.arange(len(part)), np.diff(offsets)), items] = -1
                yield part, scores

    return _ranked(name, queries, k, scored(), progress, span)


def _ranked(
    name: str,
    queries: _Queries,
    k: int,
    scored: Iterator[tuple[Ints, NDArray[np.float64]]],
    progress: Progress,
    span: dt.timedelta | None = POPULAR,
) -> Positions:
    """Ranks of the targets among the k best items by score, then popularity, as in `lake.candidates`."""
    places, done = np.full(len(queries.target), -1), 0
    order = np.argsort(queries.query, kind="stable")
    bounds = np.searchsorted(queries.query[order], np.arange(len(queries.who) + 1))
    for part, scores in scored:
        targets, offsets = take_ranges(order, bounds[part], bounds[part + 1])
        rows = np.repeat(np.arange(len(part)), np.diff(offsets))
        days = queries.now[part][rows] // DAY_US
        for day in np.unique(days):
            mine = days == day
            popular = queries.pools.popularity(day_of(int(day) * DAY_US), span)
            found = ranks(scores, popular, rows[mine], queries.target[targets[mine]])
            places[targets[mine]] = np.where(found < k, found, -1)
        done += len(part)
        progress(name, done, len(queries.who))
    return places


def _score(
    method: str,
    group: str,
    places: Positions,
    baseline: Positions,
    users: Ints,
    chosen: NDArray[np.bool_],
    resamples: int,
) -> RetrievalScore:
    found, other = places[chosen], baseline[chosen]
    gain = np.where(found >= 0, 1 / np.log2(np.maximum(found, 0) + 2), 0.0)
    lift = _paired((found >= 0).astype(float) - (other >= 0), users[chosen], resamples)
    return RetrievalScore(method, group, len(found), float((found >= 0).mean()), float(gain.mean()), lift)


def _paired(difference: NDArray[np.float64], users: Ints, resamples: int) -> Interval:
    """Mean difference per event, with the 95% bounds of a user bootstrap."""
    _, codes = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(codes, weights=difference), np.bincount(codes)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(sums), (resamples, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def _record(lake: Project, report: RetrievalReport) -> None:
    with lake.catalog.run("evaluate-retrieval", report.last, lake.config.embedding_version) as run:
        for score in report.scores:
            of = {"method": score.method, "users": score.users, "k": report.k}
            run.metric("recall", score.recall, **of)
            run.metric("ndcg", score.ndcg, **of)
