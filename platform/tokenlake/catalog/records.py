"""The catalog's answers: frozen dataclasses, never rows bound to a database session."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenlake.errors import NotFoundError

#: `dropping`: its data is being removed, or was when a process ended.
VersionState = Literal["candidate", "serving", "retired", "dropping"]
#: `killed`: the process of a running run is gone. `skipped`: there was nothing to do.
RunStatus = Literal["running", "done", "failed", "interrupted", "skipped", "killed"]
ErrorKind = Literal["terminal", "transient"]


def now() -> dt.datetime:
    """This instant, UTC."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Version:
    """One encoder lineage.

    Attributes:
        version: its name, `<encoder>-<digest>`.
        encoder: name of the encoder in `tokenlake.yaml`.
        spec: the encoder's fields.
        state: at most one version is `serving`.
        previous: the version that served before this one was promoted; a rollback goes there.
    """

    version: str
    encoder: str
    spec: Mapping[str, Any]
    state: VersionState
    created_at: dt.datetime
    promoted_at: dt.datetime | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How one day of one version is encoded: recorded before the day's first run, never changed.

    Attributes:
        checkpoint: encodes the day.
        parent: checkpoint that training continues from; None starts anew.
        train_from: first day that the checkpoint trains on; None when it is taken as it is.
        train_to: last day that the checkpoint trains on.
        chunk_start: first day that the checkpoint encodes.
        chunk_end: last day that the checkpoint encodes.
        bootstrap: the checkpoint was trained on the day itself, since nothing came before it.
        watermark: events with `ingested_at` (microseconds UTC) up to here were there when the plan was made.
    """

    version: str
    day: dt.date
    checkpoint: str
    parent: str | None
    train_from: dt.date | None
    train_to: dt.date | None
    chunk_start: dt.date
    chunk_end: dt.date
    bootstrap: bool
    watermark: int

    @property
    def training(self) -> tuple[dt.date, dt.date]:
        """First and last day that the checkpoint trains on.

        Raises:
            NotFoundError: it trains on none, since the plan takes it as it is.
        """
        if self.train_from is None or self.train_to is None:
            raise NotFoundError(
                f"the plan of {self.day} takes checkpoint {self.checkpoint} of {self.version} as it is, and no plan trains "
                "it; restore its folder"
            )
        return self.train_from, self.train_to


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """One state of a version's training; `checkpoint` is the last day that it was trained on."""

    version: str
    checkpoint: str
    parent: str | None
    trained_from: dt.date | None
    trained_to: dt.date | None
    path: str
    rows: int
    created_at: dt.datetime = field(default_factory=now)
    stats: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IndexVersion:
    """One derived, rebuildable index (token segments, FAISS, graph) with the identity of what it was built from."""

    name: str
    version: str
    checkpoint: str
    day: dt.date
    path: str
    rows: int
    created_at: dt.datetime = field(default_factory=now)
    stats: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One execution of a job.

    Attributes:
        message: why it was skipped, or the error's text.
        error_kind: `transient` errors may go through later.
    """

    id: int
    job: str
    day: dt.date | None
    version: str | None
    status: RunStatus
    started_at: dt.datetime
    ended_at: dt.datetime | None
    error_type: str | None
    error_kind: ErrorKind | None
    message: str | None
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Artefact:
    """Something that a run wrote."""

    run_id: int
    kind: str
    uri: str
    rows: int | None
    bytes: int | None
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that a run measured; a value of None is n/a (such as the AUC of a day with one class)."""

    run_id: int
    job: str
    day: dt.date | None
    version: str | None
    name: str
    value: float | None
    labels: Mapping[str, str]
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Restatement:
    """A day whose events changed after it was encoded; `version` is None when no version had planned it."""

    day: dt.date
    version: str | None
    reason: str
    marked_at: dt.datetime
