"""The last retrieval report, kept so that it can be shown again without asking every question anew."""

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
#: Beside the report: when the newest of its embeddings were made.
_OF = "embedded"
#: Beside the report: of how many days it is.
_DAYS = "days"


def current_report(lake: Project, progress: Progress | None = None, days: int = DAYS) -> RetrievalReport:
    """The report of what is embedded now, over the last days: the kept one if nothing was embedded since, else a new one.

    Raises:
        NotFoundError: no embedded day after the bootstrap chunk.
    """
    if (kept := _kept(lake, days)) is not None:
        return kept
    newest = _newest_embeddings(lake)  # before the questions: what is embedded from here on is not in the answers
    report = retrieval_report(lake, days=days, progress=progress)
    path = _path(lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({_OF: newest, _DAYS: days, **dataclasses.asdict(report)}, default=str, indent=1)
    atomic.write(path, text)
    return report


def is_current(lake: Project, days: int = DAYS) -> bool:
    """Whether the kept report is of what is embedded now, over so many days."""
    return _kept(lake, days) is not None


def _kept(lake: Project, days: int) -> RetrievalReport | None:
    try:
        told = json.loads(_path(lake).read_bytes())
        newest = _newest_embeddings(lake)
        same = (told.pop(_OF, None), told.pop(_DAYS, DAYS)) == (newest, days)
        return _REPORT.validate_python(told) if newest is not None and same else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def _newest_embeddings(lake: Project) -> str | None:
    """When something was last embedded."""
    runs = lake.catalog.runs(job=EMBED, version=lake.config.embedding_version)
    return max((run.ended_at.isoformat() for run in runs if run.ended_at), default=None)


def _path(lake: Project) -> Path:
    return lake.data / "reports" / f"retrieval-{lake.config.embedding_version}.json"
