"""A small lake with embeddings, and what Feast must answer of it, looked up row by row."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore

import tokenlake
from tests.pipeline.lakes import CONFIG, make_events, make_lake
from tokenlake._lake import Lake
from tokenlake.feast import repository
from tokenlake.feast.materialize import close
from tokenlake.pipeline.backfill import Report, backfill, to_feast

BLOCK = "embeddings: {retention_days: 2, dim: 8, width: 16, queries: 2, history: 6, batch: 16}\n"
MICRO = dt.timedelta(microseconds=1)
EMBEDDING, COUNTED = "user_embeddings:embedding", "user_statistics:events"
USER_FEATURES = [
    EMBEDDING,
    "user_embeddings:checkpoint",
    COUNTED,
    *(f"user_statistics:{name}" for name in ("active_days", "bought_known", "bought_count", "bought_rate")),
]


def build(folder: Path, days: int = 7) -> Lake:
    """Few events of many users, so that each day some leave; embedded, with statistics, and not in Feast yet."""
    lake = make_lake(folder, CONFIG + BLOCK)
    lake.ingest(make_events(days=days, users=25, per_day=12))
    backfill(lake, version="alure")
    return lake


def copy(lake: Lake, folder: Path, online: str | None = None, registry: str | None = None) -> Lake:
    """The same lake elsewhere, with a feature repository of its own, and perhaps other stores."""
    shutil.copytree(lake.root, folder)
    repository.write(folder)
    if online:
        setting(folder, "online_store", online)
    if registry:
        setting(folder, "  path", registry)
    return tokenlake.open(folder)


def setting(folder: Path, name: str, value: str) -> None:
    """Change one line of `feature_store.yaml`, as a user would."""
    path = folder / "feature_repo" / "feature_store.yaml"
    lines = path.read_text().splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{name}:")]
    lines[at] = f"{name}: {value}"
    path.write_text("\n".join(lines) + "\n")


def bring(lake: Lake) -> Report:
    """What a back-fill does when its lineages are done."""
    report = Report()
    to_feast(lake, lake.events.days(), report)
    return report


def store_of(lake: Lake) -> FeatureStore:
    return FeatureStore(str(lake.root / "feature_repo"))


def online(lake: Lake, users: list[int], features: list[str] = USER_FEATURES) -> list[dict[str, Any]]:
    """Answers of the online store, a dict a user."""
    store = store_of(lake)
    try:
        found = store.get_online_features(features, [{"user_id": user} for user in users]).to_dict()
    finally:
        close(store)
    return [{name: _plain(values[i]) for name, values in found.items()} for i in range(len(users))]


def historical(lake: Lake, users: list[int], at: dt.datetime, features: list[str] = USER_FEATURES) -> list[Any]:
    """Answers of the offline store as of a time, a dict a user."""
    store = store_of(lake)
    try:
        asked = pd.DataFrame(
            {"user_id": users, "event_timestamp": pd.Series([at] * len(users), dtype="datetime64[us, UTC]")}
        )
        found = store.get_historical_features(asked, features).to_df()
    finally:
        close(store)
    rows = {row["user_id"]: row for row in found.drop(columns="event_timestamp").to_dict("records")}
    return [{name: _plain(value) for name, value in rows[user].items()} for user in users]


def by_hand(lake: Lake, user: int, at: dt.datetime) -> dict[str, Any]:
    """The newest row of each table with available_at <= at."""
    answer: dict[str, Any] = {"user_id": user}
    tables = {
        "user_embeddings": lake.user_embeddings.read(version=lake.config.embedding_version),
        "user_statistics": lake.user_statistics.read(),
    }
    for feature in USER_FEATURES:
        table, _, name = feature.partition(":")
        rows = [r for r in tables[table].to_pylist() if r["user_id"] == user and r["available_at"] <= at]
        newest = max(rows, key=lambda row: row["available_at"], default=None)
        answer[name] = None if newest is None else _plain(newest[name])
    return answer


def users_of(lake: Lake) -> list[int]:
    return sorted({*lake.events.read(columns=["user_id"])["user_id"].to_pylist(), 999})


def child(lake: Lake, code: str) -> list[str]:
    """A command that runs code in another process, with `lake` and `jobs` at hand."""
    head = f"import datetime as dt, tokenlake; from tokenlake.pipeline import jobs; lake = tokenlake.open({str(lake.root)!r}); "
    return [sys.executable, "-c", head + code]


def _plain(value: Any) -> Any:
    if isinstance(value, list | np.ndarray):
        return [float(np.float32(v)) for v in value]
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return None
    return float(value) if isinstance(value, int | float | np.number) else value
