"""Events tables as the lake keeps them, made from plain Python rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tokenlake.config import Config, Events
from tokenlake.times import day_of

MICROS = pa.timestamp("us", "UTC")
KINDS = {
    "categorical": pa.string(),
    "multi": pa.list_(pa.string()),
    "numeric": pa.float64(),
    "vector": pa.list_(pa.float32()),
}


def config_of(features: dict[str, Any] | None = None, labels: dict[str, Any] | None = None, **encoder: Any) -> Config:
    return Config(events=Events(features=features or {}, labels=labels or {}), tokens={"encoders": {"iat": encoder}})


def table_of(rows: list[dict[str, Any]], config: Config, ids: pa.DataType | None = None) -> pa.Table:
    """One row each: user_id, item_id, timestamp (us), and whatever features, labels and `<label>_known_at` there are.

    A label without its `_known_at` is known at the event's time.
    """
    ids = ids or pa.int64()
    columns = {
        "event_id": pa.array([row.get("event_id", i) for i, row in enumerate(rows)], pa.int64()),
        "user_id": pa.array([row["user_id"] for row in rows], ids),
        "item_id": pa.array([row["item_id"] for row in rows], ids),
        "timestamp": pa.array([row["timestamp"] for row in rows], MICROS),
        "ds": pa.array([day_of(row["timestamp"]) for row in rows], pa.date32()),
        "ingested_at": pa.array([row["timestamp"] for row in rows], MICROS),
    }
    for name, feature in config.events.features.items():
        columns[name] = pa.array([row.get(name) for row in rows], KINDS[feature.kind])
    for name in config.events.labels:
        columns[name] = pa.array([row.get(name) for row in rows], pa.int8())
        known_at = [row.get(f"{name}_known_at", row["timestamp"]) for row in rows]
        columns[f"{name}_known_at"] = pa.array(
            [None if row.get(name) is None else at for row, at in zip(rows, known_at, strict=True)], MICROS
        )
    return pa.table(columns)
