"""Tables of the lake through Feast: history, materialization, and sources that survive the registry."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tokenlake
from tests.feast_offline.repositories import Array, FeatureStore, Float32, entity, repository, view
from tokenlake._lake import Lake
from tokenlake.errors import ConfigError, NotFoundError, SchemaError

DAY = dt.date(2024, 3, 1)


def embeddings(day: dt.date, users: list[int], value: float) -> pa.Table:
    at = dt.datetime.combine(day, dt.time(), dt.UTC) + dt.timedelta(days=1)
    return pa.table(
        {
            "user_id": pa.array(users),
            "embedding": pa.array([[value + user, -value] for user in users], pa.list_(pa.float32())),
            "checkpoint": ["c"] * len(users),
            "available_at": pa.array([at] * len(users), pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("lake")
    (folder / "tokenlake.yaml").write_text("project: small\nembeddings: {}\n")
    lake = tokenlake.open(folder)
    for i in range(3):
        day = DAY + dt.timedelta(days=i)
        lake.user_embeddings.replace_day(day, embeddings(day, [1, 2], float(i)), "alure-old")
        lake.user_embeddings.replace_day(day, embeddings(day, [1, 3], 100.0 + i), lake.config.embedding_version)
    # A day that was replaced: its first file is still there, tombstoned.
    lake.user_embeddings.replace_day(DAY, embeddings(DAY, [1, 3], 500.0), lake.config.embedding_version)
    return lake


@pytest.fixture(scope="module")
def store(lake: Lake) -> FeatureStore:
    from tokenlake.feast import LakeSource

    user = entity("user", key="user_id")
    new, old = LakeSource(table="user_embeddings"), LakeSource(table="user_embeddings", version="alure-old")
    views = [view(n, s, [user], {"embedding": Array(Float32)}) for n, s in (("users", new), ("olds", old))]
    return repository(lake.root / "feature_repo", [user, *views])


def times(*hours: int) -> pd.Series:
    return pd.Series([pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(hours=h) for h in hours])


def test_reads_one_version_as_of_a_time(store: FeatureStore) -> None:
    entities = pd.DataFrame({"user_id": [3, 1, 1, 2, 9], "event_timestamp": times(47, 48, 23, 30, 99)})
    found = store.get_historical_features(entities, ["users:embedding", "olds:embedding"], full_feature_names=True)
    table = found.to_arrow().to_pydict()
    assert table["user_id"] == [3, 1, 1, 2, 9]
    assert table["users__embedding"] == [[503.0, -500.0], [102.0, -101.0], None, None, None]
    assert table["olds__embedding"] == [None, [2.0, -1.0], None, [2.0, 0.0], None]


def test_strict_is_after_the_time(lake: Lake) -> None:
    from tokenlake.feast import LakeSource

    user = entity("user", key="user_id")
    source = LakeSource(table="user_embeddings")
    tagged = LakeSource(name="tagged", table="user_embeddings", tags={"strict": "false"})
    views = [view(n, s, [user], {"embedding": Array(Float32)}) for n, s in (("users", source), ("tagged", tagged))]
    config = {"type": "tokenlake.feast.TokenlakeOfflineStore", "strict": True}
    store = repository(lake.root / "strict_repo", [user, *views], config)
    entities = pd.DataFrame({"user_id": [1, 1], "event_timestamp": times(24, 24) + pd.to_timedelta([0, 1], "us")})
    found = store.get_historical_features(entities, ["users:embedding", "tagged:embedding"], full_feature_names=True)
    table = found.to_arrow().to_pydict()
    assert table["users__embedding"] == [None, [501.0, -500.0]]
    assert table["tagged__embedding"] == [[501.0, -500.0]] * 2


def test_materializes(store: FeatureStore) -> None:
    start = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
    store.materialize(start, start + dt.timedelta(days=2))
    found = store.get_online_features(["users:embedding"], [{"user_id": user} for user in (1, 2, 3)]).to_dict()
    assert found["embedding"] == [[102.0, -101.0], None, [104.0, -101.0]]


def test_asks_the_lake_in_sql(store: FeatureStore) -> None:
    sql = "select 1::bigint as user_id, timestamptz '2024-03-03 00:00:00+00' as event_timestamp"
    found = store.get_historical_features(sql, ["users:embedding"]).to_df()
    assert np.array_equal(found["embedding"][0], [102.0, -101.0])


def test_sources_survive_the_registry(store: FeatureStore) -> None:
    from tokenlake.feast import LakeSource, TokenSource

    sources = [
        LakeSource(table="user_embeddings", version="alure-old", tags={"strict": "true"}, field_mapping={"a": "b"}),
        LakeSource(name="n", table="events", timestamp_field="timestamp", created_timestamp_column="ingested_at"),
        TokenSource(stream="iat", length=7, side=False, available="daily", description="d", owner="o"),
    ]
    for source in sources:
        assert type(source).from_proto(source.to_proto()) == source
        store.registry.apply_data_source(source, "tests")
        assert store.registry.get_data_source(source.name, "tests") == source
        assert source.name in str(source)
    assert sources[0] != sources[1] != sources[2]
    assert len(set(sources)) == 3


def test_refuses_what_cannot_be(lake: Lake, store: FeatureStore) -> None:
    from tokenlake.feast import LakeSource

    config = store.config
    with pytest.raises(NotFoundError, match="no table 'nosuch'"):
        LakeSource(table="nosuch").validate(config)
    with pytest.raises(NotFoundError, match="no table 'catalog'"):
        LakeSource(table="catalog").validate(config)
    with pytest.raises(ConfigError, match="has no versions"):
        LakeSource(table="events", version="v", timestamp_field="timestamp").validate(config)
    with pytest.raises(SchemaError, match=r"no columns \['nosuch'\]"):
        LakeSource(table="user_embeddings", timestamp_field="nosuch").validate(config)
    with pytest.raises(SchemaError, match=r"no columns \['user_id'\]"):
        store.get_historical_features(pd.DataFrame({"event_timestamp": times(1)}), ["users:embedding"])
    asked = pd.DataFrame({"user_id": ["1"], "event_timestamp": times(1)})
    of_another_kind = store.get_historical_features(asked, ["users:embedding"]).to_arrow()
    assert of_another_kind["embedding"].to_pylist() == [None]
