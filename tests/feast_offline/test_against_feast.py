"""The same retrieval through Feast's `dask` and `duckdb` stores and through ours gives the same rows."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.feast_offline.repositories import (
    FeatureStore,
    FileSource,
    Float32,
    Int64,
    ValueType,
    entity,
    repository,
    view,
)

BASE = pd.Timestamp("2024-03-01T12:00")
SECOND = pd.Timedelta(seconds=1)
VIEWS = ["plain", "expiring", "retold", "mapped", "pair"]


class Stores:
    """One repository a store, all over the same two files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write([], [], aware=True)
        self.ours = self.make({"type": "tokenlake.feast.TokenlakeOfflineStore"}, "ours")
        self.strict = self.make({"type": "tokenlake.feast.TokenlakeOfflineStore", "strict": True}, "strict")
        with feast_warns():
            self.dask = self.make({"type": "dask"}, "dask")
            self.duckdb = self.make({"type": "duckdb"}, "duckdb")

    def make(self, offline: dict[str, Any], name: str) -> FeatureStore:
        driver, city = entity("driver"), entity("city", ValueType.STRING)
        once, ties = str(self.folder / "once.parquet"), str(self.folder / "ties.parquet")
        plain = FileSource(name="once", path=once, timestamp_field="ts")
        mapped = FileSource(
            name="mapped", path=once, timestamp_field="moment", field_mapping={"x": "renamed", "ts": "moment"}
        )
        retold = FileSource(name="ties", path=ties, timestamp_field="ts", created_timestamp_column="made")
        numbers = {"x": Int64, "z": Float32}
        ttl = dt.timedelta(seconds=3)
        views = [
            view("plain", plain, [driver], numbers),
            view("expiring", plain, [driver], numbers, ttl),
            view("retold", retold, [driver], numbers, ttl),
            view("mapped", mapped, [driver], {"renamed": Int64}),
            view("pair", plain, [driver, city], numbers, ttl),
        ]
        own = views[2].with_name("own").with_join_key_map({"driver": "other"})
        # duckdb's store joins by the keys of this map alone, so it names both.
        mixed = views[4].with_name("mixed").with_join_key_map({"driver": "other", "city": "city"})
        renamed = FeatureService(name="renamed", features=[views[0][["x"]], own, mixed])
        return repository(self.folder / name, [driver, city, *views, renamed], offline)

    def write(self, once: list[tuple[Any, ...]], ties: list[tuple[Any, ...]], *, aware: bool) -> None:
        for name, rows in (("once", once), ("ties", ties)):
            zone = "UTC" if aware else None
            table = pa.table(
                {
                    "driver": pa.array([r[0] for r in rows], pa.int64()),
                    "city": pa.array([r[1] for r in rows], pa.string()),
                    "ts": pa.array([at(r[2]) for r in rows], pa.timestamp("us", zone)),
                    "made": pa.array([at(r[3]) for r in rows], pa.timestamp("us", zone)),
                    "x": pa.array(range(len(rows)), pa.int64()),
                    "z": pa.array([r[4] for r in rows], pa.float32()),
                }
            )
            pq.write_table(table, self.folder / f"{name}.parquet", row_group_size=4)


@contextmanager
def feast_warns() -> Iterator[None]:
    """Feast's own stores call what their dependencies have since deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def at(tick: int) -> pd.Timestamp:
    return BASE + tick * SECOND


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return Stores(tmp_path_factory.mktemp("stores"))


_drivers, _cities, _ticks = st.integers(1, 3), st.sampled_from(["a", "b"]), st.integers(0, 9)
_values = st.one_of(st.none(), st.integers(0, 5).map(float))
_row = st.tuples(_drivers, _cities, _ticks, st.integers(0, 12), _values)
_once = st.lists(_row, min_size=1, max_size=16, unique_by=lambda r: (r[0], r[2]))
_ties = st.lists(_row, min_size=1, max_size=16, unique_by=lambda r: (r[0], r[2], r[3]))
_entities = st.lists(st.tuples(st.integers(1, 4), _cities, st.integers(-2, 12)), min_size=1, max_size=8)
_views = st.lists(st.sampled_from(VIEWS), min_size=1, max_size=3, unique=True)


def frame(entities: list[tuple[int, str, int]], *, aware: bool) -> pd.DataFrame:
    times = pd.Series([at(e[2]) for e in entities])
    return pd.DataFrame(
        {
            "driver": [e[0] for e in entities],
            "city": [e[1] for e in entities],
            "event_timestamp": times.dt.tz_localize("UTC") if aware else times,
            "label": range(len(entities)),
        }
    )


def features(views: list[str]) -> list[str]:
    return [f"{v}:{f}" for v in views for f in (["renamed"] if v == "mapped" else ["x", "z"])]


def records(frame: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    """Rows in an order of their own, with times in UTC and every missing value alike."""
    frame = frame[columns].copy()
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True).dt.as_unit("us")
    rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    return sorted((tuple(row) for row in rows), key=lambda row: tuple(map(str, row)))


def dropped_by_dask(stores: Stores, name: str, row: Any) -> bool:
    """Feast's dask store drops an entity row whose key a view knows, though none of its rows is in time."""
    table = pq.read_table(stores.folder / ("ties.parquet" if name == "retold" else "once.parquet")).to_pandas()
    table = table[table["driver"] == row["driver"]]
    if name == "pair":
        table = table[table["city"] == row["city"]]
    ages = row["event_timestamp"] - pd.to_datetime(table["ts"], utc=True)
    oldest = pd.Timedelta.max if name in ("plain", "mapped") else 3 * SECOND
    return len(ages) > 0 and not ((ages >= pd.Timedelta(0)) & (ages <= oldest)).any()


# An example takes a second: none is spent on shrinking.
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(_once, _ties, _entities, _views, st.booleans(), st.booleans(), st.booleans())
def test_same_rows(
    stores: Stores,
    once: list[Any],
    ties: list[Any],
    entities: list[Any],
    views: list[str],
    aware: bool,
    full: bool,
    known: bool,
) -> None:
    full = full or len(views) > 1
    stores.write(once, ties, aware=aware)
    asked = frame(entities, aware=aware)
    how = {"features": features(views), "full_feature_names": full, "filter_by_created_timestamp": known}
    ours = stores.ours.get_historical_features(asked.copy(), **how).to_df()
    columns = list(ours.columns)
    assert columns[:4] == list(asked.columns)
    assert ours["label"].tolist() == asked["label"].tolist()
    with feast_warns():
        theirs = stores.duckdb.get_historical_features(asked.copy(), **how).to_df()
        distinct = asked.drop_duplicates(["driver", "event_timestamp"])
        dasks = aware and stores.dask.get_historical_features(distinct.copy(), **how).to_df()
    assert records(ours, columns) == records(theirs, columns)
    if not aware:  # dask's store cannot read naive times where an entity is missing
        return
    kept = ours[ours["label"].isin(distinct["label"])]
    kept = kept[[not any(dropped_by_dask(stores, v, row) for v in views) for _, row in kept.iterrows()]]
    assert list(dasks.columns) == columns
    assert records(kept, columns) == records(dasks, columns)


#: Keys that may be null, and entity rows of two drivers each, the second under a name of its own.
_unsure = st.one_of(st.none(), _drivers)
_keyed = st.lists(
    st.tuples(_unsure, st.one_of(st.none(), _cities), st.integers(0, 9), st.integers(0, 12), _values),
    min_size=1,
    max_size=16,
    unique_by=lambda r: (r[0], r[2]),
)
_pairs = st.lists(
    st.tuples(_unsure, st.one_of(st.none(), _cities), st.integers(-2, 12), _unsure), min_size=1, max_size=8
)


@pytest.mark.slow
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(_keyed, _pairs)
@example(
    [(None, "a", 0, 0, 1.0), (1, None, 1, 0, 2.0), (1, "a", 2, 0, 3.0), (2, "b", 3, 0, 4.0)],
    [(None, "a", 5, None), (1, "a", 5, 2), (2, None, 5, 1), (1, "b", 5, None), (2, "b", 5, 2)],
)
def test_same_rows_of_null_and_renamed_keys(stores: Stores, once: list[Any], entities: list[Any]) -> None:
    """A null key equals nothing, not even another null; a view may be joined by a column of another name."""
    stores.write(once, once, aware=True)
    asked = frame(entities, aware=True)
    for name, place in (("driver", 0), ("other", 3)):
        asked[name] = pd.array([row[place] for row in entities], dtype="Int64")
    found = []
    for store, rows in ((stores.ours, asked), (stores.duckdb, asked), (stores.dask, asked.dropna())):
        with feast_warns():
            service = store.get_feature_service("renamed")
            found.append(store.get_historical_features(rows.copy(), service, full_feature_names=True).to_df())
    ours, theirs, dasks = found
    columns = [*asked.columns, "plain__x", "own__x", "own__z", "mixed__x", "mixed__z"]
    assert list(ours.columns) == columns
    assert records(ours, columns) == records(theirs, columns)
    # dask drops rows whose key has no row in time, and all but one of equal keys and times: the others are as ours.
    kept = ours[ours["label"].isin(dasks["label"])]
    assert records(kept, columns) == records(dasks, columns)
    for i, row in ours.iterrows():
        assert asked["driver"][i] is not pd.NA or pd.isna(row["plain__x"])
        assert asked["other"][i] is not pd.NA or pd.isna(row["own__x"])


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(_once, _ties, st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_same_pulls(stores: Stores, once: list[Any], ties: list[Any], one: int, other: int, many: bool) -> None:
    """What materialization reads, and a range of time without an entity dataframe."""
    stores.write(once, ties, aware=True)
    start, end = (at(tick).tz_localize("UTC").to_pydatetime() for tick in sorted((one, other)))
    source = stores.ours.get_feature_view("retold").batch_source
    pull = {
        "data_source": source,
        "join_key_columns": ["driver", "city"] if many else ["driver"],
        "feature_name_columns": ["x", "z"],
        "timestamp_field": "ts",
        "created_timestamp_column": "made",
        "start_date": start,
        "end_date": end,
    }
    for method in ("pull_latest_from_table_or_query", "pull_all_from_table_or_query"):
        found = []
        for store in (stores.ours, stores.dask):
            with feast_warns():
                offline = store.provider.offline_store
                found.append(getattr(offline, method)(config=store.config, **pull).to_df())
        columns = sorted(found[0].columns)
        assert columns == sorted(found[1].columns)
        ours, theirs = (sorted(frame[columns].astype(str).to_numpy().tolist()) for frame in found)
        assert ours == theirs
    how = {"features": features(["retold"]), "end_date": end}
    found = []
    for store in (stores.ours, stores.dask):
        with feast_warns():
            found.append(store.get_historical_features(**how).to_df())
    columns = ["driver", "event_timestamp", "x", "z"]
    # A driver who has no row in time is no row of ours: the rows name the entities.
    theirs = found[1].dropna(subset=["x"])
    assert records(found[0], columns) == records(theirs, columns)


def test_strict_sees_what_is_not_strict_a_moment_before(stores: Stores) -> None:
    rng = np.random.default_rng(5)
    rows = [(int(d), "a", int(t), 0, float(t)) for d in (1, 2, 3) for t in rng.permutation(10)[:6]]
    stores.write(rows, rows, aware=True)
    asked = frame([(d, "a", t) for d in (1, 2, 3, 4) for t in range(12)], aware=True)
    earlier = asked.assign(event_timestamp=asked["event_timestamp"] - pd.Timedelta(microseconds=1))
    how = {"features": features(["plain", "expiring"]), "full_feature_names": True}
    strict = stores.strict.get_historical_features(asked, **how).to_df()
    before = stores.ours.get_historical_features(earlier, **how).to_df()
    at_time = stores.ours.get_historical_features(asked, **how).to_df()
    assert strict["plain__x"].equals(before["plain__x"])
    assert not strict["plain__x"].equals(at_time["plain__x"])
    # TTL still counts from the entity's own time.
    ages = asked["event_timestamp"] - pd.Series(
        [at(int(z)) if z == z else pd.NaT for z in strict["expiring__z"]]
    ).dt.tz_localize("UTC")
    assert ages.dropna().between(pd.Timedelta(microseconds=1), 3 * SECOND).all()
    assert (ages == 3 * SECOND).any()
