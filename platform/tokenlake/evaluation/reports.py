"""The last retrieval report, kept so that it can be shown again without asking every question anew."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pydantic import TypeAdapter

from tokenlake.catalog.catalog import EMBED
from tokenlake.evaluation.retrieval import RetrievalReport, retrieval_report
from tokenlake.lake.project import Project
from tokenlake.progress import Progress
from tokenlake.storage import atomic

_REPORT = TypeAdapter(RetrievalReport)
#: Beside the report: when the newest of its embeddings were made.
_OF = "embedded"


def current_report(lake: Project, progress: Progress | None = None) -> RetrievalReport:
    """The report of what is embedded now: the kept one if nothing was embedded since, else a new one.

    Raises:
        NotFoundError: no embedded day after the bootstrap chunk.
    """
    if (kept := _kept(lake)) is not None:
        return kept
    newest = _newest_embeddings(lake)  # before the questions: what is embedded from here on is not in the answers
    report = retrieval_report(lake, progress=progress)
    path = _path(lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({_OF: newest, **dataclasses.asdict(report)}, default=str, indent=1)
    atomic.write(path, text)
    return report


def is_current(lake: Project) -> bool:
    """Whether the kept report is of what is embedded now."""
    return _kept(lake) is not None


def _kept(lake: Project) -> RetrievalReport | None:
    try:
        told = json.loads(_path(lake).read_bytes())
        newest = _newest_embeddings(lake)
        return _REPORT.validate_python(told) if newest is not None and told.pop(_OF, None) == newest else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def _newest_embeddings(lake: Project) -> str | None:
    """When something was last embedded."""
    runs = lake.catalog.runs(job=EMBED, version=lake.config.embedding_version)
    return max((run.ended_at.isoformat() for run in runs if run.ended_at), default=None)


def _path(lake: Project) -> Path:
    return lake.data / "reports" / f"retrieval-{lake.config.embedding_version}.json"
