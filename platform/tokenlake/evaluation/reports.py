"""The last retrieval report, kept so that it can be shown again without asking every question anew."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tokenlake.catalog.catalog import EMBED
from tokenlake.evaluation.retrieval import RetrievalReport, retrieval_report
from tokenlake.lake.project import Project
from tokenlake.progress import Progress

_REPORT = TypeAdapter(RetrievalReport)


def current_report(lake: Project, progress: Progress | None = None) -> RetrievalReport:
    """The report of what is embedded now: the kept one if nothing was embedded since, else a new one.

    Raises:
        NotFoundError: no embedded day after the bootstrap chunk.
    """
    kept = _kept(lake)
    if kept is not None:
        return kept
    began = dt.datetime.now(dt.UTC)
    report = retrieval_report(lake, progress=progress)
    path = _path(lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(dataclasses.asdict(report), default=str, indent=1), encoding="utf-8")
    os.utime(fresh, (began.timestamp(),) * 2)  # what is embedded from here on is not in it
    fresh.replace(path)
    return report


def is_current(lake: Project) -> bool:
    """Whether the kept report is of what is embedded now."""
    return _kept(lake) is not None


def _kept(lake: Project) -> RetrievalReport | None:
    path = _path(lake)
    embedded = [
        run.ended_at for run in lake.catalog.runs(job=EMBED, version=lake.config.embedding_version) if run.ended_at
    ]
    try:
        if path.stat().st_mtime < max(embedded, default=dt.datetime.max.replace(tzinfo=dt.UTC)).timestamp():
            return None
        return _REPORT.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _path(lake: Project) -> Path:
    return lake.data / "reports" / f"retrieval-{lake.config.embedding_version}.json"
