"""Feature repositories in a folder, of our store and of Feast's own."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

with warnings.catch_warnings():
    # What Feast's own dependencies say of themselves while they are imported.
    warnings.simplefilter("ignore")
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Array, Bool, Float32, Int64, String
    from feast.value_type import ValueType

OURS = "tokenlake.feast.TokenlakeOfflineStore"

__all__ = [
    "OURS",
    "Array",
    "Bool",
    "Entity",
    "FeatureStore",
    "FeatureView",
    "Field",
    "FileSource",
    "Float32",
    "Int64",
    "String",
]
__all__ += ["ValueType", "ask", "entity", "repository", "view"]


def repository(folder: Path, objects: list[Any], offline: dict[str, Any] | None = None) -> FeatureStore:
    """A store in a folder with these objects applied."""
    folder.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project="tests",
        provider="local",
        repo_path=str(folder),
        registry=str(folder / "registry.db"),
        offline_store=offline or {"type": OURS},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config, repo_path=None)
    store.apply(objects)
    return store


def entity(name: str, kind: ValueType = ValueType.INT64, key: str | None = None) -> Entity:
    return Entity(name=name, join_keys=[key or name], value_type=kind)


def view(
    name: str, source: Any, entities: list[Entity], features: dict[str, Any], ttl: dt.timedelta | None = None
) -> Any:
    schema = [Field(name=feature, dtype=kind) for feature, kind in features.items()]
    return FeatureView(name=name, entities=entities, ttl=ttl, schema=schema, source=source)


def ask(store: FeatureStore, entities: pd.DataFrame, features: list[str], **how: Any) -> pd.DataFrame:
    return store.get_historical_features(entities.copy(), features, **how).to_df()
