"""Remove a version that nobody needs any more: its store, checkpoints and rows, and what the catalog knows of it.

The catalog first forgets what was done and says that the version is being dropped, then the data goes, then the version's
own record. Cut short anywhere, the same call ends it; until then no job takes the version up.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass

from tokenlake.catalog import dropping
from tokenlake.errors import NotFoundError, VersionError
from tokenlake.lake.project import Project
from tokenlake.storage.locks import hold
from tokenlake.tokens.store import TokenStore


@dataclass(frozen=True)
class Contents:
    """What a version has.

    Attributes:
        version: its name; state: as the catalog has it.
        store: its token store is there.
        checkpoints: how many; tokens, predictions: rows of these tables.
        rollback: the serving version's rollback would go to it.
    """

    version: str
    state: str
    store: bool
    checkpoints: int
    tokens: int
    predictions: int
    rollback: bool


def contents(lake: Project, version: str) -> Contents:
    """What `drop` would remove.

    Raises:
        NotFoundError: no such version.
        VersionError: it serves, or `tokenlake.yaml` would have it made again.
        LockedError: one of its jobs runs.
    """
    dropping.require_droppable(lake.catalog, version)
    for kind, made in _made(lake).items():
        if version in made:
            raise VersionError(
                f"version {version!r} is what {kind} {made[version]!r} of {lake.file} makes, and the next run would make it "
                f"again; take the {kind} out there first"
            )
    versions = {known.version: known for known in lake.catalog.versions()}
    serving = lake.catalog.serving()
    return Contents(
        version=version,
        state=versions[version].state,
        store=lake.store_path(version).exists(),
        checkpoints=len(lake.catalog.checkpoints(version)),
        tokens=lake.instance_tokens.count(version=version),
        predictions=lake.predictions.count(version=version),
        rollback=serving is not None and versions[serving].previous == version,
    )


def _made(lake: Project) -> dict[str, dict[str, str]]:
    """The versions that the config makes, with their names."""
    config = lake.config
    return {
        "encoder": {config.version_of(name): name for name in config.tokens.encoders},
        "model": {config.model_version(name): name for name in config.models},
    }


def drop(lake: Project, version: str) -> None:
    """Remove a version for good.

    The rows' files stay on the disk, as those of every replaced day, until somebody vacuums the Delta tables.

    Raises:
        NotFoundError, VersionError, LockedError: as `contents`; nothing was removed.
        ServiceError: the store's tail lies in a Redis that does not answer; do it again.
    """
    contents(lake, version)
    with hold(lake.data / "locks" / f"train-{version}", f"dropping {version}"):
        dropping.begin(lake.catalog, version)
        with contextlib.suppress(NotFoundError):  # none was made, or it was deleted by hand
            TokenStore.remove(lake.store_path(version))
        for folder in ("checkpoints", "staging"):
            if (lake.data / folder / version).exists():
                shutil.rmtree(lake.data / folder / version)
        for table in (lake.instance_tokens, lake.predictions):
            table.replace_version(version, table.schema.empty_table())
        dropping.end(lake.catalog, version)
