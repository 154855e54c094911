"""Feature stores whose online store is Feast's or ours."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from feast import FeatureStore, RepoConfig

OURS = "tokenlake.feast.TokenlakeOnlineStore"
START = dt.datetime(2017, 3, 1, tzinfo=dt.UTC)


def config(folder: Path, kind: str, project: str = "project", **more: Any) -> RepoConfig:
    folder.mkdir(parents=True, exist_ok=True)
    return RepoConfig(
        project=project,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": kind, "path": "online.db"},
        entity_key_serialization_version=3,
        repo_path=folder,
        **more,
    )


def stores(folder: Path, objects: list[Any]) -> list[FeatureStore]:
    """Feast's and ours, with the same objects."""
    made = []
    for kind in ("sqlite", OURS):
        store = FeatureStore(config=config(folder / kind, kind))
        store.apply(objects)
        made.append(store)
    return made
