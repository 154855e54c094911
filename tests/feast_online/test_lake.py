"""Views over a lake: token sequences from its token store, nearest users by its FAISS index."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, Value
from feast.types import Array, Bool, Float32, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from tests.fixtures.embedded import BLOCK
from tests.fixtures.lakes import CONFIG, day, make_events, make_lake
from tokenlake._lake import Lake
from tokenlake.errors import ConfigError, NotFoundError, SchemaError
from tokenlake.feast import LakeSource, TokenlakeOnlineStore, TokenSource
from tokenlake.feast.online import search
from tokenlake.pipeline.backfill import backfill
from tokenlake.storage import native_ops
from tokenlake.times import DAY_US, day_start
from tokenlake.tokens.store import TokenStore

OURS = "tokenlake.feast.TokenlakeOnlineStore"
DIM, LENGTH = 4, 5
NOW = time.time_ns() // 1000


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = make_lake(tmp_path_factory.mktemp("lake"), CONFIG + BLOCK)
    made.ingest(make_events())
    backfill(made, version="alure")
    return made


@pytest.fixture
def config(lake: Lake, tmp_path: Path) -> RepoConfig:
    return RepoConfig(
        project="project",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": OURS, "path": "online", "lake": str(lake.root)},
        entity_key_serialization_version=3,
        repo_path=tmp_path,
    )


def view_of(fields: dict[str, Any], source: Any) -> FeatureView:
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    schema = [Field(name="user_id", dtype=Int64), *(Field(name=name, dtype=kind) for name, kind in fields.items())]
    return FeatureView(name="view", entities=[user], schema=schema, source=source)


def sequences(version: str | None = None, times: Any = Int64, **fields: Any) -> FeatureView:
    shown = {"vectors": Array(Float32), "timestamps": Array(times), **fields}
    return view_of(shown, TokenSource(length=LENGTH, version=version, field_mapping={"tokens": "vectors"}))


def key(user: int) -> EntityKey:
    return EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user)])


def tokens_of(lake: Lake, version: str, labels: bool = False, dtype: str = "float16") -> TokenStore:
    path = lake.store_path(lake.resolve(version))
    known = ["clicked"] if labels else []
    side = {"clicked": "int8", "price": "float32"} if labels else {"price": "float32"}
    store = TokenStore.create(path, dim=DIM, dtype=dtype, side=side, known_at=known)
    rng = np.random.default_rng(0)
    for i in range(3):
        start = day_start(day(i))
        times = start + rng.integers(0, DAY_US, 40)
        columns = {"price": rng.random(40, np.float32)}
        if labels:
            columns["clicked"] = rng.integers(1, 3, 40).astype(np.int8)
        made = {"clicked": np.where(rng.random(40) < 0.5, NOW * 2, times)} if labels else None
        store.write_day(day(i), rng.integers(0, 6, 40), times, rng.standard_normal((40, DIM)), columns, made)
    return store


@pytest.fixture(scope="module")
def plain(lake: Lake) -> TokenStore:
    return tokens_of(lake, "plain", dtype="int8")


@pytest.fixture(scope="module")
def labelled(lake: Lake) -> TokenStore:
    return tokens_of(lake, "iat", labels=True)


def test_sequences_are_what_the_store_fetches(lake: Lake, config: RepoConfig, labelled: TokenStore) -> None:
    seconds = sequences(times=UnixTimestamp)
    view = sequences(clicked=Array(Int64), clicked_known=Array(Bool), price=Array(Float32))
    users = [3, 0, 99, 5]
    batch = labelled.fetch(users, before=NOW, length=LENGTH)
    assert not batch.known["clicked"].all(), "labels of a later time are there to be hidden"
    online = TokenlakeOnlineStore()
    found = online.online_read(config, view, [key(u) for u in users])
    assert found[2] == (None, None)
    for i in (0, 1, 3):
        own = slice(batch.offsets[i], batch.offsets[i + 1])
        event, values = found[i]
        assert values is not None
        assert event == dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(
            microseconds=int(batch.timestamps[own][-1])
        )
        sent = np.array(values["vectors"].float_list_val.val, np.float32)
        assert sent.tobytes() == batch.values[own].astype(np.float32).tobytes()
        assert list(values["timestamps"].int64_list_val.val) == batch.timestamps[own].tolist()
        assert list(values["clicked"].int64_list_val.val) == batch.side["clicked"][own].tolist()
        assert list(values["clicked_known"].bool_list_val.val) == batch.known["clicked"][own].tolist()
        assert np.float32(values["price"].float_list_val.val).tobytes() == batch.side["price"][own].tobytes()
        (_, times), *_ = online.online_read(config, seconds, [key(users[i])], ["timestamps"])
        assert times is not None
        whole = (batch.timestamps[own] // 1_000_000).tolist()
        assert list(times["timestamps"].unix_timestamp_list_val.val) == whole
    assert asyncio.run(online.online_read_async(config, view, [key(u) for u in users])) == found


def test_answers_share_no_memory_whoever_asks_at_once(
    lake: Lake, config: RepoConfig, labelled: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread fills one buffer again and again: no answer may hold what a later one, or another thread's, says."""
    online, view = TokenlakeOnlineStore(), sequences()
    wanted = {}
    for user in range(6):
        batch = labelled.fetch([user], before=NOW, length=LENGTH)
        wanted[user] = (batch.floats().reshape(-1).tolist(), batch.timestamps.tolist())

    def ask(turn: int) -> list[bool]:
        users = np.random.default_rng(turn).permutation(6).tolist()
        first = online.online_read(config, view, [key(user) for user in users])
        online.online_read(config, view, [key(user) for user in reversed(users)])
        told = [values or {} for _, values in first]
        return [
            (list(row["vectors"].float_list_val.val), list(row["timestamps"].int64_list_val.val)) == wanted[user]
            for row, user in zip(told, users, strict=True)
        ]

    with ThreadPoolExecutor(8) as pool:
        assert all(same for each in pool.map(ask, range(200)) for same in each)
    monkeypatch.setattr(native_ops, "library", lambda: None)
    assert all(ask(0)), "also where NumPy widens"


def test_an_id_of_another_kind_has_no_sequence(config: RepoConfig, labelled: TokenStore) -> None:
    values = [Value(string_val="3"), Value(double_val=3.0), Value(bool_val=True), Value(), Value(int64_val=3)]
    keys = [EntityKey(join_keys=["user_id"], entity_values=[value]) for value in values]
    *nobody, somebody = TokenlakeOnlineStore().online_read(config, sequences(), keys)
    assert nobody == [(None, None)] * 4
    assert somebody == TokenlakeOnlineStore().online_read(config, sequences(), [key(3)])[0]


def test_through_the_feature_store(lake: Lake, config: RepoConfig, labelled: TokenStore) -> None:
    """Registered, materialized, asked for: a user's tokens, and the nearest users in the order that pairs them right."""
    settings = {"offline_store": {"type": "tokenlake.feast.TokenlakeOfflineStore", "lake": str(lake.root)}}
    engine = {"batch_engine": {"type": "tokenlake.feast.TokenlakeComputeEngine"}}
    store = FeatureStore(config=RepoConfig(**{**config.model_dump(by_alias=True), **settings, **engine}))
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    tokens = sequences(clicked=Array(Int32))
    keys = [Field(name="user_id", dtype=Int64), Field(name="embedding", dtype=Array(Float32))]
    source = LakeSource(table="user_embeddings", version=lake.config.embedding_version)
    near = FeatureView(name="near", entities=[user], schema=keys, source=source)
    store.apply([user, tokens, near])
    day_after = dt.datetime.combine(day(8), dt.time(1), dt.UTC)
    store.materialize(day_after - dt.timedelta(days=1), day_after)
    assert store.provider.online_store.write_arrow(store.config, tokens, pa.table({})) == 0
    users = [0, 3, 99]
    answer = store.get_online_features(["view:vectors", "view:clicked"], [{"user_id": u} for u in users]).to_dict()
    batch = labelled.fetch(users, before=NOW, length=LENGTH)
    for i, (start, stop) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
        shown = batch.values[start:stop].astype(np.float32).ravel().tolist() if stop > start else None
        assert answer["vectors"][i] == shown
        assert answer["clicked"][i] == (batch.side["clicked"][start:stop].tolist() if stop > start else None)
    rows = lake.user_embeddings.read(day=day(7), version=lake.config.embedding_version).to_pylist()
    query = np.float32(rows[3]["embedding"])
    found = store.retrieve_online_documents_v2(["near:embedding"], top_k=3, query=query.tolist(), distance_metric="L2")
    held = {row["user_id"]: np.float32(row["embedding"]) for row in rows}
    told = found.to_dict()
    assert told["user_id"] == sorted(exact(held, query, "L2"))
    for user_id, vector, distance in zip(told["user_id"], told["embedding"], told["distance"], strict=True):
        assert np.float32(vector).tolist() == held[user_id].tolist()
        assert distance == pytest.approx(np.linalg.norm(held[user_id] - query), abs=1e-6)


def test_what_a_sequence_cannot_say_is_refused(config: RepoConfig, labelled: TokenStore, tmp_path: Path) -> None:
    online = TokenlakeOnlineStore()
    for fields, message in (
        ({"colour": Array(Int64)}, "has no 'colour'; it has"),
        ({"clicked": Array(String)}, "'clicked' is of type"),
    ):
        with pytest.raises(SchemaError, match=message):
            online.online_read(config, sequences(**fields), [key(1)])
    several = EntityKey(join_keys=["a", "b"], entity_values=[Value(int64_val=1)] * 2)
    with pytest.raises(SchemaError, match="one entity, its user"):
        online.online_read(config, sequences(), [several])
    with pytest.raises(NotFoundError, match="no version or encoder 'other'"):
        online.online_read(config, sequences("other"), [key(1)])
    config.online_store.lake = None
    with pytest.raises(ConfigError, match="set `lake:`"):
        online.online_read(config, sequences(), [key(1)])


def pushed(user: int, times: list[int], value: float, **more: Any) -> Any:
    tokens = Value(float_list_val=FloatList(val=np.full(len(times) * DIM, value)))
    values = {"vectors": tokens, "timestamps": Value(int64_list_val=Int64List(val=times)), **more}
    return key(user), values, dt.datetime.now(dt.UTC), None


def test_a_push_goes_to_the_realtime_tail_once(config: RepoConfig, plain: TokenStore) -> None:
    online, view = TokenlakeOnlineStore(), sequences("plain", price=Array(Float32))
    before = plain.fetch(range(6), before=NOW, length=100)
    read = online.online_read(config, view, [key(u) for u in range(6)])
    # What a materialization would write: the sequences that the store already serves.
    rows: list[Any] = [(key(u), values, event, None) for u, (event, values) in enumerate(read)]
    online.online_write_batch(config, view, rows, None)
    assert plain.status().tail_rows == 0
    start = day_start(day(5))
    price = Value(float_list_val=FloatList(val=[1.0, 2.0]))
    for _ in range(2):  # a push may be sent twice
        online.online_write_batch(config, view, [pushed(2, [start, start + 1], 0.5, price=price)], None)
    after = plain.fetch(range(6), before=NOW, length=100)
    assert len(after.values) == len(before.values) + 2
    (_, values), *_ = TokenlakeOnlineStore().online_read(config, view, [key(2)])
    assert values is not None
    assert list(values["timestamps"].int64_list_val.val)[-2:] == [start, start + 1]
    assert list(values["price"].float_list_val.val)[-2:] == [1.0, 2.0]
    np.testing.assert_allclose(values["vectors"].float_list_val.val[-2 * DIM :], 0.5, atol=0.01)
    with pytest.raises(SchemaError, match="user 2: 4 numbers of 1 tokens given, and lists of \\[0\\]"):
        online.online_write_batch(config, view, [pushed(2, [start + 5], 0.5)], None)


def test_a_push_that_cannot_say_when_a_label_is_known_is_refused(config: RepoConfig, labelled: TokenStore) -> None:
    online = TokenlakeOnlineStore()
    for view in (sequences(clicked=Array(Int64)), sequences(times=UnixTimestamp)):
        read = online.online_read(config, view, [key(1)])
        online.online_write_batch(config, view, [(key(1), read[0][1] or {}, NOW, None)], None)  # type: ignore[list-item]
        field = {"timestamps": Value(unix_timestamp_list_val=Int64List(val=[day_start(day(6)) // 10**6]))}
        fresh = pushed(1, [day_start(day(6))], 1.0, **(field if view.features[1].dtype == Array(UnixTimestamp) else {}))
        with pytest.raises(SchemaError, match=r"append them with lake.tokens\(\).append"):
            online.online_write_batch(config, view, [fresh], None)
    assert labelled.status().tail_rows == 0


def embeddings(**attributes: Any) -> FeatureView:
    given = {"table": "user_embeddings", **attributes}
    return view_of({"embedding": Array(Float32), "note": String}, LakeSource(**given))


def exact(vectors: dict[int, np.ndarray], query: np.ndarray, metric: str) -> dict[int, float]:
    def distance(v: np.ndarray) -> float:
        if metric == "cosine":
            return float(1 - v @ query / np.linalg.norm(v) / np.linalg.norm(query))
        return float(np.linalg.norm(v - query)) if metric == "L2" else float(-(v @ query))

    found = {user: distance(vector) for user, vector in vectors.items()}
    return {user: found[user] for user in sorted(found, key=lambda u: found[u])[:3]}


@pytest.mark.parametrize("metric", ["cosine", "L2", "inner_product"])
def test_the_nearest(lake: Lake, config: RepoConfig, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the index, and exactly where the view's vectors are not those of the index."""
    online, view = TokenlakeOnlineStore(), embeddings()
    table = lake.user_embeddings.read(day=day(7), version=lake.config.embedding_version)
    vectors = {row["user_id"]: np.float32(row["embedding"]) for row in table.to_pylist()}
    query = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    asked: list[bool] = []
    near = search.LakeIndex.near
    monkeypatch.setattr(search.LakeIndex, "near", lambda *a: asked.append(True) or near(*a))

    def write(own: dict[int, np.ndarray]) -> None:
        rows: list[Any] = [
            (
                key(u),
                {"embedding": Value(float_list_val=FloatList(val=v)), "note": Value(string_val=f"user {u}")},
                t,
                None,
            )
            for (u, v), t in zip(own.items(), [dt.datetime.now(dt.UTC)] * len(own), strict=True)
        ]
        online.online_write_batch(config, view, rows, None)

    def check(own: dict[int, np.ndarray]) -> None:
        found = online.retrieve_online_documents_v2(config, view, ["note"], query.tolist(), 3, metric)
        wanted = exact(own, query, metric)
        users = [row[1].entity_values[0].int64_val for row in found if row[1] is not None]
        assert users == sorted(wanted)
        for user, (_, _, values) in zip(users, found, strict=True):
            assert values is not None
            assert values["note"].string_val == f"user {user}"
            assert values["distance"].float_val == pytest.approx(wanted[user], abs=1e-6)

    write(vectors)
    monkeypatch.setattr(search.Vectors, "of", lambda *_: pytest.fail("the index was not used"))
    check(vectors)
    monkeypatch.undo()
    for changed in ({50: 3 * query}, {u: -v for u, v in vectors.items()}):
        vectors |= changed
        write(changed)
    check(vectors)
    assert asked
    pinned = embeddings(version="alure-00000000")
    first = online.retrieve_online_documents_v2(config, pinned, [], query.tolist(), 3, metric)
    assert [row[1] for row in first] == [key(u) for u in sorted(exact(vectors, query, metric))]


def test_what_is_no_search_for_vectors_is_refused(config: RepoConfig) -> None:
    online, view = TokenlakeOnlineStore(), embeddings(table="events")
    assert online.retrieve_online_documents_v2(config, view, ["note"], [1.0, 2.0], 3) == []
    row = (key(1), {"embedding": Value(float_list_val=FloatList(val=[1, 2]))}, dt.datetime.now(dt.UTC), None)
    online.online_write_batch(config, view, [row], None)
    ask = online.retrieve_online_documents_v2
    for call, message in (
        (lambda: ask(config, view, ["note"], None, 3, query_string="shoes"), "text queries and filters"),
        (lambda: ask(config, view, ["note"], [1.0], 3, filters=object()), "text queries and filters"),  # type: ignore[arg-type]
        (lambda: ask(config, view, ["note"], [1.0], 3), "a vector of 1 numbers given; those of 'view' have 2"),
        (lambda: ask(config, view, ["note"], [1.0, 2.0], 3, "hamming"), "distance_metric='hamming'"),
        (
            lambda: ask(config, view_of({"a": String}, LakeSource(table="events")), [], [1.0], 3),
            r"has the vector features \[\]",
        ),
    ):
        with pytest.raises(SchemaError, match=message):
            call()
    other = (key(2), {"embedding": Value(float_list_val=FloatList(val=[1, 2, 3]))}, dt.datetime.now(dt.UTC), None)
    online.online_write_batch(config, view, [other], None)
    with pytest.raises(SchemaError, match="vectors of different widths"):
        ask(config, view, ["note"], [1.0, 2.0], 3)
