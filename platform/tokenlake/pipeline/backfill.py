"""A day, or many days, of all jobs, in order: what `lake.run` and `lake.backfill` do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias, get_args

from tokenlake.catalog import Plan
from tokenlake.config import EMBEDDINGS, Ensemble, Ranker
from tokenlake.errors import ConfigError
from tokenlake.feast import repository
from tokenlake.features.aggregations import Aggregations
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.features.versions import finished, is_embeddings, is_model, model_of, register
from tokenlake.lake.project import Project
from tokenlake.pipeline import count_states, jobs
from tokenlake.pipeline.indexing import index_days
from tokenlake.pipeline.job import Job, JobResult
from tokenlake.pipeline.materialization import is_current
from tokenlake.pipeline.models import MODEL_JOBS, plan_of, predict, train_model
from tokenlake.pipeline.plan import plan_chunks
from tokenlake.pipeline.statistics import STATISTICS, stale_days
from tokenlake.progress import Progress
from tokenlake.times import Day, days_between

#: Which days of a back-fill get indexes and graphs.
Indexed: TypeAlias = Literal["last", "all"]


@dataclass
class Report:
    """What a run did.

    Attributes:
        results: one per job that ran, in order.
        skipped: (version, day) pairs that were done already.
        seconds: wall clock.
    """

    results: list[JobResult] = field(default_factory=list)
    skipped: list[tuple[str, Day]] = field(default_factory=list)
    seconds: float = 0.0


def run(lake: Project, day: Day, *, force: bool = False, progress: Progress | None = None) -> Report:
    """Run all jobs of one day for every version of the config; done days are left alone unless forced."""
    began = time.monotonic()
    report = Report([jobs.ingest(lake, day)])
    if report.results[0].status == "done":
        for version in daily_versions(lake):
            _run_day(lake, version, day, report, force=force)
            if is_embeddings(version):
                report.results += index_days(lake, [day])
            if progress:
                progress(version, 1, 1)
        to_feast(lake, [day], report, progress)
    report.seconds = time.monotonic() - began
    return report


def backfill(
    lake: Project,
    first: Day | None = None,
    last: Day | None = None,
    *,
    version: str | None = None,
    chunk_days: int | None = None,
    index: Indexed = "last",
    progress: Progress | None = None,
) -> Report:
    """Run all jobs of a range of days, for one version or for all of them, training once per chunk.

    `index` tells which days' embeddings are indexed and linked: the "last" day's, or "all" days'.

    Raw files of `landing` are ingested for days of the range that have no events yet. Interrupted, it resumes where it
    stopped: days that are done and not marked for a restatement are left alone.
    """
    began = time.monotonic()
    report = Report()
    if index not in get_args(Indexed):
        raise ConfigError(f"index={index!r} given; expected one of {list(get_args(Indexed))}")
    _ingest_missing(lake, first, last, report)
    days = days_of(lake, first, last)
    chunk = chunk_days or lake.config.tokens.chunk_days
    if lake.config.counts is not None:
        lake.shared(Aggregations).roll_on(lake.watermark(), progress=progress)
    for name in [_resolve(lake, version)] if version else daily_versions(lake):
        register(lake, name)
        _backfill_version(lake, name, days, chunk, report, progress)
        if is_embeddings(name):
            report.results += index_days(lake, days if index == "all" else days[-1:], progress=progress)
    lake.shared(DayFeatureCache).save_state()
    if version is None:
        to_feast(lake, days, report, progress)
    report.seconds = time.monotonic() - began
    return report


def has_work(lake: Project, version: str, first: Day | None, last: Day | None) -> bool:
    """Whether a back-fill of these days would make anything for a version; indexes don't count."""
    untouched = finished(lake, version)
    return bool(_unread(lake, first, last)) or any(day not in untouched for day in days_of(lake, first, last))


def days_of(lake: Project, first: Day | None, last: Day | None) -> list[Day]:
    """Days with events from one day to another; None for no bound."""
    return [d for d in lake.events.days() if (first is None or d >= first) and (last is None or d <= last)]


def to_feast(lake: Project, days: Sequence[Day], report: Report, progress: Progress | None = None) -> None:
    """Bring Feast up to date, where the lake has a feature repository: statistics and counts of each day, then all views.

    Days that are up to date are left alone.
    """
    count_statistics(lake, days, report, progress)
    hold_counts(lake, days, report, progress)
    if days and repository.exists(lake.root) and not is_current(lake, days[-1]):
        report.results.append(jobs.materialize(lake, days[-1], progress))


def count_statistics(lake: Project, days: Sequence[Day], report: Report, progress: Progress | None = None) -> None:
    """Bring user statistics up to date, where the lake has a feature repository that serves them."""
    if not days or not repository.exists(lake.root):
        return
    todo = stale_days(lake, days)
    for i, day in enumerate(todo):
        report.results.append(jobs.statistics(lake, day))
        if progress:
            progress(STATISTICS, i + 1, len(todo))


def hold_counts(lake: Project, days: Sequence[Day], report: Report, progress: Progress | None = None) -> None:
    """Bring what Feast holds of declared aggregations up to date, where the lake has a feature repository and any are served."""
    if not days or not lake.config.served_counts or not repository.exists(lake.root):
        return
    todo = count_states.stale_days(lake, days)
    for i, day in enumerate(todo):
        report.results.append(jobs.counts(lake, day))
        if progress:
            progress(count_states.COUNTS, i + 1, len(todo))


def all_versions(lake: Project) -> list[str]:
    """Versions of the config's encoders, the serving one first."""
    serving = lake.resolve()
    versions = [lake.config.version_of(name) for name in lake.config.tokens.encoders]
    return sorted(versions, key=lambda version: version != serving)


def daily_versions(lake: Project) -> list[str]:
    """Every version that the daily jobs make: what a version reads of another stands behind it."""
    return [version for stage in daily_stages(lake) for version in stage]


def daily_stages(lake: Project) -> list[list[str]]:
    """The versions that the daily jobs make, in stages: versions of one stage read nothing of each other.

    Encoders, the serving one first, and the embeddings; then rankers; then ensembles.
    """
    embeddings = [lake.config.embedding_version] if lake.config.embeddings else []
    return [all_versions(lake) + embeddings, _versions_of(lake, Ranker), _versions_of(lake, Ensemble)]


def model_versions(lake: Project) -> list[str]:
    """Versions of the config's models, ensembles last."""
    return _versions_of(lake, Ranker) + _versions_of(lake, Ensemble)


def _versions_of(lake: Project, kind: type[Ranker | Ensemble]) -> list[str]:
    return [lake.config.model_version(name) for name, model in lake.config.models.items() if isinstance(model, kind)]


def _resolve(lake: Project, version: str) -> str:
    if version in (EMBEDDINGS, lake.config.embeddings and lake.config.embedding_version):
        return lake.config.embedding_version
    if version in lake.config.models:
        return lake.config.model_version(version)
    return version if version in model_versions(lake) else lake.resolve(version)


def _jobs_of(lake: Project, version: str, progress: Progress | None = None) -> Sequence[Job]:
    """The jobs of a version; a day is done when the last of them is."""
    if is_model(lake, version):
        return (partial(train_model, progress=progress), predict) if progress else MODEL_JOBS
    return jobs.EMBEDDING_JOBS if is_embeddings(version) else jobs.TOKEN_JOBS


def _chunks(lake: Project, version: str, days: list[Day], chunk_days: int) -> Iterator[list[Plan]]:
    """Plans of days, those of one training together."""
    if not is_model(lake, version):
        yield from plan_chunks(lake, version, days, chunk_days)
        return
    model = model_of(lake, version)
    if isinstance(model, Ranker):
        yield from plan_chunks(lake, version, days, chunk_days, learn_days=model.learn_days)
    else:
        yield from ([plan_of(lake, model, version, day)] for day in days)


def _backfill_version(
    lake: Project, version: str, days: list[Day], chunk: int, report: Report, progress: Progress | None
) -> None:
    up_to_date = _up_to_date(lake, version)
    done = 0
    for plans in _chunks(lake, version, days, chunk):
        for plan in plans:
            if plan.day in up_to_date:
                report.skipped.append((version, plan.day))
            else:
                _run_day(lake, version, plan.day, report, force=True, progress=progress)
            done += 1
            if progress:
                progress(version, done, len(days))


def _run_day(
    lake: Project, version: str, day: Day, report: Report, *, force: bool, progress: Progress | None = None
) -> None:
    if not force and day in _up_to_date(lake, version):
        report.skipped.append((version, day))
        return
    report.results += [job(lake, day, version) for job in _jobs_of(lake, version, progress)]


def _up_to_date(lake: Project, version: str) -> set[Day]:
    stale = {rerun.day for rerun in lake.catalog.restatements() if rerun.version in (None, version)}
    return finished(lake, version) - stale


def _ingest_missing(lake: Project, first: Day | None, last: Day | None, report: Report) -> None:
    report.results += [jobs.ingest(lake, day) for day in _unread(lake, first, last)]


def _unread(lake: Project, first: Day | None, last: Day | None) -> list[Day]:
    """Days without events that have raw files in `landing`."""
    if lake.config.landing is None or first is None or last is None:
        return []
    there = set(lake.events.days())
    return [
        day
        for day in days_between(first, last)
        if day not in there and any(lake.root.glob(lake.config.landing.format(ds=day.isoformat())))
    ]
