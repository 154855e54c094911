"""`Run`, through which a job reports to the catalog, and the check that a run's process is still alive."""

from __future__ import annotations

import datetime as dt
import functools
import math
import os
import socket
from pathlib import Path

from tokenlake.catalog.models import ArtefactRow, MetricRow
from tokenlake.catalog.records import ErrorKind, RunStatus, now
from tokenlake.errors import TransientError


class Run:
    """Collects artefacts and metrics of one run; `Catalog.run` creates it and stores its content.

    Attributes:
        id: the run's number in the catalog.
        started_at: start of the run; events ingested later may be missing in its result.
    """

    def __init__(self, id: int, job: str, day: dt.date | None, version: str | None, started_at: dt.datetime) -> None:  # noqa: A002  the catalog's own name
        self.id = id
        self.job = job
        self.day = day
        self.version = version
        self.started_at = started_at
        self.skipped: str | None = None
        self.rows: list[ArtefactRow | MetricRow] = []

    def __repr__(self) -> str:
        return f"Run(id={self.id}, job={self.job!r}, day={self.day}, version={self.version!r})"

    def artefact(self, kind: str, uri: str | Path, rows: int | None = None, bytes: int | None = None) -> None:  # noqa: A002  what it counts
        """Record an output of the run."""
        self.rows.append(ArtefactRow(run_id=self.id, kind=kind, uri=str(uri), rows=rows, bytes=bytes, created_at=now()))

    def metric(self, name: str, value: float | None, **labels: object) -> None:
        """Record a measurement of the run; None, NaN and infinity are n/a."""
        finite = None if value is None or not math.isfinite(value) else float(value)
        texts = {key: str(label) for key, label in labels.items()}
        self.rows.append(MetricRow(run_id=self.id, name=name, value=finite, labels=texts, created_at=now()))

    def skip(self, reason: str) -> None:
        """Record that there was nothing to do; the job then returns."""
        self.skipped = reason


def outcome(error: BaseException) -> tuple[RunStatus, ErrorKind | None]:
    """Status and error kind of a run that raised an exception."""
    if not isinstance(error, Exception):  # Ctrl-C, or a scheduler that ends its worker
        return "interrupted", "transient"
    return "failed", "transient" if isinstance(error, TransientError) else "terminal"


@functools.cache
def host() -> str:
    """Name of this machine."""
    return socket.gethostname()


def process_started(pid: int) -> str:
    """Start time of a process in Linux's own count; empty if it is not known, or the process has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the process name before it may contain spaces
    return "" if fields[0] == "Z" else fields[19]


def is_alive(pid: int, started: str) -> bool:
    """Whether the process with this `pid` and start time is still alive."""
    if started:
        return process_started(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
