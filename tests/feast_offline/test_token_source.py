"""Token sequences through Feast: what a fetch gives, as list columns, and back as jagged rows."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tokenlake
from tests.feast_offline.repositories import Array, Bool, FeatureStore, Float32, Int64, entity, repository, view
from tokenlake._lake import Lake
from tokenlake.errors import ConfigError, NotFoundError, SchemaError
from tokenlake.pipeline.publishing import publish_day
from tokenlake.times import DAY_US, day_start

FIRST = dt.date(2024, 3, 1)
START = day_start(FIRST)
HOUR = 3_600_000_000
DIM = 8
FEATURES = ["tokens", "timestamps", "bought", "bought_known"]
CONFIG = """
project: small
events:
  labels:
    clicked: {}
    bought: {known_at: bought_at, window: 2d}
tokens:
  encoders:
    iat: {scheme: user-order, dim: 8}
    other: {scheme: temporal-order, dim: 8}
"""


def rows(day: int, seed: int) -> pa.Table:
    """Six users, twenty rows, many at the same times; purchases are known half a day later."""
    rng = np.random.default_rng(seed)
    times = START + day * DAY_US + rng.integers(0, 24, 20) * HOUR
    micros = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "user_id": pa.array(rng.integers(0, 6, 20)),
            "timestamp": pa.array(times).cast(micros),
            "event_id": pa.array(np.arange(20) + 100 * day),
            "token": pa.array(
                rng.standard_normal((20, DIM)).astype(np.float16).astype(np.float32).tolist(), pa.list_(pa.float32())
            ),
            "clicked": pa.array(rng.integers(0, 2, 20).astype(np.int8)),
            "clicked_known_at": pa.array(times).cast(micros),
            "bought": pa.array(rng.integers(0, 2, 20).astype(np.int8)),
            "bought_known_at": pa.array(times + 12 * HOUR).cast(micros),
            "item_id": pa.array(rng.integers(0, 9, 20)),
            "checkpoint": ["c"] * 20,
        }
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "tokenlake.yaml").write_text(CONFIG)
    lake = tokenlake.open(folder)
    version = lake.config.version_of("iat")
    for day in range(4):
        lake.instance_tokens.replace_day(FIRST + dt.timedelta(days=day), rows(day, day), version)
        publish_day(lake, FIRST + dt.timedelta(days=day), version)
    return lake


@pytest.fixture(scope="module")
def store(lake: Lake) -> FeatureStore:
    from tokenlake.feast import TokenSource

    user = entity("user", key="user_id")
    fields = {
        "tokens": Array(Float32),
        "timestamps": Array(Int64),
        "bought": Array(Int64),
        "bought_known": Array(Bool),
    }
    views = [
        view("live", TokenSource(name="live", stream="iat", length=5), [user], fields),
        view("nightly", TokenSource(name="nightly", length=5, available="daily", side=False), [user], fields),
        view("unwritten", TokenSource(name="unwritten", stream="other"), [user], fields),
    ]
    offline = {"type": "tokenlake.feast.TokenlakeOfflineStore", "lake": ".."}
    return repository(lake.root / "feature_repo", [user, *views], offline)


def entities() -> pd.DataFrame:
    rng = np.random.default_rng(9)
    times = START + rng.integers(0, 4 * 24, 30) * HOUR
    nanos = pd.Series(pd.to_datetime(times * 1000, utc=True))
    nanos[::3] += pd.Timedelta(nanoseconds=1)
    return pd.DataFrame({"user_id": rng.integers(0, 8, 30), "event_timestamp": nanos})


@pytest.mark.parametrize("kind", ["live", "nightly"])
def test_gives_what_a_fetch_gives(lake: Lake, store: FeatureStore, kind: str) -> None:
    asked = entities()
    names = FEATURES if kind == "live" else FEATURES[:2]
    found = store.get_historical_features(asked, [f"{kind}:{name}" for name in names]).to_arrow().to_pydict()
    tokens = lake.tokens("iat")
    for i, (user, at) in enumerate(zip(asked["user_id"], asked["event_timestamp"], strict=True)):
        before = -(-at.value // 1000)
        available = "realtime" if kind == "live" else "daily"
        batch = tokens.fetch([user], before=[before], length=5, available=available)
        assert found["timestamps"][i] == batch.timestamps.tolist()
        assert all(t * 1000 < at.value for t in found["timestamps"][i])
        assert found["tokens"][i] == batch.values.astype(np.float32).reshape(-1).tolist()
        if kind == "live":
            assert found["bought"][i] == batch.side["bought"].tolist()
            assert found["bought_known"][i] == batch.known["bought"].tolist()
            assert [t for t, k in zip(found["timestamps"][i], found["bought_known"][i], strict=True) if k] == [
                t for t in found["timestamps"][i] if t + 12 * HOUR < before
            ]
    assert max(map(len, found["timestamps"])) == 5
    assert min(map(len, found["timestamps"])) == 0


def test_comes_back_as_jagged_rows(lake: Lake, store: FeatureStore) -> None:
    from tokenlake.feast import token_batch

    asked = entities()
    job = store.get_historical_features(asked, [f"live:{name}" for name in FEATURES], full_feature_names=True)
    batch = token_batch(job, view="live")
    before = -(-asked["event_timestamp"].astype("int64").to_numpy() // 1000)
    want = lake.tokens("iat").fetch(asked["user_id"].to_numpy(), before=before, length=5)
    assert np.array_equal(batch.offsets, want.offsets)
    assert np.array_equal(batch.timestamps, want.timestamps)
    assert np.array_equal(batch.values, want.values.astype(np.float32))
    assert np.array_equal(batch.side["bought"], want.side["bought"])
    assert np.array_equal(batch.known["bought"], want.known["bought"])
    assert batch.torch().values.shape == (len(want.timestamps), DIM)
    alone = store.get_historical_features(asked, ["live:tokens"]).to_arrow()
    assert np.array_equal(token_batch(alone, dim=DIM).offsets, want.offsets)
    with pytest.raises(SchemaError, match="pass dim"):
        token_batch(alone)
    with pytest.raises(SchemaError, match="not made of tokens of width 7"):
        token_batch(alone, dim=7)
    with pytest.raises(SchemaError, match="no column 'nosuch__tokens'"):
        token_batch(alone, view="nosuch")


def test_missing_ids_and_times_have_no_sequence(store: FeatureStore) -> None:
    at = pd.Timestamp("2024-03-04T12:00", tz="UTC")
    asked = pd.DataFrame({"user_id": [1, None, 1], "event_timestamp": [at, at, pd.NaT]})
    found = store.get_historical_features(asked, ["live:tokens", "live:bought"]).to_arrow()
    assert found["tokens"].is_valid().to_pylist() == [True, False, False]
    assert found["bought"].is_valid().to_pylist() == [True, False, False]
    nobody = store.get_historical_features(asked[:0].astype({"user_id": "int64"}), ["live:tokens"]).to_arrow()
    assert nobody.num_rows == 0


def test_materializes_what_is_before_the_end(lake: Lake, store: FeatureStore) -> None:
    start, end = (dt.datetime(2024, 3, day, tzinfo=dt.UTC) for day in (2, 3))
    store.materialize(start, end, feature_views=["live"])
    stored = lake.instance_tokens.read(day=start.date(), version=lake.config.version_of("iat"))
    active = set(stored["user_id"].to_pylist())
    found = store.get_online_features(["live:tokens", "live:timestamps"], [{"user_id": u} for u in range(8)]).to_dict()
    batch = lake.tokens("iat").fetch(np.arange(8), before=START + 2 * DAY_US, length=5)
    for user in range(8):
        own = slice(*batch.offsets[user : user + 2])
        want = batch.timestamps[own].tolist() if user in active else None
        assert found["timestamps"][user] == want
        assert found["tokens"][user] == (None if want is None else batch.values[own].astype(float).ravel().tolist())


def test_without_entities_takes_every_active_user(lake: Lake, store: FeatureStore) -> None:
    start, end = (dt.datetime(2024, 3, day, tzinfo=dt.UTC) for day in (2, 3))
    found = store.get_historical_features(features=["live:timestamps"], start_date=start, end_date=end).to_df()
    stored = lake.instance_tokens.read(day=start.date(), version=lake.config.version_of("iat"))
    assert found["user_id"].tolist() == sorted(set(stored["user_id"].to_pylist()))
    assert set(found["event_timestamp"]) == {pd.Timestamp(end)}


def test_refuses_what_cannot_be(store: FeatureStore) -> None:
    from tokenlake.feast import TokenSource

    with pytest.raises(SchemaError, match="length=0"):
        TokenSource(length=0)
    with pytest.raises(SchemaError, match="available='weekly'"):
        TokenSource(available="weekly")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no version or encoder 'nosuch'"):
        TokenSource(stream="nosuch").validate(store.config)
    with pytest.raises(NotFoundError, match="no tokens of other"):
        store.get_historical_features(entities(), ["unwritten:tokens"]).to_df()
    with pytest.raises(SchemaError, match="has no column 'bought'"):
        store.get_historical_features(entities(), ["nightly:bought"]).to_df()
    two = view("two", TokenSource(), [entity("user", key="user_id"), entity("item")], {"tokens": Array(Float32)})
    store.apply([entity("item"), two])
    asked = entities().assign(item=1)
    with pytest.raises(ConfigError, match="have one entity"):
        store.get_historical_features(asked, ["two:tokens"]).to_df()


def test_labels_of_any_name_are_columns_of_their_own(tmp_path: Path) -> None:
    """A label called as one of the source's columns, or as another label's flag, mixes with none of them."""
    from tokenlake.feast import TokenSource, token_batch
    from tokenlake.feast.definitions import label_lists

    labels = ["tokens", "timestamps", "event_timestamp", "a", "a_known", "a: b"]
    folder = tmp_path / "lake"
    folder.mkdir()
    (folder / "tokenlake.yaml").write_text(
        json.dumps({"events": {"labels": labels}, "tokens": {"encoders": {"iat": {"dim": DIM}}}})
    )
    lake = tokenlake.open(folder)
    version = lake.config.version_of("iat")
    table = rows(0, 0).drop_columns(["clicked", "clicked_known_at", "bought", "bought_known_at"])
    for i, label in enumerate(labels):
        late = pa.array(table["timestamp"].cast(pa.int64()).to_numpy() + i * HOUR).cast(pa.timestamp("us", "UTC"))
        table = table.append_column(label, pa.array([k % (i + 2) % 2 for k in range(20)], pa.int8()))
        table = table.append_column(f"{label}_known_at", late)
    lake.instance_tokens.replace_day(FIRST, table, version)
    publish_day(lake, FIRST, version)
    fields = {"tokens": Array(Float32), "timestamps": Array(Int64), **{f.name: f.dtype for f in label_lists(lake)}}
    user = entity("user", key="user_id")
    seen = view("seen", TokenSource(name="seen", stream="iat"), [user], fields)
    offline = {"type": "tokenlake.feast.TokenlakeOfflineStore", "lake": ".."}
    found = repository(folder / "feature_repo", [user, seen], offline)
    asked = pd.DataFrame(
        {"user_id": range(6), "event_timestamp": pd.to_datetime(START + 20 * HOUR, unit="us", utc=True)}
    )
    batch = token_batch(found.get_historical_features(asked, [f"seen:{name}" for name in fields]))
    want = lake.tokens("iat").fetch(np.arange(6), before=START + 20 * HOUR)
    assert np.array_equal(batch.timestamps, want.timestamps)
    assert np.array_equal(batch.values, want.values.astype(np.float32))
    assert batch.side.keys() == set(labels)
    for label in labels:
        assert np.array_equal(batch.side[label], want.side[label]), label
        assert np.array_equal(batch.known[label], want.known[label]), label
    assert len({want.known[label].tobytes() for label in labels}) > 3
