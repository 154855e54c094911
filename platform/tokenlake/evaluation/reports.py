"""Caches the last retrieval report, so that it can be shown again without running all its queries."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pydantic import TypeAdapter

from tokenlake.catalog.catalog import EMBED
from tokenlake.evaluation.retrieval import DAYS, RetrievalReport, retrieval_report
from tokenlake.lake.project import Project
from tokenlake.progress import Progress
from tokenlake.storage import atomic

_REPORT = TypeAdapter(RetrievalReport)
#: Key beside the report: the time of its newest embeddings.
_OF = "embedded"
#: Key beside the report: its number of days.
_DAYS = "days"


def current_report(lake: Project, progress: Progress | None = None, days: int = DAYS) -> RetrievalReport:
    """The retrieval report of the present embeddings: the cached one if nothing was embedded since, else a new one.

    Raises:
        NotFoundError: no embedded day after the bootstrap chunk.
    """
    if (kept := _kept(lake, days)) is not None:
        return kept
    newest = _newest_embeddings(
        lake
    )  # read before the report, which does not include embeddings that are written from here on
    report = retrieval_report(lake, days=days, progress=progress)
    path = _path(lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({_OF: newest, _DAYS: days, **dataclasses.asdict(report)}, default=str, indent=1)
    atomic.write(path, text)
    return report


def is_current(lake: Project, days: int = DAYS) -> bool:
    """Whether the cached report is of the present embeddings and of this number of days."""
    return _kept(lake, days) is not None


def _kept(lake: Project, days: int) -> RetrievalReport | None:
    try:
        cached = json.loads(_path(lake).read_bytes())
        newest = _newest_embeddings(lake)
        same = (cached.pop(_OF, None), cached.pop(_DAYS, DAYS)) == (newest, days)
        return _REPORT.validate_python(cached) if newest is not None and same else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def _newest_embeddings(lake: Project) -> str | None:
    """Time of the newest embeddings."""
    runs = lake.catalog.runs(job=EMBED, version=lake.config.embedding_version)
    return max((run.ended_at.isoformat() for run in runs if run.ended_at), default=None)


def _path(lake: Project) -> Path:
    return lake.data / "reports" / f"retrieval-{lake.config.embedding_version}.json"
