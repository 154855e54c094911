"""Small lakes with planted structure, for tests of the daily jobs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import tokenlake
from tokenlake._lake import Lake
from tokenlake.times import DAY_US, day_start

FIRST = dt.date(2024, 3, 1)
CONFIG = """
project: small
events:
  id: event_id
  features:
    genre: {kind: categorical, of: item}
    tags: {kind: multi, of: item}
    price: numeric
    picture: {kind: vector, of: item}
  labels:
    clicked: {}
    bought: {known_at: bought_at, window: 2d}
tokens:
  chunk_days: 3
  encoders:
    iat: {scheme: user-order, dim: 8, width: 16, embedding: 4, history: 16, sit_heads: 2, batch: 64}
    plain: {scheme: temporal-order, dim: 8, width: 16, embedding: 4, batch: 64}
"""
UNLABELLED = """
project: plays
events:
  features:
    genre: {kind: categorical, of: item}
tokens:
  chunk_days: 3
  encoders:
    iat: {scheme: user-order, dim: 8, width: 16, embedding: 4, history: 16, sit_heads: 2, batch: 64}
"""


def make_lake(folder: Path, config: str = CONFIG) -> Lake:
    """An empty lake of the given config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenlake.yaml").write_text(config)
    return tokenlake.open(folder)


def make_events(days: int = 8, users: int = 12, per_day: int = 40, seed: int = 0) -> pa.Table:
    """Clicks that follow a user's own genre; a third of the clicks is bought up to a day later; ties among seconds."""
    rng = np.random.default_rng(seed)
    n = days * per_day
    user = rng.integers(0, users, n)
    item = rng.integers(0, 20, n)
    second = rng.integers(0, 86_400 // 600, n) * 600
    timestamp = day_start(FIRST) + np.repeat(np.arange(days), per_day) * DAY_US + second * 1_000_000
    clicked = rng.random(n) < np.where(item % 4 == user % 4, 0.8, 0.2)
    bought = clicked & (rng.random(n) < 0.4)
    bought_at = np.where(bought, timestamp + rng.integers(1, DAY_US, n), 0)
    return pa.table(
        {
            "event_id": pa.array(np.arange(n) + seed * 1_000_000),
            "user_id": pa.array(user),
            "item_id": pa.array(item),
            "timestamp": pa.array(timestamp, pa.timestamp("us", "UTC")),
            "genre": pa.array([f"g{i % 4}" for i in item]),
            "tags": pa.array([[f"t{i % 3}", f"t{i % 5}"] for i in item]),
            "price": pa.array(rng.random(n), mask=rng.random(n) < 0.1),
            "picture": pa.array([[float(i % 4), float(i % 3)] for i in item], pa.list_(pa.float32())),
            "clicked": pa.array(clicked.astype(np.int8), mask=rng.random(n) < 0.2),
            "bought": pa.array(bought.astype(np.int8)),
            "bought_at": pa.array(bought_at, pa.timestamp("us", "UTC"), mask=~bought),
        }
    )


def plays(days: int = 8, seed: int = 0) -> pa.Table:
    """The same log without ids and labels."""
    return make_events(days, seed=seed).select(["user_id", "item_id", "timestamp", "genre"])


def day(i: int) -> dt.date:
    """The i-th day of the log, from 0."""
    return FIRST + dt.timedelta(days=i)


def of_day(events: pa.Table, i: int) -> pa.Table:
    """Rows of the i-th day."""
    return events.filter(pc.equal(pc.cast(events["timestamp"], pa.date32(), safe=False), pa.scalar(day(i))))


def tokens_of(lake: Lake, version: str, *, through: dt.date | None = None) -> pa.Table:
    """All rows of `instance_tokens`, in a fixed order."""
    rows = lake.instance_tokens.read(version=version, between=(FIRST, through or day(365)))
    return rows.sort_by([("event_id", "ascending")]).drop_columns(["checkpoint"])
