"""Versions of encoders and models: what defines one, and where its checkpoints lie. Imports no torch, so that a waiting job costs nothing."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from tokenlake.catalog.catalog import EMBED, PREDICT
from tokenlake.config import EMBEDDINGS, Encoder, Ensemble, Ranker
from tokenlake.config.models import Model
from tokenlake.errors import NotFoundError
from tokenlake.lake.project import Project
from tokenlake.times import Day


def is_embeddings(version: str) -> bool:
    """Whether a version is one of the user and item embeddings; no token encoder may be called `alure`."""
    return version.startswith(f"{EMBEDDINGS}-")


def is_model(lake: Project, version: str) -> bool:
    """Whether a version is one of a ranker or an ensemble."""
    if any(lake.config.version_of(encoder) == version for encoder in lake.config.tokens.encoders):
        return False
    return _model(lake, version) is not None


def model_of(lake: Project, version: str) -> Ranker | Ensemble:
    """A model's settings: from the config, or of an older version from the catalog.

    Raises:
        NotFoundError: no such version.
    """
    model = _model(lake, version)
    if model is None:
        known = [lake.config.model_version(name) for name in lake.config.models]
        raise NotFoundError(f"no model version {version!r}; tokenlake.yaml makes {known or 'none'}")
    return model


def name_of(version: str) -> str:
    """The name of the encoder or model that a version is one of.

    >>> name_of("my-ranker-0123abcd")
    'my-ranker'
    """
    return version.rpartition("-")[0]


def finished(lake: Project, version: str) -> set[Day]:
    """Days that the last job of a version has done, and whose result is there."""
    if is_embeddings(version):
        # A day on which no user had done anything that the sources read has no rows, and is done all the same.
        empty = lake.catalog.empty(version, EMBED, lake.user_embeddings.path.name)
        return lake.catalog.done(version, EMBED) & (empty | set(lake.user_embeddings.days(version)))
    if is_model(lake, version):
        # A day on which no event has a label has no rows either.
        empty = lake.catalog.empty(version, PREDICT, lake.predictions.path.name)
        return lake.catalog.done(version, PREDICT) & (empty | set(lake.predictions.days(version)))
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
    """Make a version of the config known to the catalog."""
    for name, encoder in lake.config.tokens.encoders.items():
        if lake.config.version_of(name) == version:
            lake.catalog.add_version(version, name, encoder.model_dump(mode="json"))
    for name, model in lake.config.models.items():
        if lake.config.model_version(name) == version:
            lake.catalog.add_version(version, name, {"model": model.model_dump(mode="json")})


def _model(lake: Project, version: str) -> Ranker | Ensemble | None:
    for name, model in lake.config.models.items():
        if lake.config.model_version(name) == version:
            return model
    for known in lake.catalog.versions():
        if known.version == version and known.is_model:
            found: Ranker | Ensemble = TypeAdapter(Model).validate_python(known.spec["model"])
            return found
    return None
