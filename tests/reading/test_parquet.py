"""One Parquet file: instants in INT96, statistics that Python cannot say, and names with dots."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenlake.reading.handles import FileHandle
from tokenlake.reading.parquet import ParquetFile
from tokenlake.reading.source import open_source
from tokenlake.reading.times import beyond


def int96(path: Path, times: np.ndarray, more: list[tuple[int, int]] | None = None) -> Path:
    """Write times as INT96; the first ones are replaced by pairs of nanoseconds of a day and Julian day."""
    table = pa.table({"t": pa.array(times.astype("M8[us]")), "x": range(len(times))})
    pq.write_table(
        table, path, use_deprecated_int96_timestamps=True, use_dictionary=False, compression="none", row_group_size=3
    )
    data = path.read_bytes()
    for number, (nanos, day) in enumerate(more or []):
        micros = int(times[number].astype("M8[us]").astype(int))
        held = struct.pack("<qi", micros % 86_400_000_000 * 1000, micros // 86_400_000_000 + 2_440_588)
        assert data.count(held) == 1
        data = data.replace(held, struct.pack("<qi", nanos, day))
    path.write_bytes(data)
    return path


def test_int96_is_no_other_year(tmp_path: Path) -> None:
    times = np.array(
        ["1500-01-01T00:00:00.000001", "9999-12-31T23:59:59.999999", "2024-01-01T01:02:03.5", "0001-01-01"]
    )
    path = int96(tmp_path / "x.parquet", times.astype("M8[us]"))
    found = open_source(path).read()
    assert found.schema.field("t").type == pa.timestamp("us")
    assert found["t"].cast(pa.int64()).to_pylist() == times.astype("M8[us]").astype(int).tolist()
    assert not beyond(found["t"]).any()


def test_int96_beyond_microseconds_is_one_bad_row(tmp_path: Path) -> None:
    times = np.array(["2024-01-01T01", "2024-01-01T02", "2024-01-01T03", "2024-01-01T04", "2024-01-01T05"], "M8[us]")
    path = int96(tmp_path / "x.parquet", times, [(0, 2**31 - 1), (5, -(2**31)), (0, 110_000_000)])
    found = open_source(path).read()
    assert beyond(found["t"]).tolist() == [True, True, True, False, False]
    assert found["t"].cast(pa.int64()).to_pylist()[3:] == times.astype(int).tolist()[3:]
    assert found["x"].to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_statistics_that_python_cannot_say(unit: str, tmp_path: Path) -> None:
    times = pa.array([0, {"s": 2**53, "ms": 2**53, "us": 2**62}[unit]], pa.timestamp(unit))
    pq.write_table(
        pa.table({"t": times, "x": [1, 2], "day": pa.array([0, 2**30], pa.date32())}), tmp_path / "x.parquet"
    )
    file = ParquetFile(FileHandle(str(tmp_path / "x.parquet")))
    assert file.bounds(0, "t") is None
    assert file.bounds(0, "day") is None
    assert file.bounds(0, "x") == (1, 2)
    assert file.bounds(0, "nothing") is None


def test_names_with_dots(tmp_path: Path) -> None:
    table = pa.table({"a": [1], "a.b": [2], "s": [{"b": 3}], "s.b": ["x"]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet")
    assert source.schema.names == table.column_names
    assert source.read(["a"]).to_pydict() == {"a": [1]}
    assert source.read(["s.b", "a.b"]).to_pydict() == {"s.b": ["x"], "a.b": [2]}
    assert source.read().equals(table)


def test_layouts_are_values(tmp_path: Path) -> None:
    table = pa.table(
        {
            "view": pa.array(["a", None], pa.string_view()),
            "large": pa.array(["a", None], pa.large_string()),
            "category": pa.array(["a", None]).dictionary_encode(),
            "list": pa.array([["a"], None], pa.list_(pa.string_view())),
            "fixed": pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
            "huge": pa.array([2**64 - 1, None], pa.uint64()),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    found = open_source(tmp_path / "x.parquet").read()
    assert found.schema.types == [
        pa.string(), pa.large_string(), pa.string(), pa.list_(pa.string()), pa.list_(pa.int8(), 2), pa.uint64(),
    ]  # fmt: skip
    assert found.to_pydict() == table.to_pydict()
