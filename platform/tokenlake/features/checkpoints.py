"""Checkpoints of the encoders: weights, optimizer state and vocabulary of one version, trained up to one day.

Layout: `<data>/checkpoints/<version>/<last day trained on>/model/{weights.safetensors,optimizer.safetensors,config.json}` and
`vocabulary.arrow` beside it; the user encoder's with `semantic_ids.safetensors`, where items have content vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenlake.errors import NotFoundError
from tokenlake.features.versions import path_of
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.lake.project import Project
from tokenlake.storage import atomic
from tokenlake_models.alure_training import AlureLearner
from tokenlake_models.ranker_training import RankerLearner
from tokenlake_models.semantic_ids import ResidualQuantizer, load_quantizers, save_quantizers
from tokenlake_models.training import Learner

_CODEBOOKS = "semantic_ids.safetensors"


@dataclass(frozen=True)
class TokenCheckpoint:
    """A checkpoint of a token encoder: its learner (weights and optimizer state) and vocabulary."""

    learner: Learner
    vocabulary: Vocabulary


@dataclass(frozen=True)
class UserCheckpoint:
    """A checkpoint of the user encoder: learner, vocabulary, and the quantizers that give items their semantic ids."""

    learner: AlureLearner
    vocabulary: Vocabulary
    quantizers: Mapping[str, ResidualQuantizer]


@dataclass(frozen=True)
class RankerCheckpoint:
    """A checkpoint of a ranker: its learner (weights and optimizer state) and vocabulary."""

    learner: RankerLearner
    vocabulary: Vocabulary


def save(
    lake: Project,
    version: str,
    checkpoint: str,
    learner: Learner | AlureLearner | RankerLearner,
    vocabulary: Vocabulary,
    quantizers: Mapping[str, ResidualQuantizer] | None = None,
) -> Path:
    """Save a checkpoint; it appears whole or not at all."""
    path = path_of(lake, version, checkpoint)
    with atomic.folder(path) as folder:
        learner.save(folder / "model")
        vocabulary.save(folder / "vocabulary.arrow")
        if quantizers:
            save_quantizers(quantizers, folder / _CODEBOOKS)
    return path


def load(lake: Project, version: str, checkpoint: str) -> TokenCheckpoint:
    """Load a checkpoint, to read from it; training loads its own with `load_fresh`.

    Raises:
        NotFoundError: it was never trained, or its folder was deleted.
    """
    return _load_frozen(path_of(lake, version, checkpoint))


def load_fresh(lake: Project, version: str, checkpoint: str) -> TokenCheckpoint:
    """Load a checkpoint that the caller may train on."""
    return _load(path_of(lake, version, checkpoint), frozen=False)


# A day's jobs and its neighbours use the same one; two versions may take turns.
@lru_cache(maxsize=4)
def _load_frozen(path: Path) -> TokenCheckpoint:
    return _load(path, frozen=True)


def _load(path: Path, *, frozen: bool) -> TokenCheckpoint:
    _require(path)
    return TokenCheckpoint(Learner.load(path / "model", frozen=frozen), Vocabulary.load(path / "vocabulary.arrow"))


def load_users(lake: Project, version: str, checkpoint: str) -> UserCheckpoint:
    """Load a checkpoint of the user encoder, to read from it; training loads its own with `load_users_fresh`.

    Raises:
        NotFoundError: it was never trained, or its folder was deleted.
    """
    return _load_frozen_users(path_of(lake, version, checkpoint))


def load_users_fresh(lake: Project, version: str, checkpoint: str) -> UserCheckpoint:
    """Load a checkpoint of the user encoder that the caller may train on."""
    return _load_users(path_of(lake, version, checkpoint), frozen=False)


@lru_cache(maxsize=4)
def _load_frozen_users(path: Path) -> UserCheckpoint:
    return _load_users(path, frozen=True)


def _load_users(path: Path, *, frozen: bool) -> UserCheckpoint:
    _require(path)
    vocabulary, quantizers = Vocabulary.load(path / "vocabulary.arrow"), load_quantizers(path / _CODEBOOKS)
    return UserCheckpoint(AlureLearner.load(path / "model", frozen=frozen), vocabulary, quantizers)


def load_ranker(lake: Project, version: str, checkpoint: str) -> RankerCheckpoint:
    """Load a checkpoint of a ranker, to read from it; training loads its own with `load_ranker_fresh`.

    Raises:
        NotFoundError: it was never trained, or its folder was deleted, as old checkpoints are.
    """
    return _load_frozen_ranker(path_of(lake, version, checkpoint))


def load_ranker_fresh(lake: Project, version: str, checkpoint: str) -> RankerCheckpoint:
    """Load a checkpoint of a ranker that the caller may train on."""
    return _load_ranker(path_of(lake, version, checkpoint), frozen=False)


@lru_cache(maxsize=4)
def _load_frozen_ranker(path: Path) -> RankerCheckpoint:
    return _load_ranker(path, frozen=True)


def _load_ranker(path: Path, *, frozen: bool) -> RankerCheckpoint:
    _require(path)
    vocabulary = Vocabulary.load(path / "vocabulary.arrow")
    return RankerCheckpoint(RankerLearner.load(path / "model", frozen=frozen), vocabulary)


def _require(path: Path) -> None:
    if not path.is_dir():
        raise NotFoundError(f"checkpoint {path} does not exist; `tokenlake run DAY` trains it")
