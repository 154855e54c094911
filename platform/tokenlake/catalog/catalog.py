"""`Catalog`: records of runs, versions, plans, checkpoints, artefacts and metrics."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from tokenlake.catalog.connect import as_url, connect, scrub, to_json, translated
from tokenlake.catalog.models import (
    ArtefactRow,
    Base,
    CheckpointRow,
    IndexVersionRow,
    MetricRow,
    PlanRow,
    RestatementRow,
    RunRow,
    VersionRow,
)
from tokenlake.catalog.records import (
    CheckpointRecord,
    IndexVersion,
    Metric,
    Plan,
    Restatement,
    RunRecord,
    RunStatus,
    Version,
    now,
)
from tokenlake.catalog.runs import Run, host, is_alive, outcome, process_started
from tokenlake.errors import NotFoundError, VersionError

if TYPE_CHECKING:
    import pyarrow as pa

_Record = TypeVar("_Record")
#: Jobs that complete a day: they publish its tokens, its embeddings, and a model's predictions.
PUBLISH, EMBED, PREDICT = "publish", "embed", "predict"


class Catalog:
    """Runs, artefacts, metrics, versions, plans and checkpoints of one lake.

    Every call is one transaction; any number of threads and processes may share one catalog.

    >>> catalog = Catalog.open("catalog.sqlite")                       # doctest: +SKIP
    >>> with catalog.run("encode", day, version) as run:               # doctest: +SKIP
    ...     run.artefact("tokens", path, rows=1000)
    ...     run.metric("auc", 0.71, label="clicked")

    Attributes:
        engine: the SQLAlchemy engine.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(write=True)

    @classmethod
    def open(cls, url_or_path: str | Path) -> Catalog:
        """Open a catalog; a missing one is created, an older one is migrated.

        Args:
            url_or_path: a file for SQLite, or a SQLAlchemy URL of SQLite or Postgres.

        Raises:
            TerminalError: the database cannot be used; the message says why, without the URL's password.
            TransientError: the database cannot be reached, or is busy.
        """
        catalog = cls(connect(as_url(url_or_path)))
        catalog._bury()
        return catalog

    @property
    def url(self) -> URL:
        """The database's URL; the password is hidden when printed."""
        return self.engine.url

    def __repr__(self) -> str:
        return f"Catalog({self.url.render_as_string()!r})"

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with translated(self.url), Session(self.engine) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with translated(self.url), Session(self._writer) as session, session.begin():
            yield session

    def _insert(self, model: type[Base]) -> sqlite.Insert | postgresql.Insert:
        return postgresql.insert(model) if self.engine.dialect.name == "postgresql" else sqlite.insert(model)

    # Versions.

    def add_version(self, version: str, encoder: str, spec: Mapping[str, Any]) -> Version:
        """Record a version as a candidate; a recorded version is not changed.

        Raises:
            VersionError: the version is recorded with another encoder or spec, or is being removed.
        """
        values = {"version": version, "encoder": encoder, "spec": json.loads(to_json(dict(spec)))}
        insert = self._insert(VersionRow).values(**values, state="candidate", created_at=now())
        with self._write() as session:
            session.execute(insert.on_conflict_do_nothing())
            row = session.get_one(VersionRow, version)
            if row.state == "dropping":
                raise VersionError(f"version {version!r} is being removed; `tokenlake drop` ends it")
            if (row.encoder, row.spec) != (encoder, values["spec"]):
                raise VersionError(
                    f"version {version!r} is known with another encoder or spec ({row.encoder!r}, {to_json(row.spec)}); "
                    "a changed encoder needs a version of its own"
                )
            return _record(Version, row)

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with self._read() as session:
            return _records(Version, session.scalars(sa.select(VersionRow).order_by(VersionRow.created_at)))

    def serving(self) -> str | None:
        """Name of the serving version; None where there is none."""
        with self._read() as session:
            return session.scalar(sa.select(VersionRow.version).where(VersionRow.state == "serving"))

    def promote(self, version: str) -> str | None:
        """Make a version the serving one, in one transaction; returns the previous serving version.

        Raises:
            NotFoundError: there is no such version.
            VersionError: the version has no checkpoint yet, so it cannot be served.
        """
        with self._write() as session:
            rows = _locked_versions(session)
            if version not in rows:
                raise NotFoundError(f"no version {version!r} to promote; known: {sorted(rows) or 'none yet'}")
            if not session.scalar(sa.select(sa.exists().where(CheckpointRow.version == version))):
                raise VersionError(f"version {version!r} has no checkpoint yet; back-fill it before it is promoted")
            old = next((row for row in rows.values() if row.state == "serving"), None)
            if old is rows[version]:
                return old.previous
            if old is not None:
                old.state = "retired"
                session.flush()  # before the next one becomes serving, since two are not allowed
            new = rows[version]
            new.state, new.promoted_at, new.previous = "serving", now(), old.version if old else None
            return new.previous

    def rollback(self) -> str:
        """Make the previous serving version the serving one again; returns its name.

        Raises:
            NotFoundError: no version is serving, or there is no previous one.
        """
        with self._write() as session:
            rows = _locked_versions(session)
            current = next((row for row in rows.values() if row.state == "serving"), None)
            if current is None:
                raise NotFoundError("no version serves, so there is nothing to roll back; promote one")
            before = rows.get(current.previous or "")
            if before is None:
                raise NotFoundError(f"no version served before {current.version!r}; promote another instead")
            current.state, current.previous = "candidate", None
            session.flush()
            before.state, before.promoted_at = "serving", now()
            return before.version

    # Plans.

    def plan(self, version: str, day: dt.date) -> Plan | None:
        """The recorded plan of a day; None where there is none."""
        with self._read() as session:
            row = session.get(PlanRow, (version, day))
            return None if row is None else _record(Plan, row)

    def record_plan(self, plan: Plan) -> Plan:
        """Record a plan if the day has none; returns the recorded one."""
        insert = self._insert(PlanRow).values(**dataclasses.asdict(plan)).on_conflict_do_nothing()
        with self._write() as session:
            session.execute(insert)
            return _record(Plan, session.get_one(PlanRow, (plan.version, plan.day)))

    def plans(self, version: str) -> list[Plan]:
        """All plans of a version, by day."""
        query = sa.select(PlanRow).where(PlanRow.version == version).order_by(PlanRow.day)
        with self._read() as session:
            return _records(Plan, session.scalars(query))

    # Checkpoints and indexes.

    def add_checkpoint(self, checkpoint: CheckpointRecord) -> None:
        """Record a checkpoint; an existing record is replaced."""
        self._put(CheckpointRow, checkpoint)

    def checkpoint(self, version: str, checkpoint: str) -> CheckpointRecord:
        """One checkpoint.

        Raises:
            NotFoundError: the checkpoint is not recorded.
        """
        with self._read() as session:
            row = session.get(CheckpointRow, (version, checkpoint))
        if row is None:
            known = [c.checkpoint for c in self.checkpoints(version)]
            raise NotFoundError(f"no checkpoint {checkpoint!r} of version {version!r}; known: {known or 'none yet'}")
        return _record(CheckpointRecord, row)

    def checkpoints(self, version: str) -> list[CheckpointRecord]:
        """All checkpoints of a version, in order of training."""
        query = sa.select(CheckpointRow).where(CheckpointRow.version == version)
        query = query.order_by(CheckpointRow.trained_to, CheckpointRow.created_at)
        with self._read() as session:
            return _records(CheckpointRecord, session.scalars(query))

    def add_index(self, index: IndexVersion) -> None:
        """Record a derived index of a day; an existing record is replaced."""
        self._put(IndexVersionRow, index)

    def indexes(self, version: str) -> list[IndexVersion]:
        """All indexes of a version, by name and day."""
        query = sa.select(IndexVersionRow).where(IndexVersionRow.version == version)
        with self._read() as session:
            return _records(IndexVersion, session.scalars(query.order_by(IndexVersionRow.name, IndexVersionRow.day)))

    def _put(self, model: type[Base], record: CheckpointRecord | IndexVersion) -> None:
        values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
        values["stats"] = dict(record.stats)
        with self._write() as session:
            session.merge(model(**values))

    # Runs.

    @contextmanager
    def run(self, job: str, day: dt.date | None = None, version: str | None = None) -> Iterator[Run]:
        """Record one execution of a job: its start now, its result at the end of the block.

        If the block raises, the run is `failed` (`transient` for a `TransientError`, else `terminal`), or `interrupted`
        by Ctrl-C; the exception is raised again. Artefacts and metrics are written together with the result.
        """
        started = now()
        row = RunRow(job=job, day=day, version=version, status="running", started_at=started)
        row.host, row.pid, row.pid_started = host(), os.getpid(), process_started(os.getpid())
        with self._write() as session:
            session.add(row)
            session.flush()
            run = Run(row.id, job, day, version, started)
        try:
            yield run
        except BaseException as error:
            status, kind = outcome(error)
            self._end(run, status, error_type=type(error).__name__, error_kind=kind, message=str(error))
            raise
        self._end(run, "skipped" if run.skipped is not None else "done", message=run.skipped)

    def _end(self, run: Run, status: RunStatus, *, message: str | None, **values: str | None) -> None:
        values["message"] = scrub(message, self.url) if message else message
        with self._write() as session:
            session.add_all(run.rows)
            ended = sa.update(RunRow).where(RunRow.id == run.id).values(status=status, ended_at=now(), **values)
            session.execute(ended)

    def _bury(self) -> None:
        """Mark this machine's running runs whose process is gone as killed."""
        query = sa.select(RunRow).where(RunRow.status == "running", RunRow.host == host())
        with self._read() as session:
            dead = [row.id for row in session.scalars(query) if not is_alive(row.pid, row.pid_started)]
        if dead:
            update = sa.update(RunRow).where(RunRow.id.in_(dead), RunRow.status == "running")
            with self._write() as session:
                session.execute(update.values(status="killed", ended_at=now(), error_kind="transient"))

    def last_runs(self, n: int = 20) -> list[RunRecord]:
        """The newest `n` runs, newest first."""
        self._bury()
        with self._read() as session:
            return _records(RunRecord, session.scalars(sa.select(RunRow).order_by(RunRow.id.desc()).limit(n)))

    def runs(
        self,
        *,
        day: dt.date | None = None,
        job: str | None = None,
        version: str | None = None,
        status: RunStatus | None = None,
    ) -> list[RunRecord]:
        """All runs, or those of a day, job, version or status, oldest first."""
        self._bury()
        query = sa.select(RunRow).where(*_equal(day=day, job=job, version=version, status=status))
        with self._read() as session:
            return _records(RunRecord, session.scalars(query.order_by(RunRow.id)))

    def metrics(
        self,
        name: str | None = None,
        *,
        day: dt.date | None = None,
        job: str | None = None,
        version: str | None = None,
    ) -> list[Metric]:
        """Current metrics: those of the newest done run of each job, day and version, oldest first.

        The whole history is in `arrow()["metrics"]`.
        """
        newest = sa.select(sa.func.max(RunRow.id)).where(RunRow.status == "done")
        newest = newest.group_by(RunRow.job, RunRow.day, RunRow.version)
        query = sa.select(MetricRow, RunRow).join(RunRow, RunRow.id == MetricRow.run_id).where(RunRow.id.in_(newest))
        query = query.where(*_equal(day=day, job=job, version=version))
        if name is not None:
            query = query.where(MetricRow.name == name)
        with self._read() as session:
            return [
                Metric(m.run_id, r.job, r.day, r.version, m.name, m.value, m.labels, m.created_at)
                for m, r in session.execute(query.order_by(MetricRow.id))
            ]

    # Days.

    def done(self, version: str, job: str) -> set[dt.date]:
        """Days whose newest run of a job is done; skipped runs are ignored."""
        newest = sa.select(sa.func.max(RunRow.id)).where(RunRow.status != "skipped")
        newest = newest.where(RunRow.version == version, RunRow.job == job).group_by(RunRow.day)
        query = sa.select(RunRow.day).where(RunRow.id.in_(newest), RunRow.status == "done")
        with self._read() as session:
            return {day for day in session.scalars(query) if day is not None}

    def empty(self, version: str, job: str, kind: str) -> set[dt.date]:
        """Days whose newest done run of a job wrote an artefact of this kind with no rows."""
        newest = sa.select(sa.func.max(RunRow.id)).where(RunRow.status == "done")
        newest = newest.where(RunRow.version == version, RunRow.job == job).group_by(RunRow.day)
        query = sa.select(RunRow.day).join(ArtefactRow, ArtefactRow.run_id == RunRow.id)
        query = query.where(RunRow.id.in_(newest), ArtefactRow.kind == kind, ArtefactRow.rows == 0)
        with self._read() as session:
            return {day for day in session.scalars(query) if day is not None}

    def is_published(self, day: dt.date) -> bool:
        """Whether tokens, embeddings or predictions of any version were ever published for a day."""
        query = sa.exists().where(RunRow.job.in_([PUBLISH, EMBED, PREDICT]), RunRow.day == day, RunRow.status == "done")
        with self._read() as session:
            return bool(session.scalar(sa.select(query)))

    def mark_rerun(self, days: Iterable[dt.date], reason: str) -> None:
        """Mark days whose events changed as pending, for every version that has a plan for them.

        A day without a plan is marked once, without a version; the first version that runs it clears the mark.
        """
        with self._write() as session:
            for day in sorted(set(days)):
                planned = session.scalars(sa.select(PlanRow.version).where(PlanRow.day == day)).all()
                for version in planned or [""]:
                    session.merge(RestatementRow(day=day, version=version, reason=reason, marked_at=now()))

    def restatements(self, version: str | None = None) -> list[Restatement]:
        """Pending days, of all versions or of one, sorted by day."""
        query = sa.select(RestatementRow).order_by(RestatementRow.day, RestatementRow.version)
        if version is not None:
            query = query.where(RestatementRow.version.in_([version, ""]))
        with self._read() as session:
            return [Restatement(r.day, r.version or None, r.reason, r.marked_at) for r in session.scalars(query)]

    def clear_rerun(self, day: dt.date, version: str | None = None, *, before: dt.datetime | None = None) -> None:
        """Remove a day's marks, of all versions or of one.

        Args:
            day: the day that was run again.
            version: the version that ran it.
            before: the run's start; later marks are kept, since the run may not have read those events.
        """
        query = sa.delete(RestatementRow).where(RestatementRow.day == day)
        if version is not None:
            query = query.where(RestatementRow.version.in_([version, ""]))
        if before is not None:
            query = query.where(RestatementRow.marked_at < before)
        with self._write() as session:
            session.execute(query)

    # For DuckDB.

    def stamp(self) -> tuple[int, ...] | None:
        """A value that changes whenever the catalog may have changed; None where there is no cheap one (Postgres)."""
        if self.engine.dialect.name != "sqlite":
            return None
        files = [Path(f"{self.url.database}{suffix}") for suffix in ("", "-wal")]
        stats = [file.stat() for file in files if file.exists()]
        return tuple(part for stat in stats for part in (stat.st_mtime_ns, stat.st_size))

    def arrow(self) -> dict[str, pa.Table]:
        """Every table as Arrow, by name; JSON columns as text, instants as timestamp[us, UTC]."""
        from tokenlake.catalog.arrow import tables

        self._bury()
        with translated(self.url), self.engine.connect() as connection:
            return tables(connection)


def _locked_versions(session: Session) -> dict[str, VersionRow]:
    return {
        row.version: row
        for row in session.scalars(sa.select(VersionRow).order_by(VersionRow.version).with_for_update())
    }


def _equal(**values: object) -> list[sa.ColumnElement[bool]]:
    return [getattr(RunRow, column) == value for column, value in values.items() if value is not None]


def _record(kind: type[_Record], row: Base) -> _Record:
    return kind(**{f.name: getattr(row, f.name) for f in dataclasses.fields(kind)})  # type: ignore[arg-type]  # a TypeVar cannot say "a dataclass"


def _records(kind: type[_Record], rows: Iterable[Base]) -> list[_Record]:
    return [_record(kind, row) for row in rows]
