"""The small lake of docs/cli.md: what its examples find when they are run one after the other."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fixtures import releases
from tests.fixtures.lakes import day, make_events, make_lake
from tests.fixtures.releases import write
from tokenlake._lake import Lake

CONFIG = """
project: shop
events:
  id: event_id
  features:
    genre: {kind: categorical, of: item}
  labels:
    clicked: {}
tokens:
  chunk_days: 1
  encoders:
    iat: {scheme: user-order, dim: 4, width: 8, embedding: 4, history: 8, sit_heads: 2, batch: 64}
    plain: {scheme: temporal-order, dim: 4, width: 8, embedding: 4, batch: 64}
embeddings: {dim: 4, width: 8, queries: 2, history: 6, batch: 32}
models:
  ranker: {width: 8, embedding: 4, layers: 1, batch: 32}
retrieval: {neighbors: 3, window: 3d, half_life: 2d, edge_days: 2}
"""


def make(folder: Path) -> Lake:
    """An empty lake `shop` in a folder, and beside it the files that the examples name."""
    events = make_events(days=3).select(["event_id", "user_id", "item_id", "timestamp", "genre", "clicked"])
    pq.write_table(events, folder / "events.parquet")
    pq.write_table(training_set(), folder / "training.parquet")
    write(folder, releases.ml_1m(), as_zip=True).rename(folder / "ml-1m.zip")
    lake = make_lake(folder / "shop", CONFIG)
    lake.catalog.add_version("old-00000000", "old", {})
    return lake


def training_set() -> pa.Table:
    """Two rows; the second has a token of its own time, which it must not."""
    noon = dt.datetime.combine(day(1), dt.time(12), dt.UTC)
    before = [noon - dt.timedelta(hours=hours) for hours in (2, 1, 0)]
    return pa.table({"user_id": [3, 5], "event_timestamp": [noon, noon], "timestamps": [before[:2], before]})
