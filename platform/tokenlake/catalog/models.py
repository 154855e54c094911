"""The catalog's tables. A change here needs a migration and a new `HEAD`; a test compares tables and migrations."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Double, ForeignKey, Index, MetaData, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

#: Newest revision in `migrations/versions`; kept here so that opening an up-to-date catalog does not import alembic.
HEAD = "0001"


class Instant(TypeDecorator[dt.datetime]):
    """An aware datetime in UTC; SQLite, which has no time zones, stores it as a naive one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """To the database: UTC."""
        if value is None:
            return None
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """From the database: aware, UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if dialect.name == "sqlite" else value.astimezone(dt.UTC)


class Base(DeclarativeBase):
    """Base of all models."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads it from the class
        str: Text,
        dt.datetime: Instant,
        dict[str, Any]: JSON,
        dict[str, str]: JSON,
    }


class VersionRow(Base):
    """An encoder lineage."""

    __tablename__ = "versions"
    __table_args__ = (
        # The database itself refuses a second serving version.
        Index(
            "uq_versions_serving",
            "state",
            unique=True,
            sqlite_where=text("state = 'serving'"),
            postgresql_where=text("state = 'serving'"),
        ),
    )

    version: Mapped[str] = mapped_column(primary_key=True)
    encoder: Mapped[str]
    spec: Mapped[dict[str, Any]]
    state: Mapped[str]
    created_at: Mapped[dt.datetime]
    promoted_at: Mapped[dt.datetime | None]
    previous: Mapped[str | None]


class PlanRow(Base):
    """How one day of one version is encoded."""

    __tablename__ = "plans"

    version: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[dt.date] = mapped_column(primary_key=True)
    checkpoint: Mapped[str]
    parent: Mapped[str | None]
    train_from: Mapped[dt.date | None]
    train_to: Mapped[dt.date | None]
    chunk_start: Mapped[dt.date]
    chunk_end: Mapped[dt.date]
    bootstrap: Mapped[bool]
    watermark: Mapped[int] = mapped_column(BigInteger)


class CheckpointRow(Base):
    """One state of a version's training."""

    __tablename__ = "checkpoints"

    version: Mapped[str] = mapped_column(primary_key=True)
    checkpoint: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str | None]
    trained_from: Mapped[dt.date | None]
    trained_to: Mapped[dt.date | None]
    path: Mapped[str]
    rows: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime]
    stats: Mapped[dict[str, Any]]


class IndexVersionRow(Base):
    """A derived index and what it was built from."""

    __tablename__ = "index_versions"

    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[dt.date] = mapped_column(primary_key=True)
    checkpoint: Mapped[str]
    path: Mapped[str]
    rows: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime]
    stats: Mapped[dict[str, Any]]


class RunRow(Base):
    """One execution of a job."""

    __tablename__ = "runs"
    __table_args__ = (Index(None, "job", "version", "day"), Index(None, "status"))

    id: Mapped[int] = mapped_column(primary_key=True)
    job: Mapped[str]
    day: Mapped[dt.date | None]
    version: Mapped[str | None]
    status: Mapped[str]
    started_at: Mapped[dt.datetime]
    ended_at: Mapped[dt.datetime | None]
    error_type: Mapped[str | None]
    error_kind: Mapped[str | None]
    message: Mapped[str | None]
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(BigInteger)
    #: Start time of the process in the system's own count, since the system may reuse the pid.
    pid_started: Mapped[str]


class ArtefactRow(Base):
    """Something that a run wrote."""

    __tablename__ = "artefacts"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    kind: Mapped[str]
    uri: Mapped[str]
    rows: Mapped[int | None] = mapped_column(BigInteger)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime]


class MetricRow(Base):
    """Something that a run measured."""

    __tablename__ = "metrics"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    name: Mapped[str] = mapped_column(index=True)
    value: Mapped[float | None] = mapped_column(Double)
    labels: Mapped[dict[str, str]]
    created_at: Mapped[dt.datetime]


class RestatementRow(Base):
    """A day whose events changed after it was encoded; an empty `version` means none."""

    __tablename__ = "reruns"

    day: Mapped[dt.date] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    marked_at: Mapped[dt.datetime]
