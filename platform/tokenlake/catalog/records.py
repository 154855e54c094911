"""The catalog's results: frozen dataclasses, which are not bound to a database session."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenlake.errors import NotFoundError

#: `dropping`: its data is being removed, or its removal was interrupted.
VersionState = Literal["candidate", "serving", "retired", "dropping"]
#: `killed`: the process ended before the run did. `skipped`: there was nothing to do.
RunStatus = Literal["running", "done", "failed", "interrupted", "skipped", "killed"]
ErrorKind = Literal["terminal", "transient"]


def now() -> dt.datetime:
    """The present instant, in UTC."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an encoder, or of a model.

    Attributes:
        version: its name, `<encoder>-<digest>`.
        encoder: name of the encoder or model in `tokenlake.yaml`.
        spec: the encoder's fields; of a model, `model` alone, which holds its fields.
        state: at most one version is `serving`.
        previous: the version that served before this one was promoted; a rollback returns to it.
    """

    version: str
    encoder: str
    spec: Mapping[str, Any]
    state: VersionState
    created_at: dt.datetime
    promoted_at: dt.datetime | None
    previous: str | None

    @property
    def is_model(self) -> bool:
        """Whether it is a version of a model: it makes predictions, and no tokens."""
        return self.kind == "model"

    @property
    def kind(self) -> Literal["encoder", "model"]:
        """What it is a version of."""
        return "model" if "model" in self.spec else "encoder"


@dataclass(frozen=True, slots=True)
class Plan:
    """How one day of one version is encoded: recorded before the day's first run, never changed.

    Attributes:
        checkpoint: encodes the day.
        parent: checkpoint that training continues from; None: training starts with new weights.
        train_from: first day that the checkpoint trains on; None: an existing checkpoint is used unchanged.
        train_to: last day that the checkpoint trains on.
        chunk_start: first day that the checkpoint encodes.
        chunk_end: last day that the checkpoint encodes.
        bootstrap: the checkpoint was trained on the day itself, since there were no earlier days.
        watermark: the plan reads events with `ingested_at` (microseconds UTC) up to this instant.
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
            NotFoundError: it trains on no days, since the plan uses an existing checkpoint.
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
    """One derived index (token segments, FAISS, graph), which can be rebuilt, with the identity of its source."""

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
        message: why the run was skipped, or the error's text.
        error_kind: a `transient` error may not occur again in a later try.
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
    """An output of a run: a file, folder or table partition."""

    run_id: int
    kind: str
    uri: str
    rows: int | None
    bytes: int | None
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Metric:
    """A measurement of a run; a value of None is n/a (such as the AUC of a day with one class)."""

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
    """A day whose events changed after it was encoded; `version` is None if no version had a plan for it."""

    day: dt.date
    version: str | None
    reason: str
    marked_at: dt.datetime
