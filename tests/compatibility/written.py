"""A small lake, a token store and an online store, and what they answer: `python -m tests.compatibility.written FOLDER`.

`data/` was written by this file under an earlier version of the code. It speaks to the public interface alone, so that any
version can run it; formats on disk must stay readable for as long as nothing says otherwise.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

import tokenlake

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
embeddings:
  sources:
    clicks: [{label: clicked}]
    views: []
  dim: 8
  width: 16
  queries: 2
  layers: 1
  heads: 2
  batch: 64
  retention_days: 5
retrieval: {neighbors: 4, edge_days: 2}
"""
DAYS, USERS, FIRST = 5, 8, dt.date(2024, 3, 1)
_DAY = 86_400_000_000
_START = 19_783 * _DAY  # FIRST, in microseconds
#: Serialised by Feast under the project's name.
PROJECT = "written"


def events() -> pa.Table:
    """Clicks that follow a user's own genre, some bought up to a day later."""
    rng, n = np.random.default_rng(0), DAYS * 30
    user, item = rng.integers(0, USERS, n), rng.integers(0, 12, n)
    timestamp = _START + np.repeat(np.arange(DAYS), 30) * _DAY + rng.integers(0, 144, n) * 600_000_000
    clicked = rng.random(n) < np.where(item % 4 == user % 4, 0.8, 0.2)
    bought = clicked & (rng.random(n) < 0.4)
    utc = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "event_id": pa.array(np.arange(n)),
            "user_id": pa.array([f"user {u}" for u in user]),
            "item_id": pa.array(item),
            "timestamp": pa.array(timestamp, utc),
            "genre": pa.array([f"g{i % 4}" for i in item]),
            "tags": pa.array([[f"t{i % 3}", f"t{i % 5}"] for i in item]),
            "price": pa.array(rng.random(n), mask=rng.random(n) < 0.1),
            "picture": pa.array([[float(i % 4), float(i % 3)] for i in item], pa.list_(pa.float32())),
            "clicked": pa.array(clicked.astype(np.int8), mask=rng.random(n) < 0.2),
            "bought": pa.array(bought.astype(np.int8)),
            "bought_at": pa.array(np.where(bought, timestamp + rng.integers(1, _DAY, n), 0), utc, mask=~bought),
        }
    )


def write(folder: Path) -> None:
    """Make the lake, the token stores and the online store."""
    (folder / "lake").mkdir(parents=True)
    (folder / "lake" / "tokenlake.yaml").write_text(CONFIG)
    lake = tokenlake.open(folder / "lake")
    bad = events().slice(0, 2).set_column(0, "event_id", pa.array([900, 901]))
    lake.ingest(pa.concat_tables([events(), bad.set_column(1, "user_id", pa.nulls(2, pa.string()))]))
    lake.backfill()
    for dtype in ("float16", "int8"):
        _write_store(folder / f"store-{dtype}", dtype)
    feature_store(folder).write_to_online_store("prices", _pushed())


def _write_store(folder: Path, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    store = tokenlake.TokenStore.create(folder, dim=4, dtype=dtype, side={"clicked": "int8"}, known_at=["clicked"])
    for day in range(3):
        users, times, more = _rows(rng, 20, day)
        store.write_day(FIRST + dt.timedelta(days=day), users, times, **more)
    users, times, more = _rows(rng, 6, 3)
    store.append(users, times, **more)


def _rows(rng: np.random.Generator, n: int, day: int) -> tuple[pa.Array, np.ndarray[Any, Any], dict[str, Any]]:
    times = np.sort(_START + day * _DAY + rng.integers(0, _DAY, n))
    side, known = {"clicked": rng.integers(0, 2, n).astype(np.int8)}, {"clicked": times + rng.integers(0, _DAY, n)}
    tokens = rng.standard_normal((n, 4)).astype(np.float32)
    return (
        pa.array([f"é{u}" for u in rng.integers(0, 5, n)]),
        times,
        {"tokens": tokens, "side": side, "known_at": known},
    )


def _pushed() -> pd.DataFrame:
    at = pd.to_datetime(["2024-03-01", "2024-03-02", "2024-03-02"], utc=True)
    return pd.DataFrame({"item": [1, 1, 2], "at": at, "price": [1.5, 2.5, None], "name": ["a", "b", "c"]})


def feature_store(folder: Path) -> Any:
    """A Feast repository over the folder's online store, applied anew."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, String

    repository = folder / "repository"
    repository.mkdir(exist_ok=True)
    _pushed().to_parquet(repository / "prices.parquet")
    settings = {
        "project": PROJECT,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{repository}/registry.db"},
        "offline_store": {"type": "tokenlake.feast.TokenlakeOfflineStore"},
        "online_store": {"type": "tokenlake.feast.TokenlakeOnlineStore", "path": str(folder / "online")},
        "entity_key_serialization_version": 3,
    }
    (repository / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    store = FeatureStore(repo_path=str(repository))
    item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT64)
    source = FileSource(name="prices", path=str(repository / "prices.parquet"), timestamp_field="at")
    fields = [Field(name="price", dtype=Float64), Field(name="name", dtype=String)]
    store.apply([item, FeatureView(name="prices", entities=[item], schema=fields, source=source)])
    return store


def answers(folder: Path) -> dict[str, Any]:
    """What all of it answers, as JSON has it."""
    lake, end = tokenlake.open(folder / "lake"), _START + DAYS * _DAY
    everyone = [f"user {u}" for u in range(USERS + 1)]
    found: dict[str, Any] = {
        "versions": [(v.version, v.state) for v in lake.versions()],
        "embedding version": lake.config.embedding_version,
        "quarantine": lake.sql("select source, reason from quarantine").fetchall(),
        "runs": lake.sql("select job, status, count(*) from runs group by all order by all").fetchall(),
        "views": lake.sql("select distinct table_name from information_schema.tables order by 1").fetchall(),
        "before": lake.sql("select event_id from events_before('user 3', '2024-03-04') order by 1").fetchall(),
        "neighbors": lake.sql("select * exclude (weight) from neighbors('user 1') order by all").fetchall(),
        "tokens": batch(lake.tokens().fetch(everyone, before=end, length=7)),
        "plain": batch(lake.tokens("plain").fetch(everyone, before=end - _DAY, length=3)),
        "encoded": lake.encode(events().slice(100, 10)).tolist(),
    }
    index, graph = lake.index("users"), lake.graph()
    ids, cosines = index.search(index.ids, 3)
    near = graph.neighbors(graph.ids, 4)
    candidates = lake.candidates(everyone, [end + 1], k=5)
    found |= {
        "index": [ids.to_pylist(), cosines.tolist()],
        "graph": [near.ids.to_pylist(), near.weights.tolist(), near.offsets.tolist()],
        "candidates": [candidates.items.to_pylist(), candidates.scores.tolist(), candidates.offsets.tolist()],
    }
    for dtype in ("float16", "int8"):
        store = tokenlake.TokenStore.open(folder / f"store-{dtype}")
        store.verify()
        found[dtype] = batch(store.fetch([f"é{u}" for u in range(6)], before=_START + 4 * _DAY, length=9))
    online = feature_store(folder).get_online_features(
        ["prices:price", "prices:name"], [{"item": i} for i in (1, 2, 3)]
    )
    found["online"] = online.to_dict()
    told: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return told


def batch(found: Any) -> dict[str, Any]:
    """A jagged batch as plain lists."""
    return {
        "values": np.asarray(found.values, np.float64).tolist(),
        "offsets": found.offsets.tolist(),
        "timestamps": found.timestamps.tolist(),
        "side": {name: side.tolist() for name, side in found.side.items()},
        "known": {name: known.tolist() for name, known in found.known.items()},
    }


def weights(folder: Path) -> dict[str, bytes]:
    """The files of every checkpoint that training wrote."""
    root = folder / "lake" / "checkpoints"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.safetensors"))}


def main(folder: Path) -> None:
    write(folder)
    shutil.rmtree(folder / "repository")
    (folder / "answers.json").write_text(json.dumps(answers(folder)))
    shutil.rmtree(folder / "repository")
    with tarfile.open(folder.with_suffix(".tar.xz"), "w:xz") as archive:
        archive.add(folder, arcname=".", filter=_nameless)


def _nameless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(Path(sys.argv[1]))
