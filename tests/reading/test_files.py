"""Which files a path stands for, Hive's columns, Delta's versions, and tables in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from tokenlake.errors import (
    CorruptionError,
    DamagedSourceError,
    MissingSourceError,
    NotFoundError,
    SchemaError,
    SourceError,
)
from tokenlake.reading.source import open_source


def put(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def rows(given: Any, **how: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_source(given, **how).read().to_pylist()
    return found


def test_folders_globs_and_files_of_any_name(tmp_path: Path) -> None:
    put(tmp_path / "b" / "y.PARQUET", x=[2])
    put(tmp_path / "a" / "x.parquet", x=[1])
    put(tmp_path / "a" / "part-0003", x=[3])
    put(tmp_path / "a" / ".hidden.parquet", x=[9])
    put(tmp_path / "_old" / "z.parquet", x=[9])
    put(tmp_path / "c[1].parquet", x=[4])
    (tmp_path / "c.CSV").write_text("x\n5\n")
    (tmp_path / "README.md").write_text("no rows")
    (tmp_path / "_SUCCESS").write_text("")
    assert [row["x"] for row in rows(tmp_path)] == [3, 1, 2, 5, 4]
    assert [row["x"] for row in rows(str(tmp_path / "[a-z]" / "*.parquet"))] == [1]
    assert [row["x"] for row in rows(str(tmp_path / "[ab]"))] == [3, 1, 2]
    assert [row["x"] for row in rows(str(tmp_path / "**" / "y.*"))] == [2]
    assert rows(tmp_path / "c[1].parquet") == [{"x": 4}]
    assert rows(tmp_path / "a" / "part-0003") == [{"x": 3}]


def test_a_text_ending_on_parquet(tmp_path: Path) -> None:
    assert rows(put(tmp_path / "x.csv", x=[1])) == [{"x": 1}]


def test_hive_partitions_are_typed_alike(tmp_path: Path) -> None:
    put(tmp_path / "n=1" / "s=a%20b" / "x.parquet", x=[1])
    put(tmp_path / "n=20" / "s=__HIVE_DEFAULT_PARTITION__" / "x.parquet", x=[2])
    assert open_source(tmp_path).schema.field("n").type == pa.int64()
    assert rows(tmp_path) == [{"x": 1, "n": 1, "s": "a b"}, {"x": 2, "n": 20, "s": None}]
    assert rows(str(tmp_path / "n=*" / "*" / "*.parquet")) == rows(tmp_path)
    assert rows(tmp_path / "n=1") == [{"x": 1, "s": "a b"}]
    put(tmp_path / "n=007" / "x.parquet", x=[3])
    assert [row["n"] for row in rows(tmp_path)] == ["007", "1", "20"]
    assert [row["s"] for row in rows(tmp_path)] == [None, "a b", None]


def test_a_file_that_has_the_column_itself_keeps_it(tmp_path: Path) -> None:
    put(tmp_path / "day=1" / "x.parquet", day=[5, 6])
    put(tmp_path / "day=2" / "y.parquet", x=[1])
    assert rows(tmp_path) == [{"day": 5, "x": None}, {"day": 6, "x": None}, {"day": 2, "x": 1}]


def test_hive_partitions_of_text(tmp_path: Path) -> None:
    (tmp_path / "day=2024-01-01").mkdir()
    (tmp_path / "day=2024-01-01" / "x.csv").write_text("x\n1\n")
    assert rows(tmp_path) == [{"x": 1, "day": "2024-01-01"}]
    assert open_source(tmp_path, typed=False).files[0].schema.types == [pa.string(), pa.string()]


def test_only_partitions_are_asked_for(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": range(10)}), put(tmp_path / "n=1" / "x.parquet", x=[1]), row_group_size=3)
    assert open_source(tmp_path).read(["n"]).to_pydict() == {"n": [1] * 10}


def test_delta_tables_are_read_by_their_log(tmp_path: Path) -> None:
    for k, mode in enumerate(["append", "overwrite", "append"]):
        table = pa.table({"x": pa.array([k], pa.int32()), "p": ["a b"]})
        write_deltalake(tmp_path / "t", table, mode=mode, partition_by=["p"])
    expected = [{"x": 1, "p": "a b"}, {"x": 2, "p": "a b"}]
    assert sorted(rows(tmp_path / "t"), key=str) == expected
    assert sorted(rows(tmp_path), key=str) == expected
    assert sorted(rows(str(tmp_path / "*")), key=str) == expected
    assert rows(DeltaTable(tmp_path / "t", version=0)) == [{"x": 0, "p": "a b"}]
    DeltaTable(tmp_path / "t").delete()
    assert open_source(tmp_path / "t").read().schema.names == ["x", "p"]
    assert rows(tmp_path / "t") == []


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("no rows")
    for given, message in (
        (tmp_path / "no.parquet", "does not exist"),
        (str(tmp_path / "*.parquet"), "matches no file"),
        (tmp_path / "empty", "holds no"),
    ):
        with pytest.raises(MissingSourceError, match=message) as caught:
            open_source(given)
        assert isinstance(caught.value, SourceError)
        assert isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.parquet", b""),
        ("x.csv", b""),
        ("x.parquet", b"PAR2 no"),
        ("x.parquet", b"PAR1 no"),
        ("x.csv.gz", b"\x1f\x8b no"),
    ],
)
def test_damage(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for given in (tmp_path / name, tmp_path):
        with pytest.raises(DamagedSourceError, match=name) as caught:
            open_source(given).read()
        assert isinstance(caught.value, CorruptionError)


def test_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(SourceError, match=r"expected \.parquet, \.csv"):
        open_source(tmp_path / "x.json")
    for given in (5, ["x"], None):
        with pytest.raises(SourceError, match=f"{type(given).__name__} given"):
            open_source(given)


def test_another_file_system(tmp_path: Path) -> None:
    put(tmp_path / "t" / "n=1" / "x.parquet", x=pa.array([1], pa.int8()))
    put(tmp_path / "t" / "n=2" / "x.parquet", x=[0.5])
    put(tmp_path / "t" / "_hidden" / "x.parquet", x=["no"])
    disk = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    assert rows("t", filesystem=disk) == [{"x": 1.0, "n": 1}, {"x": 0.5, "n": 2}]
    assert rows("t/n=1/x.parquet", filesystem=disk) == [{"x": 1}]
    with pytest.raises(MissingSourceError):
        open_source("nothing", filesystem=disk)
    (tmp_path / "t" / "n=1" / "x.parquet").write_bytes(b"damaged")
    with pytest.raises(DamagedSourceError, match="cannot be read as Parquet"):
        open_source("t", filesystem=disk)


def test_more_files_than_are_held_open(tmp_path: Path) -> None:
    for k in range(70):
        put(tmp_path / f"{k:03}.parquet", x=[k])
    source = open_source(tmp_path)
    assert source.read()["x"].to_pylist() == list(range(70))
    source.check()


EXPECTED = [{"x": 1, "word": "a"}, {"x": 2, "word": None}]


def tables() -> dict[str, Any]:
    table = pa.Table.from_pylist(EXPECTED)
    views = table.set_column(1, "word", table["word"].cast(pa.string_view()))
    return {
        "table": table,
        "views": views,
        "batch": table.to_batches()[0],
        "dictionary": table.set_column(1, "word", table["word"].dictionary_encode()),
        "stream": pa.RecordBatchReader.from_batches(views.schema, views.to_batches(max_chunksize=1)),
        "pandas": pd.DataFrame({"x": [1, 2], "word": pd.Categorical(["a", None])}, index=[7, 9]),
        "duckdb": duckdb.sql("select * from (values (1::bigint, 'a'), (2, null)) t(x, word)"),
    }


@pytest.mark.parametrize("name", list(tables()))
@pytest.mark.parametrize("spooled", [False, True])
def test_tables_in_memory(name: str, spooled: bool, tmp_path: Path) -> None:
    source = open_source(tables()[name], spool=tmp_path / "s" / "spool.arrow" if spooled else None)
    for _ in range(2):
        found = source.read()
        assert found.schema.types == [pa.int64(), pa.string()]
        assert found.to_pylist() == EXPECTED
    assert source.read(["word"]).to_pylist() == [{"word": "a"}, {"word": None}]
    assert [batch.num_rows for batch in source.batches(rows=1)] == [1, 1]
    assert source.files[0].rows == 2
    source.check()


def test_frames_that_are_no_table() -> None:
    with pytest.raises(SchemaError, match="make each column of one type"):
        open_source(pd.DataFrame({"x": [1, "a", b"b"]}))
    with pytest.raises(SchemaError, match="each name one column"):
        open_source(pd.DataFrame(np.zeros((1, 2)), columns=["x", "x"]))


def test_a_named_index_is_a_column() -> None:
    frame = pd.DataFrame({"x": [1]}, index=pd.Index(["a"], name="who"))
    assert rows(frame) == [{"x": 1, "who": "a"}]
