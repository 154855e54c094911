"""Removes a version from the catalog, in two steps; its data is removed between them."""

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
    """Check that a version exists, is not serving, and that none of its jobs is running.

    Raises:
        NotFoundError: there is no such version.
        VersionError: the version is serving.
        LockedError: one of its jobs is running.
    """
    with catalog._read() as session:  # same package
        _require(session, version)
    if running := catalog.runs(version=version, status="running"):  # runs of dead processes were marked as killed
        run = running[0]
        raise LockedError(f"{run.job} of {version} runs, in process {run.pid} on {run.host}; try again when it is done")


def begin(catalog: Catalog, version: str) -> None:
    """Delete all records of a version but one, which marks it as being dropped; from now on no job accepts it.

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
    """Delete the version's own record, after its data was removed."""
    with catalog._write() as session:  # as above
        session.execute(sa.delete(VersionRow).where(VersionRow.version == version, VersionRow.state == "dropping"))


def _require(session: Session, version: str) -> None:
    state = session.scalar(sa.select(VersionRow.state).where(VersionRow.version == version).with_for_update())
    if state is None:
        known = sorted(session.scalars(sa.select(VersionRow.version)))
        raise NotFoundError(f"no version {version!r} to drop; known: {known or 'none yet'}")
    if state == "serving":
        raise VersionError(f"version {version!r} serves; promote another before this one is dropped")
