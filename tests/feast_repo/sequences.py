"""Lakes of many users' token sequences, and what Feast must answer of them: what the token store fetches."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tokenlake
from tests.feast_repo.helpers import store_of
from tests.pipeline.lakes import day
from tokenlake._lake import Lake
from tokenlake.feast import repository, sequences
from tokenlake.feast.materialize import close
from tokenlake.pipeline.publishing import publish_day
from tokenlake.times import DAY_US, day_start

#: As the repository that `tokenlake init` writes has it.
LENGTH = 64
TOKENS = ["instance_tokens:tokens", "instance_tokens:timestamps"]
LABELS = ["instance_labels:timestamps", "instance_labels:bought", "instance_labels:bought_known"]
CONFIG = """
project: many
events:
  labels:
    bought: {{known_at: bought_at, window: 2d}}
tokens:
  encoders:
    iat: {{scheme: user-order, dim: {dim}}}
"""


def lake_of(folder: Path, users: int, each: int, *, dim: int = 8, days: int = 1) -> Lake:
    """A lake of tokens alone: `each` tokens of every user and day, a bought one known half a day later."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenlake.yaml").write_text(CONFIG.format(dim=dim))
    repository.write(folder)
    lake = tokenlake.open(folder)
    for i in range(days):
        write(lake, i, np.arange(users), each, dim)
    return lake


def write(lake: Lake, i: int, users: Sequence[int] | np.ndarray[Any, Any], each: int, dim: int = 8) -> None:
    """Encode and publish a day of these users."""
    rng = np.random.default_rng(i)
    count = len(users) * each
    times = day_start(day(i)) + np.tile(np.arange(each) * (DAY_US // each), len(users))
    tokens = rng.standard_normal(count * dim).astype(np.float16).astype(np.float32)
    micros, version = pa.timestamp("us", "UTC"), lake.config.version_of("iat")
    table = {
        "user_id": pa.array(np.repeat(np.asarray(users, np.int64), each)),
        "timestamp": pa.array(times).cast(micros),
        "event_id": pa.array(np.arange(count) + i * 10**9),
        "token": pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * dim), pa.array(tokens)),
        "bought": pa.array(rng.integers(0, 2, count).astype(np.int8)),
        "bought_known_at": pa.array(times + DAY_US // 2).cast(micros),
        "item_id": pa.array(rng.integers(0, 9, count)),
        "checkpoint": ["c"] * count,
    }
    lake.instance_tokens.replace_day(day(i), pa.table(table), version)
    publish_day(lake, day(i), version)


def fetched(lake: Lake, users: Sequence[int], at: dt.datetime) -> list[dict[str, Any]]:
    """What the token store holds of each user before a time, as Feast's lists; None for nothing."""
    batch = lake.tokens().fetch(list(users), before=at, length=LENGTH)
    columns = {
        "tokens": batch.floats(),
        "timestamps": batch.timestamps,
        "bought": batch.side["bought"],
        "bought_known": batch.known["bought"],
    }
    spans = [slice(*batch.offsets[i : i + 2]) for i in range(len(batch))]
    return [{name: data[span].reshape(-1).tolist() or None for name, data in columns.items()} for span in spans]


def served(lake: Lake, users: Sequence[int], features: list[str] = TOKENS) -> list[dict[str, Any]]:
    """What the online store answers."""
    store = store_of(lake)
    try:
        found = store.get_online_features(features, [{"user_id": user} for user in users]).to_dict()
    finally:
        close(store)
    names = [feature.partition(":")[2] for feature in features]
    return [{name: found[name][i] for name in names} for i in range(len(users))]


def trained(lake: Lake, users: Sequence[int], at: dt.datetime, features: list[str] = TOKENS) -> list[dict[str, Any]]:
    """What the offline store answers as of a time."""
    store = store_of(lake)
    try:
        asked = pa.table({"user_id": users, "event_timestamp": pa.array([at] * len(users), pa.timestamp("us", "UTC"))})
        found = store.get_historical_features(asked.to_pandas(), features).to_arrow().to_pydict()
    finally:
        close(store)
    rows = {user: i for i, user in enumerate(found["user_id"])}
    names = [feature.partition(":")[2] for feature in features]
    return [{name: found[name][rows[user]] or None for name in names} for user in users]


def only(rows: list[dict[str, Any]], features: list[str]) -> list[dict[str, Any]]:
    """Rows of these features alone."""
    return [{feature.partition(":")[2]: row[feature.partition(":")[2]] for feature in features} for row in rows]


class Portions:
    """Watches what is written to an online store at a time, and still writes it."""

    def __init__(self, patch: pytest.MonkeyPatch, store: type, size: int) -> None:
        self.rows: list[int] = []
        self.bytes: list[int] = []
        write, pulled = store.online_write_batch, sequences.portions  # type: ignore[attr-defined]  # each store has it

        def watched(online: Any, config: Any, table: Any, data: Any, progress: Any) -> None:
            if table.name == "instance_tokens":
                self.rows.append(len(data))
                self.bytes.append(sum(values["tokens"].ByteSize() for _, values, _, _ in data))
            write(online, config, table, data, progress)

        def small(*given: Any) -> Iterator[tuple[pa.Table, int, int]]:
            return pulled(*given, size)

        patch.setattr(store, "online_write_batch", watched)
        patch.setattr("tokenlake.feast.plain.portions", small)
