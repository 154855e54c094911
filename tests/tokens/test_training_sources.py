"""Rows of a `SequenceDataset` from files and tables of any kind: one schema, and never the first file's alone."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from tokenlake.audit import audit
from tokenlake.errors import SchemaError, SourceError
from tokenlake.tokens.store import TokenStore
from tokenlake.torch import SequenceDataset

NOON = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
UTC = pa.timestamp("us", "UTC")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    made = TokenStore.create(tmp_path_factory.mktemp("rows") / "store", dim=4, dtype="float32")
    times = np.array(["2024-01-01T01:00"] * 2, "M8[us]")
    made.write_day("2024-01-01", [1, 2], times, np.ones((2, 4), np.float32))
    return made


def part(user: int, **more: Any) -> pa.Table:
    return pa.table({"user_id": pa.array([user]), "timestamp": pa.array([NOON], UTC), **more})


def batch_of(rows: Any, store: TokenStore, **how: Any) -> dict[str, Any]:
    (batch,) = SequenceDataset(rows, store, shuffle=False, **how)
    return {name: column if isinstance(column, list) else column.tolist() for name, column in batch.columns.items()}


CASES: dict[str, tuple[list[Any], list[Any]]] = {
    "missing": ([None, pa.array([5.0])], [0.0, 5.0]),
    "floats": ([pa.array([1.0], pa.float32()), pa.array([16777217.0])], [1.0, 16777217.0]),
    "nulls": ([pa.nulls(1), pa.array([5.0])], [0.0, 5.0]),
    "integers": ([pa.array([1], pa.int8()), pa.array([2**40])], [1, 2**40]),
    "integers and floats": ([pa.array([1]), pa.array([2.5])], [1.0, 2.5]),
    "text": ([pa.array(["a"]).dictionary_encode(), pa.array(["b"], pa.string_view())], ["a", "b"]),
    "days and times": (
        [pa.array([1], pa.date32()), pa.array([5], pa.timestamp("s"))],
        [86_400_000_000, 5_000_000],
    ),
    "zones": ([pa.array([5], pa.timestamp("ms")), pa.array([7], pa.timestamp("us", "Asia/Tokyo"))], [5000, 7]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_folder_of_different_files(name: str, store: TokenStore, tmp_path: Path) -> None:
    columns, expected = CASES[name]
    for order in (slice(None), slice(None, None, -1)):
        folder = tmp_path / str(order.step)
        folder.mkdir()
        for k, column in enumerate(columns[order]):
            pq.write_table(part(k + 1, **({} if column is None else {"x": column})), folder / f"{k}.parquet")
        for rows in (folder, str(folder / "*.parquet")):
            assert batch_of(rows, store)["x"] == expected[order]
            assert batch_of(rows, store, columns=["x"])["x"] == expected[order]


def test_other_kinds_of_rows(store: TokenStore, tmp_path: Path) -> None:
    rows = pa.concat_tables([part(1, word=["a"], x=[0.5]), part(2, word=["b"], x=[1.5])])
    pcsv.write_csv(rows, tmp_path / "rows.csv")
    pq.write_to_dataset(rows, tmp_path / "hive", partition_cols=["word"])
    write_deltalake(tmp_path / "delta", rows.slice(1))
    write_deltalake(tmp_path / "delta", rows, mode="overwrite")
    expected = batch_of(rows, store)
    assert expected["word"] == ["a", "b"]
    given = [tmp_path / "rows.csv", tmp_path / "hive", tmp_path / "delta", rows.to_pandas(), rows.to_reader()]
    for one in given:
        found = batch_of(one, store)  # the files of a Delta table are in no order of the rows
        assert {name: sorted(column) for name, column in found.items()} == expected


def test_values_that_no_batch_holds_are_refused_by_name(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"column 'x' is decimal128"):
        SequenceDataset(part(1, x=[Decimal("1.5")]), store)
    assert batch_of(part(1, x=pa.array([2**64 - 1], pa.uint64())), store)["x"] == [2**64 - 1]
    pq.write_table(part(1, x=[1]), tmp_path / "a.parquet")
    pq.write_table(part(2, x=["1"]), tmp_path / "b.parquet")
    with pytest.raises(SchemaError, match=r"'x' is int64 in .*a\.parquet and string in .*b\.parquet"):
        SequenceDataset(tmp_path, store)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 is not all")
    with pytest.raises(SourceError, match=r"b\.parquet cannot be read"):
        SequenceDataset(tmp_path, store)


@pytest.mark.parametrize("far", [2**62, 1704067200000])
def test_a_row_beyond_the_years_would_see_all_tokens(far: int, store: TokenStore) -> None:
    times = pa.array([1704067200, far], pa.timestamp("s"))
    rows = pa.table({"user_id": [1, 2], "timestamp": times})
    with pytest.raises(SchemaError, match=r"timestamp: the time in row 1 .* is not of the years"):
        SequenceDataset(rows, store)
    report = audit(rows.append_column("timestamps", [[[0], [0]]]))
    assert report.leaks.select(["row", "what", "time"]).to_pylist() == [
        {"row": 1, "what": "the row's time is not of the years 1 to 9999", "time": None}
    ]


def test_other_columns_may_hold_any_time(store: TokenStore) -> None:
    far = pa.array([2**63 - 1, None], pa.timestamp("s"))
    rows = pa.table({"user_id": [1, 2], "timestamp": pa.array([NOON] * 2, UTC), "until": far})
    dataset = SequenceDataset(rows, store, shuffle=False)
    assert dataset.table["until"].combine_chunks().equals(far)
    (batch,) = dataset
    assert batch.columns["until"][0] > 253_402_300_799_999_999  # type: ignore[operator]  # a tensor
    known = SequenceDataset(rows.append_column("y", [[1, 1]]), store, targets={"y": "until"}, as_of="2025-01-01")
    assert known.table["y"].to_pylist() == [None, None]


def test_an_audit_of_many_files(store: TokenStore, tmp_path: Path) -> None:
    for k, kind in enumerate([pa.int32(), pa.int64()]):
        late = pa.table({"time": pa.array([10], kind), "timestamps": pa.array([[9 + k]], pa.list_(kind))})
        pq.write_table(late, tmp_path / f"{k}.parquet")
    assert audit(tmp_path, time="time").leaks["row"].to_pylist() == [1]
    (tmp_path / "flat.csv").write_text("event_timestamp,seen\n2024-01-02,2024-01-01\n2024-01-02,2024-01-02T00:00:00\n")
    assert audit(tmp_path / "flat.csv", timestamps=["seen"]).leaks["row"].to_pylist() == [1]


def test_training_sets_of_different_makings_are_audited_alone(store: TokenStore, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    for available in ("realtime", "daily"):
        SequenceDataset(part(1), store, available=available).write(tmp_path / "sets" / f"{available}.parquet")
        assert audit(tmp_path / "sets" / f"{available}.parquet", store).clean
    with pytest.raises(SchemaError, match=r"daily\.parquet and .*realtime\.parquet have different descriptions"):
        audit(tmp_path / "sets", store)
