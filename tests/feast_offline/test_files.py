"""Files of other kinds, on-demand views, renamed entities, and what the store writes."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from tests.feast_offline.repositories import FeatureStore, Field, FileSource, Float32, Int64, entity, repository, view
from tokenlake.errors import ConfigError, CorruptionError, NotFoundError, SchemaError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as in `repositories`
    from feast import RequestSource
    from feast.data_format import DeltaFormat
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.on_demand_feature_view import on_demand_feature_view

ZERO = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


def table(count: int = 40, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    hours = rng.permutation(100)[:count]
    times = [ZERO + dt.timedelta(hours=int(h)) for h in hours]
    return pa.table(
        {
            "user": pa.array(rng.integers(0, 5, count)),
            "at": pa.array(times, pa.timestamp("us", "UTC")),
            "x": pa.array(rng.integers(0, 1000, count)),
            "day": pa.array([t.date().isoformat() for t in times]),
        }
    )


def asked() -> pd.DataFrame:
    hours = range(0, 120, 7)
    times = pd.Series([pd.Timestamp(ZERO) + pd.Timedelta(hours=h) for h in hours])
    return pd.DataFrame({"user": [h % 6 for h in hours], "event_timestamp": times, "extra": [float(h) for h in hours]})


def slowly(rows: pa.Table, frame: pd.DataFrame) -> list[int | None]:
    plain = rows.to_pylist()
    found = []
    for user, time in zip(frame["user"], frame["event_timestamp"], strict=True):
        seen = [(row["at"], row["x"]) for row in plain if row["user"] == user and row["at"] <= time]
        found.append(max(seen)[1] if seen else None)
    return found


def stored(folder: Path, path: str, how: Any = None, **more: Any) -> FeatureStore:
    user = entity("user")
    source = FileSource(name="rows", path=path, timestamp_field="at", file_format=how)
    return repository(folder / "repo", [user, view("rows", source, [user], {"x": Int64, **more})])


def answer(store: FeatureStore) -> list[int | None]:
    found = store.get_historical_features(asked(), ["rows:x"]).to_arrow()
    return list(found["x"].to_pylist())


def test_reads_delta_as_it_is_now(tmp_path: Path) -> None:
    first, second, late = table(seed=1), table(seed=2), table(10, seed=3)
    write_deltalake(tmp_path / "delta", first, partition_by=["day"])
    write_deltalake(tmp_path / "delta", second, mode="overwrite", partition_by=["day"])
    store = stored(tmp_path, str(tmp_path / "delta"), DeltaFormat())
    assert answer(store) == slowly(second, asked())
    names = [
        name for name, _ in store.get_feature_view("rows").batch_source.get_table_column_names_and_types(store.config)
    ]
    store.provider.offline_store.offline_write_batch(
        store.config, store.get_feature_view("rows"), late.select(names), None
    )
    assert answer(store) == slowly(pa.concat_tables([second, late]), asked())


def test_reads_folders_by_their_days(tmp_path: Path) -> None:
    rows = table()
    pq.write_to_dataset(rows, tmp_path / "folder", partition_cols=["day"])
    assert answer(stored(tmp_path, str(tmp_path / "folder"))) == slowly(rows, asked())
    assert answer(stored(tmp_path, str(tmp_path / "folder" / "*" / "*.parquet"))) == slowly(rows, asked())


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ns"), pa.timestamp("ms"), pa.timestamp("s", "Europe/Berlin"), pa.date32()]
)
def test_reads_times_of_any_kind(tmp_path: Path, kind: pa.DataType) -> None:
    rows = table()
    day = pa.types.is_date(kind)
    if day:
        rows = rows.set_column(1, "at", pa.array([ZERO.date() + dt.timedelta(days=i) for i in range(40)], kind))
    else:
        rows = rows.set_column(1, "at", rows["at"].cast(kind))
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=7)
    aware = rows.set_column(1, "at", rows["at"].cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")))
    assert answer(stored(tmp_path, str(tmp_path / "rows.parquet"))) == slowly(aware, asked())


def test_adds_on_demand_features_and_renames_entities(tmp_path: Path) -> None:
    rows = table()
    pq.write_table(rows, tmp_path / "rows.parquet")
    user = entity("user")
    source = FileSource(name="rows", path=str(tmp_path / "rows.parquet"), timestamp_field="at")
    base = view("rows", source, [user], {"x": Int64})
    request = RequestSource(name="request", schema=[Field(name="extra", dtype=Float32)])

    @on_demand_feature_view(sources=[base, request], schema=[Field(name="sum", dtype=Float32)])
    def added(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"sum": (inputs["x"] + inputs["extra"]).astype("float32")})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast calls on-demand views experimental
        store = repository(tmp_path / "repo", [user, base, added])
        found = store.get_historical_features(asked(), ["rows:x", "added:sum"]).to_df()
    want = pd.Series(slowly(rows, asked()), dtype=float)
    assert found["x"].astype(float).equals(want)
    assert np.allclose(found["sum"], want + asked()["extra"], equal_nan=True)


def test_saves_what_it_retrieved(tmp_path: Path) -> None:
    rows = table()
    pq.write_table(rows, tmp_path / "rows.parquet")
    store = stored(tmp_path, str(tmp_path / "rows.parquet"))
    job = store.get_historical_features(asked(), ["rows:x"])
    for name, how in (("saved.parquet", None), ("folder", None), ("delta", DeltaFormat())):
        place = SavedDatasetFileStorage(str(tmp_path / name), **({"file_format": how} if how else {}))
        for _ in range(2):
            job.persist(place, allow_overwrite=True)
        with pytest.raises(SavedDatasetLocationAlreadyExists):
            job.persist(place)
        source = place.to_data_source()
        source.timestamp_field = "event_timestamp"
        pull = store.provider.offline_store.pull_all_from_table_or_query(
            store.config, source, ["user"], ["x"], "event_timestamp"
        )
        assert sorted(pull.to_arrow()["x"].to_pylist(), key=str) == sorted(slowly(rows, asked()), key=str)


def test_writes_batches(tmp_path: Path) -> None:
    rows, late = table(), table(10, seed=8)
    pq.write_table(rows, tmp_path / "rows.parquet")
    (tmp_path / "many").mkdir()
    pq.write_table(rows, tmp_path / "many" / "a.parquet")
    for name in ("rows.parquet", "many"):
        store = stored(tmp_path / f"of-{name}", str(tmp_path / name))
        written: list[int] = []
        offline, feature_view = store.provider.offline_store, store.get_feature_view("rows")
        offline.offline_write_batch(store.config, feature_view, late, written.append)
        assert written == [10]
        assert answer(store) == slowly(pa.concat_tables([rows, late]), asked())
        with pytest.raises(SchemaError, match="in this order"):
            offline.offline_write_batch(store.config, feature_view, late.select(["x"]), None)
        assert not list(tmp_path.glob("*.new"))


def test_refuses_what_cannot_be(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "rows.parquet")
    store = stored(tmp_path, str(tmp_path / "rows.parquet"), nosuch=Int64)
    with pytest.raises(SchemaError, match=r"no columns \['nosuch'\]"):
        store.get_historical_features(asked(), ["rows:nosuch"]).to_df()
    with pytest.raises(ConfigError, match=r"no tokenlake\.yaml"):
        store.get_historical_features("select 1", ["rows:x"])
    with pytest.raises(SchemaError, match="list given"):
        store.get_historical_features([1], ["rows:x"])
    with pytest.raises(SchemaError, match="name the one that is meant"):
        store.get_historical_features(asked().drop(columns=["event_timestamp"]), ["rows:x"])
    job = store.get_historical_features(asked(), ["rows:x"])
    (tmp_path / "rows.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(CorruptionError, match="cannot be read as Parquet"):
        job.to_df()
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(NotFoundError, match="does not exist"):
        job.to_df()
