"""The same writes and reads through Feast's SQLite store and ours."""

from __future__ import annotations

import asyncio
import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types import Value_pb2
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.utils import _convert_arrow_to_proto
from feast.value_type import ValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feast_online.stores import OURS, START, config, stores
from tokenlake.errors import SchemaError
from tokenlake.feast import TokenlakeOnlineStore
from tokenlake.feast.online import encode, wire

TYPES: dict[str, Any] = {
    "a_bool": Bool,
    "a_bytes": Bytes,
    "a_double": Float64,
    "a_float": Float32,
    "a_string": String,
    "a_time": UnixTimestamp,
    "an_int": Int32,
    "bools": Array(Bool),
    "doubles": Array(Float64),
    "floats": Array(Float32),
    "ints": Array(Int64),
    "long": Int64,
    "strings": Array(String),
    "times": Array(UnixTimestamp),
}
ROWS = 7


def columns() -> pa.Table:
    """A column of every type, with nulls in row 2 wherever Feast's conversion from Arrow can say one."""
    rng = np.random.default_rng(0)
    plain: dict[str, list[Any]] = {
        "a_bool": [bool(i % 2) for i in range(ROWS)],
        "a_bytes": [bytes([i]) * i for i in range(ROWS)],
        "a_double": [float(x) for x in rng.standard_normal(ROWS)],
        "a_float": [float(np.float32(x)) for x in rng.standard_normal(ROWS)],
        "a_string": [f"{'é' * i}" for i in range(ROWS)],
        "a_time": [START - dt.timedelta(seconds=i, microseconds=i) for i in range(ROWS)],
        "an_int": [-3 + i for i in range(ROWS)],
        "bools": [[True, False][: i % 3] for i in range(ROWS)],
        "doubles": [[0.1] * i for i in range(ROWS)],
        "floats": [[0.5, -1.0, 3e38] for _ in range(ROWS)],
        "ints": [[-1, 2**62][: i % 3] for i in range(ROWS)],
        "long": [-(2**62), 2**62, 0, 127, 128, -1, 5],
        "strings": [["a", ""][: i % 3] for i in range(ROWS)],
        "times": [[START] * (i % 3) for i in range(ROWS)],
    }
    for name in ("a_bytes", "a_double", "a_string", "doubles", "floats", "strings"):
        plain[name][2] = None
    kinds = {"a_float": pa.float32(), "an_int": pa.int32(), "floats": pa.list_(pa.float32())}
    return pa.table(
        {
            "user_id": pa.array(range(ROWS), pa.int64()),
            "shop": pa.array(["s" * i for i in range(ROWS)]),
            **{name: pa.array(values, kinds.get(name)) for name, values in plain.items()},
            "event_timestamp": pa.array(
                [START + dt.timedelta(hours=i) for i in range(ROWS)], pa.timestamp("us", "UTC")
            ),
            "created": pa.array([START] * ROWS, pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[FeatureStore]:
    folder = tmp_path_factory.mktemp("pair")
    pq.write_table(columns(), folder / "rows.parquet")
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    source = FileSource(
        name="rows",
        path=str(folder / "rows.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    keys = [Field(name="user_id", dtype=Int64), Field(name="shop", dtype=String)]
    fields = [Field(name=name, dtype=kind) for name, kind in TYPES.items()]
    objects = [
        user,
        shop,
        FeatureView(name="both", entities=[user, shop], schema=keys + fields, source=source, ttl=dt.timedelta(days=1)),
        single := FeatureView(name="single", entities=[user], schema=[keys[0], *fields[:4]], source=source),
        FeatureView(
            name="pushed",
            entities=[user],
            schema=[keys[0], Field(name="long", dtype=Int64)],
            source=PushSource(name="push", batch_source=source),
        ),
        FeatureService(name="service", features=[single[["a_bool"]]]),
    ]
    made = stores(folder, objects)
    for store in made:
        for name in ("both", "single"):
            view = store.get_feature_view(name)
            types = {c.name: c.dtype.to_value_type() for c in view.entity_columns}
            store.provider.online_write_batch(store.config, view, _convert_arrow_to_proto(columns(), view, types), None)
    return made


ENTITIES = [{"user_id": i, "shop": "s" * (i % ROWS)} for i in (3, 0, 99, 3, 2, 6, 8)]
FEATURES = [f"both:{name}" for name in TYPES] + ["single:a_float", "single:a_bool"]


def test_the_same_response(pair: list[FeatureStore]) -> None:
    for full in (True, False):
        names = FEATURES if full else FEATURES[:-2]
        theirs, ours = (
            store.get_online_features(
                names, ENTITIES, full_feature_names=full, include_feature_view_version_metadata=full
            )
            for store in pair
        )
        assert ours.proto == theirs.proto
        assert str(ours.to_dict(include_event_timestamps=True)) == str(theirs.to_dict(include_event_timestamps=True))
    present = ours.proto.results[-1].statuses
    # Old rows, older than the view's ttl by years: Feast serves them all the same.
    assert list(present) == [FieldStatus.PRESENT if e["user_id"] < ROWS else FieldStatus.NOT_FOUND for e in ENTITIES]
    users = [{"user_id": e["user_id"]} for e in ENTITIES]
    theirs, ours = (store.get_online_features(store.get_feature_service("service"), users) for store in pair)
    assert ours.proto == theirs.proto


def test_the_same_in_a_coroutine(pair: list[FeatureStore]) -> None:
    ours = pair[1]
    found = asyncio.run(ours.get_online_features_async(FEATURES, ENTITIES, full_feature_names=True))
    assert found.proto == ours.get_online_features(FEATURES, ENTITIES, full_feature_names=True).proto
    provider, view = ours.provider, ours.get_feature_view("single")
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=55)])
    row = (key, {"a_bool": Value(bool_val=True)}, START, None)
    asyncio.run(provider.online_write_batch_async(ours.config, view, [row], None))
    (read,) = asyncio.run(provider.online_read_async(ours.config, view, [key], ["a_bool"]))
    assert read == (START, {"a_bool": Value(bool_val=True)})
    (plain,) = provider.online_read(ours.config, view, [key])
    assert plain == read
    assert provider.async_supported.online.read
    assert provider.async_supported.online.write


def test_a_push_is_kept_unless_something_newer_stands(pair: list[FeatureStore]) -> None:
    for hours, value in ((5, 1), (7, 2), (6, 3)):
        time = START + dt.timedelta(hours=hours)
        row = pa.table({"user_id": [1], "long": [value], "event_timestamp": [time], "created": [time]}).to_pandas()
        for store in pair:
            store.push("push", row)
    theirs, ours = (s.get_online_features(["pushed:long"], [{"user_id": 1}]).to_dict()["long"] for s in pair)
    assert theirs == [3], "Feast's SQLite store lets a late write overwrite a newer value"
    assert ours == [2]


def test_columns_become_the_same_bytes(pair: list[FeatureStore], tmp_path: Path) -> None:
    store, view = pair[1], pair[1].get_feature_view("both")
    kept = [
        (view.name, "chunks", pa.concat_tables([columns()[:3], columns()[3:]])),
        ("single", "batch", columns().to_batches()[0]),
    ]
    for name, project, table in kept:
        view = store.get_feature_view(name)
        other = config(tmp_path, OURS, project)
        online = TokenlakeOnlineStore()
        assert online.write_arrow(other, view, table) == ROWS
        types = {c.name: c.dtype.to_value_type() for c in view.entity_columns}
        rows = _convert_arrow_to_proto(columns(), view, types)
        found = online.online_read(other, view, [key for key, _, _, _ in rows])
        assert found == [(time.replace(tzinfo=dt.UTC), values) for _, values, time, _ in rows]


def test_what_cannot_be_written_is_refused(pair: list[FeatureStore], tmp_path: Path) -> None:
    view, online, other = pair[1].get_feature_view("both"), TokenlakeOnlineStore(), config(tmp_path, OURS)
    for table, message in (
        (columns().drop_columns("ints"), r"columns \['ints'\] are missing"),
        (columns().set_column(0, "user_id", pa.nulls(ROWS, pa.int64())), "join key 'user_id': 7 nulls"),
        (columns().set_column(0, "user_id", pa.array(["x"] * ROWS)), "join key 'user_id': string given"),
        (columns().set_column(16, "event_timestamp", pa.array(range(ROWS))), "event_timestamp: Arrow type int64"),
    ):
        with pytest.raises(SchemaError, match=message):
            online.write_arrow(other, view, table)
    assert not (tmp_path / "online.db").exists()


def test_materialization_by_our_engine(pair: list[FeatureStore], tmp_path: Path) -> None:
    """The same responses as by Feast's; of rows of one entity the newest is kept, of equal times the last created."""
    rows = columns().drop_columns(["a_bytes", "doubles"])
    again = rows.set_column(rows.schema.get_field_index("long"), "long", pa.array([5] * ROWS))
    earlier = pa.array([START - dt.timedelta(days=1)] * ROWS, pa.timestamp("us", "UTC"))
    old = again.set_column(again.schema.get_field_index("event_timestamp"), "event_timestamp", earlier)
    before = again.set_column(again.schema.get_field_index("created"), "created", earlier)
    pq.write_table(pa.concat_tables([rows, old, before]), tmp_path / "rows.parquet")
    source = FileSource(
        name="mapped",
        path=str(tmp_path / "rows.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
        field_mapping={"long": "number"},
    )
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    fields = [
        Field(name="user_id", dtype=Int64),
        Field(name="number", dtype=Int64),
        Field(name="floats", dtype=Array(Float32)),
    ]
    view = FeatureView(name="mapped", entities=[user], schema=fields, source=source)
    theirs = FeatureStore(config=config(tmp_path / "theirs", "sqlite"))
    engine = {"type": "tokenlake.feast.TokenlakeComputeEngine"}
    ours = FeatureStore(config=config(tmp_path / "ours", OURS, batch_engine=engine))
    for store in (theirs, ours):
        store.apply([user, view])
        store.materialize(START - dt.timedelta(days=9), START + dt.timedelta(days=9))
    asked = [{"user_id": i} for i in range(ROWS + 1)]
    found = [store.get_online_features(["mapped:number", "mapped:floats"], asked) for store in (theirs, ours)]
    assert found[0].proto == found[1].proto
    assert found[1].to_dict()["number"][:ROWS] == rows["long"].to_pylist()
    (tmp_path / "rows.parquet").write_bytes(b"not Parquet")
    with pytest.raises(pa.ArrowInvalid, match="Parquet"):
        ours.materialize(START - dt.timedelta(days=9), START + dt.timedelta(days=9))


def lists(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Value]:
    kind = getattr(Value_pb2, name)
    field = {"Int64List": "int64_list_val", "FloatList": "float_list_val", "StringList": "string_list_val"}[name]
    return st.lists(values, max_size=4).map(lambda found: Value(**{field: kind(val=found)}))


VALUES = st.one_of(
    st.just(Value()),
    st.binary(max_size=9).map(lambda v: Value(bytes_val=v)),
    st.text(max_size=9).map(lambda v: Value(string_val=v)),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: Value(int64_val=v)),
    st.floats(allow_nan=False).map(lambda v: Value(double_val=v)),
    st.booleans().map(lambda v: Value(bool_val=v)),
    lists("Int64List", st.integers(-(2**63), 2**63 - 1)),
    lists("FloatList", st.floats(width=32, allow_nan=False)),
    lists("StringList", st.text(max_size=5)),
)
FEATURE_ROWS = st.tuples(
    st.integers(0, 3), st.dictionaries(st.sampled_from(["x", "y"]), VALUES, min_size=1), st.integers(0, 3)
)


def view_of(names: list[str]) -> FeatureView:
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    fields = [Field(name="user_id", dtype=Int64), *(Field(name=name, dtype=Int64) for name in names)]
    source = FileSource(name="rows", path="rows.parquet", timestamp_field="event_timestamp")
    return FeatureView(name="view", entities=[user], schema=fields, source=source)


@settings(max_examples=40)
@given(st.lists(st.lists(FEATURE_ROWS, max_size=6), max_size=5))
def test_the_same_sequence_of_writes(batches: list[list[Any]]) -> None:
    """Feast's store keeps what was written last, ours what is newest: the same where nothing comes late."""
    view = view_of(["x", "y"])
    keys = [EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=i)]) for i in range(5)]
    last: dict[tuple[int, str], Value] = {}
    newest: dict[tuple[int, str], tuple[int, Value]] = {}
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = SqliteOnlineStore(), TokenlakeOnlineStore()
        their_config, our_config = (config(Path(folder) / kind, kind) for kind in ("sqlite", OURS))
        theirs.update(their_config, [], [view], [], [], partial=False)
        try:
            for batch in batches:
                rows: list[Any] = [(keys[u], values, START + dt.timedelta(hours=h), None) for u, values, h in batch]
                theirs.online_write_batch(their_config, view, rows, None)
                told: list[int] = []
                ours.online_write_batch(our_config, view, rows, told.append)
                assert sum(told) == len(rows)
                for user, values, hour in batch:
                    for name, value in values.items():
                        last[user, name] = value
                        if hour >= newest.get((user, name), (-1, None))[0]:
                            newest[user, name] = (hour, value)
            for user, ((_, theirs_found), (_, found)) in enumerate(
                zip(theirs.online_read(their_config, view, keys), ours.online_read(our_config, view, keys), strict=True)
            ):
                assert (theirs_found or {}) == {name: v for (u, name), v in last.items() if u == user}
                assert (found or {}) == {name: v for (u, name), (_, v) in newest.items() if u == user}
                late = any(last[key] != value for key, (_, value) in newest.items() if key[0] == user)
                assert late or theirs_found == found
        finally:
            theirs.teardown(their_config, [view], [])
            ours.teardown(our_config, [view], [])
        assert ours.online_read(our_config, view, keys[:1]) == [(None, None)]


def test_created_breaks_a_tie(tmp_path: Path) -> None:
    view, store, here = view_of(["x"]), TokenlakeOnlineStore(), config(tmp_path, OURS)
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=1)])
    hours: list[Any] = [2, 3, 1, None, 3]
    for i, hour in enumerate(hours):
        created = None if hour is None else START + dt.timedelta(hours=hour)
        store.online_write_batch(here, view, [(key, {"x": Value(int64_val=i)}, START, created)], None)
        kept = max(range(i + 1), key=lambda j: (-1 if hours[j] is None else hours[j], j))
        assert store.online_read(here, view, [key]) == [(START, {"x": Value(int64_val=kept)})]


def test_update_keeps_the_data_of_kept_views(tmp_path: Path) -> None:
    view, store, here = view_of(["x"]), TokenlakeOnlineStore(), config(tmp_path, OURS)
    gone = view_of(["x"])
    gone.name = "gone/away"  # a name is no path
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=1)])
    for each in (view, gone):
        naive = START.replace(tzinfo=None)
        store.online_write_batch(here, each, [(key, {"x": Value(int64_val=1)}, naive, None)], None)
    store.update(here, [gone], [view], [], [], partial=False)
    assert store.plan(here, None) == []  # type: ignore[arg-type]  # it does not look
    assert store.online_read(here, view, [key])[0][0] == START
    assert TokenlakeOnlineStore().online_read(here, gone, [key]) == [(None, None)]


def test_the_wire_is_what_feasts_descriptors_say() -> None:
    fields = {field.name: field.number for field in Value.DESCRIPTOR.fields}
    for name, number in wire.FIELDS.items():
        assert fields[f"{name.lower()}_val"] == number
    vector = GetOnlineFeaturesResponse.FeatureVector
    assert [(f.name, f.number) for f in vector.DESCRIPTOR.fields] == [
        ("values", 1),
        ("statuses", 2),
        ("event_timestamps", 3),
    ]


#: Numbers of as many bits as microseconds have, and some of a bit less or more, go a way of their own.
_MICROS = st.integers(2**49 - 2, 2**56 + 2)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1))
    | st.lists(_MICROS)
    | st.lists(_MICROS.filter(lambda n: 2**49 <= n < 2**56))
)
def test_varints(numbers: list[int]) -> None:
    data, sizes = wire.varints(np.array(numbers, np.int64))
    assert data.tobytes() == b"".join(wire.varint(n % 2**64) for n in numbers)
    assert sizes.tolist() == [len(wire.varint(n % 2**64)) for n in numbers]
    packed = Value_pb2.Int64List(val=numbers).SerializeToString()
    assert packed == (b"\x0a" + wire.varint(len(data)) + data.tobytes() if numbers else b"")


@given(st.integers(-(2**50), 2**50))
def test_timestamps(micros: int) -> None:
    vector = GetOnlineFeaturesResponse.FeatureVector.FromString(wire.feature_vector(b"", [micros, None]))
    assert vector.event_timestamps[0].ToMicroseconds() == micros
    assert vector.event_timestamps[1].ToMicroseconds() == 0


@pytest.mark.parametrize("kind", [ValueType.FLOAT_LIST, ValueType.DOUBLE_LIST])
def test_lists_in_every_arrow_shape(kind: ValueType) -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(6, 2)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), 2)
    shapes = [fixed, fixed.cast(pa.list_(pa.float32())), fixed.cast(pa.large_list(pa.float64()))]
    with_null = pa.array([[0.0, 1.0], None, [4.0], []], pa.list_(pa.float32()))
    name = f"{kind.name.lower()}_val"
    inner_null = pa.array([[0.0, None]], pa.list_(pa.float32()))
    for column in (*shapes, *(s[2:5] for s in shapes), with_null, with_null[1:], with_null[3:], with_null[:0]):
        values = [Value.FromString(b) for b in encode.encode_values(column, kind).to_pylist()]
        assert [list(getattr(v, name).val) if v.HasField(name) else None for v in values] == column.to_pylist()
    (found,) = encode.encode_values(inner_null, kind).to_pylist()  # as Feast's own conversion
    assert np.isnan(getattr(Value.FromString(found), name).val[1])
