"""Take a version out of the catalog, in two steps with the removal of its data between them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tokenlake.catalog.catalog import Catalog
from tokenlake.catalog.models import (
    ArtefactRow,
    CheckpointRow,
    IndexVersionRow,
    MetricRow,
    PlanRow,
    RestatementRow,
    RunRow,
    VersionRow,
)
from tokenlake.errors import LockedError, NotFoundError, VersionError


def require_droppable(catalog: Catalog, version: str) -> None:
    """See that a version is there, serves nobody, and is not being made.

    Raises:
        NotFoundError: no such version.
        VersionError: it serves.
        LockedError: one of its jobs runs.
    """
    with catalog._read() as session:  # the same room
        _require(session, version)
    if running := catalog.runs(version=version, status="running"):  # those of dead processes are buried by now
        run = running[0]
        raise LockedError(f"{run.job} of {version} runs, in process {run.pid} on {run.host}; try again when it is done")


def begin(catalog: Catalog, version: str) -> None:
    """Forget all that was done for a version but that it is being dropped; from now on no job takes it up.

    Raises:
        NotFoundError, VersionError, LockedError: as `require_droppable`.
    """
    require_droppable(catalog, version)
    runs = sa.select(RunRow.id).where(RunRow.version == version)
    with catalog._write() as session:  # as above
        _require(session, version)
        session.execute(
            sa.update(VersionRow).where(VersionRow.version == version).values(state="dropping", previous=None)
        )
        session.execute(sa.update(VersionRow).where(VersionRow.previous == version).values(previous=None))
        for rows in (ArtefactRow, MetricRow):
            session.execute(sa.delete(rows).where(rows.run_id.in_(runs)))
        for table in (RunRow, PlanRow, CheckpointRow, IndexVersionRow, RestatementRow):
            session.execute(sa.delete(table).where(table.version == version))


def end(catalog: Catalog, version: str) -> None:
    """Forget the version itself, whose data is gone."""
    with catalog._write() as session:  # as above
        session.execute(sa.delete(VersionRow).where(VersionRow.version == version, VersionRow.state == "dropping"))


def _require(session: Session, version: str) -> None:
    state = session.scalar(sa.select(VersionRow.state).where(VersionRow.version == version).with_for_update())
    if state is None:
        known = sorted(session.scalars(sa.select(VersionRow.version)))
        raise NotFoundError(f"no version {version!r} to drop; known: {known or 'none yet'}")
    if state == "serving":
        raise VersionError(f"version {version!r} serves; promote another before this one is dropped")
