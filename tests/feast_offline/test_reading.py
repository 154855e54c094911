"""Sources of many files and of odd values: the answer is that of one file of the wider types, or a refusal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.feast_offline.repositories import (
    FeatureStore,
    Field,
    FileSource,
    Int64,
    String,
    ValueType,
    entity,
    repository,
    view,
)
from tokenlake.errors import ChangedError, ConfigError, SchemaError
from tokenlake.feast.offline.rows import SourceRows

JAN = [dt.datetime(2024, 1, day, tzinfo=dt.UTC) for day in range(1, 32)]
UTC = pa.timestamp("us", "UTC")


def stored(folder: Path, path: Path, kind: ValueType = ValueType.INT64) -> FeatureStore:
    """A view `v` with the feature `x` over a path."""
    from feast.types import Float64

    user = entity("u", kind)
    source = FileSource(name="source", path=str(path), timestamp_field="ts")
    dtype = Float64 if kind == ValueType.INT64 else String
    return repository(folder / "repo", [user, view("v", source, [user], {"x": dtype})])


def ask(store: FeatureStore, users: list[Any], times: list[Any]) -> list[Any]:
    asked = pd.DataFrame({"u": users, "event_timestamp": pd.to_datetime(times, utc=True)})
    found: list[Any] = store.get_historical_features(asked, ["v:x"]).to_arrow()["x"].to_pylist()
    return found


def part(users: Any, x: Any, ts: Any = None) -> pa.Table:
    users = pa.array(users) if isinstance(users, list) else users
    times = pa.array(JAN[: len(users)], UTC) if ts is None else ts
    return pa.table({"u": users, "ts": times, "x": pa.array(x) if isinstance(x, list) else x})


BIG = 2**33 + 1
LATE = "2024-02-01"
FOLDERS: dict[str, tuple[list[pa.Table], list[Any], list[Any]]] = {
    "ids": ([part(pa.array([1], pa.int32()), [1.0]), part([BIG], [2.0])], [1, BIG], [1.0, 2.0]),
    "unsigned ids": ([part(pa.array([1], pa.uint64()), [1.0]), part([-2], [2.0])], [1, -2], [1.0, 2.0]),
    "floats": ([part([1], pa.array([1.5], pa.float32())), part([2], [16777217.0])], [1, 2], [1.5, 16777217.0]),
    "integers and floats": ([part([1], [7]), part([2], [2.5])], [1, 2], [7.0, 2.5]),
    "nulls": ([part([1], pa.nulls(1)), part([2], [2.5])], [1, 2], [None, 2.5]),
    "a missing column": ([part([1], [1.0]).drop_columns(["x"]), part([2], [2.5])], [1, 2], [None, 2.5]),
    "categories of ids": (
        [part(pa.array([1]).dictionary_encode(), [1.0]), part([2], [2.5])],
        [1, 2],
        [1.0, 2.5],
    ),
}


@pytest.mark.parametrize("name", list(FOLDERS))
def test_a_folder_is_one_file_of_the_wider_types(name: str, tmp_path: Path) -> None:
    files, users, expected = FOLDERS[name]
    for turn, order in enumerate([files, files[::-1]]):
        folder = tmp_path / str(turn)
        (folder / "source").mkdir(parents=True)
        for k, table in enumerate(order):
            pq.write_table(table, folder / "source" / f"part-{k}.parquet")
        assert ask(stored(folder, folder / "source"), users, [LATE] * len(users)) == expected


TIMES = [
    pa.array([dt.date(2024, 1, 1)]),
    pa.array([1704067200], pa.timestamp("s")),
    pa.array([1704067200001], pa.timestamp("ms", "Europe/Berlin")),
    pa.array([1704067200000002], UTC),
    pa.array([1704067200000002500], pa.timestamp("ns")),
]


def test_no_row_is_seen_before_its_time_whatever_its_unit(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for k, times in enumerate(TIMES):
        pq.write_table(part([k], [float(k)], times), tmp_path / "source" / f"part-{k}.parquet")
    store = stored(tmp_path, tmp_path / "source")
    users = list(range(len(TIMES)))
    at = {
        "2023-12-31T23:59:59.999999": [None] * 5,
        "2024-01-01T00:00:00": [0.0, 1.0, None, None, None],
        "2024-01-01T00:00:00.000002": [0.0, 1.0, None, 3.0, None],
        "2024-01-01T00:00:00.000003": [0.0, 1.0, None, 3.0, 4.0],
        "2024-01-01T00:00:00.001": [0.0, 1.0, 2.0, 3.0, 4.0],
    }
    for time, expected in at.items():
        assert ask(store, users, [time] * len(users)) == expected, time


def test_types_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    pq.write_table(part([1], [1.0]), tmp_path / "source" / "a.parquet")
    pq.write_table(part(["1"], [1.0]), tmp_path / "source" / "b.parquet")
    with pytest.raises(SchemaError, match=r"'u' is int64 in .*a\.parquet and string in .*b\.parquet"):
        ask(stored(tmp_path, tmp_path / "source"), [1], [LATE])


def test_an_integer_that_no_float_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    pq.write_table(part([1], [2**53 + 1]), tmp_path / "source" / "a.parquet")
    pq.write_table(part([2], [0.5]), tmp_path / "source" / "b.parquet")
    with pytest.raises(SchemaError, match="9007199254740993 is not exact"):
        ask(stored(tmp_path, tmp_path / "source"), [1, 2], [LATE] * 2)


SECOND = 1704067200
FAR = {
    "milliseconds as seconds": pa.array([SECOND, SECOND + 1, SECOND * 1000], pa.timestamp("s")),
    "nanoseconds as microseconds": pa.array([SECOND * 10**6, SECOND * 10**6 + 1, SECOND * 10**9], UTC),
    "infinity": pa.array([SECOND * 10**6, SECOND * 10**6 + 1, 2**63 - 1], UTC),
    "minus infinity": pa.array([SECOND * 10**6, SECOND * 10**6 + 1, 1 - 2**63], pa.timestamp("us")),
    "a far day": pa.array([19723, 19724, 2**31 - 1], pa.date32()),
}


@pytest.mark.parametrize("name", list(FAR))
def test_one_time_beyond_the_years_hides_no_other_row(name: str, tmp_path: Path) -> None:
    pq.write_table(part([1, 2, 3], [1.0, 2.0, 3.0], FAR[name]), tmp_path / "source.parquet")
    store = stored(tmp_path, tmp_path / "source.parquet")
    assert ask(store, [1, 2, 3], ["2024-01-03"] * 3) == [1.0, 2.0, None]
    offline = store.provider.offline_store
    source = store.get_feature_view("v").batch_source
    between = (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2025, 1, 1, tzinfo=dt.UTC))
    latest = offline.pull_latest_from_table_or_query(store.config, source, ["u"], ["x"], "ts", None, *between)
    assert latest.to_arrow()["u"].to_pylist() == [1, 2]
    whole = offline.pull_all_from_table_or_query(store.config, source, ["u"], ["x"], "ts").to_arrow()
    assert whole["u"].to_pylist() == [1, 2, 3]
    held = pq.read_table(tmp_path / "source.parquet")["ts"]
    counts = pa.int32() if "day" in name else pa.int64()
    assert whole["ts"].cast(counts).to_pylist() == held.cast(counts).to_pylist()
    found = store.get_historical_features(features=["v:x"], start_date=between[0], end_date=between[1]).to_arrow()
    assert sorted(zip(found["u"].to_pylist(), found["x"].to_pylist(), strict=True)) == [(1, 1.0), (2, 2.0)]


def test_times_of_int96(tmp_path: Path) -> None:
    times = pa.array(np.array(["1500-01-01", "2024-01-01", "9999-12-31"], "M8[us]"))
    path = tmp_path / "source.parquet"
    pq.write_table(part([1, 2, 3], [1.0, 2.0, 3.0], times), path, use_deprecated_int96_timestamps=True)
    assert ask(stored(tmp_path, path), [1, 2, 3], [LATE] * 3) == [1.0, 2.0, None]


def test_text_of_any_layout(tmp_path: Path) -> None:
    layouts = [
        pa.array(["a", "b"], pa.string_view()),
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"]),
    ]
    (tmp_path / "all").mkdir()
    for k, words in enumerate(layouts):
        folder = tmp_path / str(k)
        folder.mkdir()
        pq.write_table(part(words, words), folder / "source.parquet")
        store = stored(folder, folder / "source.parquet", ValueType.STRING)
        assert ask(store, ["a", "b", "c"], [LATE] * 3) == ["a", "b", None]
        pq.write_table(part(words, words), tmp_path / "all" / f"{k}.parquet")
    store = stored(tmp_path / "whole", tmp_path / "all", ValueType.STRING)
    assert ask(store, ["a", "b", "c"], [LATE] * 3) == ["a", "b", None]


def test_a_source_of_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(part([1], [1.0]), tmp_path / "source.parquet")
    store = stored(tmp_path, tmp_path / "source.parquet")
    source = FileSource(name="text", path=str(tmp_path / "rows.csv"), timestamp_field="ts")
    (tmp_path / "rows.csv").write_text("u,ts,x\n1,2024-01-01,1\n")
    offline = store.provider.offline_store
    with pytest.raises(ConfigError, match=r"rows\.csv is no Parquet"):
        offline.pull_all_from_table_or_query(store.config, source, ["u"], ["x"], "ts").to_arrow()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_that_is_written_while_it_is_joined(
    in_place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "source.parquet"

    def put(where: Path, x: float) -> None:
        pq.write_table(part([1, 2], [x, x]), where)

    def meddle(rows: SourceRows, *given: Any) -> Any:
        if (x := next(values, None)) is not None:
            put(path if in_place else tmp_path / "new", x)
            if not in_place:
                (tmp_path / "new").replace(path)
        return take(rows, *given)

    put(path, 0.0)
    store, take = stored(tmp_path, path), SourceRows.take
    values: Iterator[float] = iter([5.0])
    monkeypatch.setattr(SourceRows, "take", meddle)
    assert ask(store, [1, 2], [LATE] * 2) == ([5.0] * 2 if in_place else [0.0] * 2)
    if in_place:
        values = iter(range(100))
        with pytest.raises(ChangedError, match=r"source\.parquet was written while it was read"):
            ask(store, [1, 2], [LATE] * 2)


def test_fields_are_kept_apart(tmp_path: Path) -> None:
    """A feature whose name holds a dot beside a struct of such a field."""
    table = part([1], [1.0]).append_column("s.x", [[7]]).append_column("s", [[{"x": 9}]])
    pq.write_table(table, tmp_path / "source.parquet")
    user = entity("u")
    source = FileSource(name="source", path=str(tmp_path / "source.parquet"), timestamp_field="ts")
    store = repository(tmp_path / "repo", [user, view("v", source, [user], {"s.x": Int64})])
    asked = pd.DataFrame({"u": [1], "event_timestamp": pd.to_datetime([LATE], utc=True)})
    assert store.get_historical_features(asked, ["v:s.x"]).to_arrow()["s.x"].to_pylist() == [7]
    assert Field(name="s.x", dtype=Int64) in store.get_feature_view("v").features
