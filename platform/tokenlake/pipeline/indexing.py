"""Indexes and graphs of many days: what `tokenlake index`, a back-fill and a report ask for."""

from __future__ import annotations

from collections.abc import Iterable

from tokenlake.lake.project import Project
from tokenlake.pipeline import jobs
from tokenlake.pipeline.job import JobResult
from tokenlake.progress import Progress
from tokenlake.retrieval.build import ensure_indexes, is_current
from tokenlake.times import Day

#: Days whose indexes are built in one process: starting FAISS costs more than a small index does.
_TOGETHER = 16


def index_days(
    lake: Project, days: Iterable[Day], *, rebuild: bool = False, progress: Progress | None = None
) -> list[JobResult]:
    """Run the jobs `index` and `graph` of those days that are not up to date; they skip a day without embeddings.

    Interrupted, it goes on where it stopped.

    Args:
        lake: with embeddings.
        days: any days.
        rebuild: also of days that are up to date.
        progress: told of each day.

    Raises:
        OrderError: a day is not embedded yet, though it has events.
        MissingExtraError: faiss is not installed.
    """
    version = lake.config.embedding_version
    embedded = set(lake.user_embeddings.days(version))
    todo = [day for day in sorted(set(days)) if rebuild or not is_current(lake, day)]
    results: list[JobResult] = []
    for start in range(0, len(todo), _TOGETHER):
        part = todo[start : start + _TOGETHER]
        ensure_indexes(lake, [day for day in part if day in embedded], rebuild=rebuild)
        for i, day in enumerate(part):
            results += [job(lake, day, version) for job in jobs.RETRIEVAL_JOBS]
            if progress:
                progress("index and graph", start + i + 1, len(todo))
    return results
