"""Entity rows come back as they were given, and their keys match what they equal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.feast_offline.repositories import FileSource, Int64, ValueType, entity, repository, view

UTC = dt.UTC
TIMES = [dt.datetime(2024, 1, 1, tzinfo=UTC), dt.datetime(2024, 1, 2, tzinfo=UTC), dt.datetime(2024, 1, 3, tzinfo=UTC)]


def store_over(folder: Path, keys: pa.Array, kind: ValueType = ValueType.INT64) -> Any:
    """A view `v` with the feature x: row i has the i-th key, and is of the i-th day with the value i."""
    times = pa.array(TIMES[: len(keys)], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"u": keys, "ts": times, "x": list(range(len(keys)))}), folder / "rows.parquet")
    source = FileSource(name="rows", path=str(folder / "rows.parquet"), timestamp_field="ts")
    user = entity("user", kind, "u")
    return repository(folder / "repo", [user, view("v", source, [user], {"x": Int64})])


MOMENTS = ["1000-01-01T00:00:00", "2024-01-01T12:00:00", "2262-04-12T00:00:00", "9999-12-31T00:00:00"]
COLUMNS: dict[str, Callable[[], Any]] = {
    "s": lambda: pa.array(np.array(MOMENTS, "M8[s]")),
    "ms": lambda: pa.array(np.array(MOMENTS, "M8[ms]")),
    "us": lambda: pa.array(np.array(MOMENTS, "M8[us]")),
    "us in UTC": lambda: pa.array(np.array(MOMENTS, "M8[us]")).cast(pa.timestamp("us", "UTC")),
    "s in Berlin": lambda: pa.array(np.array(MOMENTS, "M8[s]")).cast(pa.timestamp("s", "Europe/Berlin")),
    "text": lambda: pa.array(MOMENTS),
    "text with zones": lambda: pa.array([moment + "+00:00" for moment in MOMENTS]),
    "categories of text": lambda: pa.array(MOMENTS).dictionary_encode(),
    "datetimes": lambda: pd.Series([dt.datetime.fromisoformat(m) for m in MOMENTS], dtype=object),
    "aware datetimes": lambda: pd.Series(
        [dt.datetime.fromisoformat(m).replace(tzinfo=UTC).astimezone(ZoneInfo("Asia/Tokyo")) for m in MOMENTS[:3]]
        + [dt.datetime(9999, 12, 31, tzinfo=UTC)],
        dtype=object,
    ),
    "datetime64[us]": lambda: pd.Series(np.array(MOMENTS, "M8[us]")),
}


@pytest.mark.parametrize("form", COLUMNS)
def test_times_come_back_as_they_were_given(tmp_path: Path, form: str) -> None:
    store = store_over(tmp_path, pa.array([1, 2, 1]))
    columns = {"u": [1, 1, 1, 1], "event_timestamp": COLUMNS[form]()}
    asked = pa.table(columns) if isinstance(columns["event_timestamp"], pa.Array) else pd.DataFrame(columns)
    job = store.get_historical_features(asked, ["v:x"])
    found = job.to_arrow()
    assert found["event_timestamp"].type.tz == "UTC"
    given = np.array(MOMENTS, "M8[us]").astype(np.int64)
    assert found["event_timestamp"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist() == given.tolist()
    assert found["x"].to_pylist() == [None, 0, 2, 2]
    assert job.metadata.min_event_timestamp == dt.datetime(1000, 1, 1, tzinfo=UTC)
    assert job.metadata.max_event_timestamp == dt.datetime(9999, 12, 31, tzinfo=UTC)


def test_nanoseconds_and_days(tmp_path: Path) -> None:
    store = store_over(tmp_path, pa.array([1]))
    nanos = pa.array([TIMES[0], TIMES[0]], pa.timestamp("us", "UTC")).cast(pa.timestamp("ns", "UTC"))
    nanos = pa.compute.subtract(nanos, pa.array([1, 0], pa.duration("ns")))
    found = store.get_historical_features(pa.table({"u": [1, 1], "event_timestamp": nanos}), ["v:x"]).to_arrow()
    assert found["event_timestamp"].combine_chunks().equals(nanos)
    assert found["x"].to_pylist() == [None, 0]
    days = pa.array([dt.date(9999, 12, 31), dt.date(2023, 12, 31)])
    found = store.get_historical_features(pa.table({"u": [1, 1], "event_timestamp": days}), ["v:x"]).to_arrow()
    assert found["event_timestamp"].cast(pa.date32()).combine_chunks().equals(days)
    assert found["x"].to_pylist() == [0, None]


SOURCES = [
    (pa.array([1, 2, 1]), ValueType.INT64),
    (pa.array([1, 2, 1], pa.uint64()), ValueType.INT64),
    (pa.array([1.0, 2.0, 1.0]), ValueType.DOUBLE),
    (pa.array([Decimal("1.0"), Decimal("2.0"), Decimal("1.0")]), ValueType.INT64),
    (pa.array([1, 2, 1]).dictionary_encode(), ValueType.INT64),
]
ASKED = [
    pa.array([Decimal("1.00"), Decimal("1.50"), Decimal("2.99"), None]),
    pa.array([1.0, 1.5, 2.99, float("nan")]),
    pa.array([1.0, 1.5, 2.99, None], pa.float32()),
    pa.array([1, 255, 3, None], pa.uint8()),
    pa.array([1, 2**64 - 1, 3, None], pa.uint64()),
    pa.array([1.0, 1.5, 2.99, None]).dictionary_encode(),
]


@pytest.mark.parametrize(("keys", "kind"), SOURCES, ids=lambda value: str(getattr(value, "type", "")))
def test_a_fraction_is_nobody(tmp_path: Path, keys: pa.Array, kind: ValueType) -> None:
    store = store_over(tmp_path, keys, kind)
    at = pa.array([dt.datetime(2025, 1, 1, tzinfo=UTC)] * 4)
    for asked in ASKED:
        table = pa.table({"u": asked, "event_timestamp": at})
        found = store.get_historical_features(table, ["v:x"]).to_arrow()
        assert found["x"].to_pylist() == [2, None, None, None], asked.type
        assert found["u"].type == asked.type


def test_an_id_of_another_kind_is_nobody(tmp_path: Path) -> None:
    at = pa.array([dt.datetime(2025, 1, 1, tzinfo=UTC)] * 2)
    for name, keys, kind, asked in (
        ("numbers", pa.array([1, 2]), ValueType.INT64, pa.array(["1", "x"])),
        ("texts", pa.array(["1", "2"]), ValueType.STRING, pa.array([1, 2])),
    ):
        (tmp_path / name).mkdir()
        store = store_over(tmp_path / name, keys, kind)
        found = store.get_historical_features(pa.table({"u": asked, "event_timestamp": at}), ["v:x"]).to_arrow()
        assert found["x"].to_pylist() == [None, None]
        assert found["u"].to_pylist() == asked.to_pylist()


KEYS = ["a", "a\0", "a "]
LAYOUTS = [
    pa.array(KEYS),
    pa.array(KEYS, pa.large_string()),
    pa.array(KEYS).dictionary_encode(),
    pa.array(KEYS).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.large_string())),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.type))
def test_text_keys_of_any_layout_with_and_without_entity_rows(tmp_path: Path, layout: pa.Array) -> None:
    store = store_over(tmp_path, layout, ValueType.STRING)
    span = {"start_date": dt.datetime(2023, 1, 1, tzinfo=UTC), "end_date": dt.datetime(2025, 1, 1, tzinfo=UTC)}
    found = store.get_historical_features(features=["v:x"], **span).to_arrow()
    assert sorted(zip(found["u"].to_pylist(), found["x"].to_pylist(), strict=True)) == [("a", 0), ("a\0", 1), ("a ", 2)]
    at = pa.array([dt.datetime(2025, 1, 1, tzinfo=UTC)] * 3)
    for asked in (*LAYOUTS, pa.array(KEYS, pa.string_view())):
        found = store.get_historical_features(pa.table({"u": asked, "event_timestamp": at}), ["v:x"]).to_arrow()
        assert found["x"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize(("keys", "kind"), SOURCES, ids=lambda value: str(getattr(value, "type", "")))
def test_number_keys_of_any_layout_without_entity_rows(tmp_path: Path, keys: pa.Array, kind: ValueType) -> None:
    store = store_over(tmp_path, keys, kind)
    span = {"start_date": dt.datetime(2023, 1, 1, tzinfo=UTC), "end_date": dt.datetime(2025, 1, 1, tzinfo=UTC)}
    found = store.get_historical_features(features=["v:x"], **span).to_arrow()
    assert sorted(zip(found["u"].to_pylist(), found["x"].to_pylist(), strict=True)) == [(1, 2), (2, 1)]
