"""Versions of encoders: what defines one, and where its checkpoints lie. Imports no torch, so that a waiting job costs nothing."""

from __future__ import annotations

from pathlib import Path

from tokenlake.catalog.catalog import EMBED
from tokenlake.config import EMBEDDINGS, Encoder
from tokenlake.errors import NotFoundError
from tokenlake.lake.project import Project
from tokenlake.times import Day


def is_embeddings(version: str) -> bool:
    """Whether a version is one of the user and item embeddings; no token encoder may be called `alure`."""
    return version.startswith(f"{EMBEDDINGS}-")


def finished(lake: Project, version: str) -> set[Day]:
    """Days that the last job of a version has done, and whose result is there."""
    if is_embeddings(version):
        # A day on which no user had done anything that the sources read has no rows, and is done all the same.
        empty = lake.catalog.empty(version, EMBED, lake.user_embeddings.path.name)
        return lake.catalog.done(version, EMBED) & (empty | set(lake.user_embeddings.days(version)))
    return lake.published(version)


def path_of(lake: Project, version: str, checkpoint: str) -> Path:
    """Folder of a checkpoint."""
    return lake.data / "checkpoints" / version / checkpoint


def exists(lake: Project, version: str, checkpoint: str) -> bool:
    """Whether a checkpoint was saved completely."""
    return path_of(lake, version, checkpoint).is_dir()


def encoder_of(lake: Project, version: str) -> Encoder:
    """How a version's tokens are made: from the config, or for an older version from the catalog.

    Raises:
        NotFoundError: no such version.
    """
    for name, encoder in lake.config.tokens.encoders.items():
        if lake.config.version_of(name) == version:
            return encoder
    for known in lake.catalog.versions():
        if known.version == version:
            return Encoder(**known.spec)
    raise NotFoundError(f"no version {version!r}; {[v.version for v in lake.catalog.versions()]} exist")


def register(lake: Project, version: str) -> None:
    """Make a version known to the catalog, and let it serve when nothing does yet."""
    for name, encoder in lake.config.tokens.encoders.items():
        if lake.config.version_of(name) == version:
            lake.catalog.add_version(version, name, encoder.model_dump(mode="json"))
