from __future__ import annotations

import io
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenlake.formats import FORMATS, Answer, write

#: What Parquet has no type for, and what is written.
_OTHERS = {
    "HUGEINT": "VARCHAR",
    "UHUGEINT": "VARCHAR",
    "BIGNUM": "VARCHAR",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "TIME WITH TIME ZONE": "VARCHAR",
    "UUID": "VARCHAR",
    "INTERVAL": "VARCHAR",
    "BIT": "VARCHAR",
    "STRUCT": "VARCHAR",
    "GEOMETRY": "VARCHAR",
    "TUPLE(INTEGER, VARCHAR)": "STRUCT(element1 INTEGER, element2 VARCHAR)",
}


def save(relation: duckdb.DuckDBPyRelation, file: Path) -> None:
    with file.open("wb") as out:
        write(Answer.of(relation), "parquet", out)


@pytest.mark.parametrize("name", duckdb.sql("FROM test_all_types()").columns)
def test_every_type_comes_back(name: str, tmp_path: Path) -> None:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'Asia/Kathmandu'")
    relation = connection.sql(f'SELECT "{name}" AS v FROM test_all_types()')
    file = tmp_path / "t.parquet"
    save(relation, file)
    back = connection.sql(f"FROM '{file}'")
    kind, got = str(relation.types[0]), str(back.types[0])
    if kind.startswith(("ENUM", "UNION")):
        assert got == "VARCHAR"
    else:
        assert got == _OTHERS.get(kind, kind.replace("[3]", "[]"))
    again = back.project(f"#1::{kind}::VARCHAR") if not kind.startswith("UNION") else back
    assert again.fetchall() == relation.project("#1::VARCHAR").fetchall()


def test_parts_of_nested_types(tmp_path: Path) -> None:
    relation = duckdb.sql(
        "SELECT {'h': 5::HUGEINT, 'v': 1::VARIANT} AS s, MAP {'a': INTERVAL 1 DAY} AS m, ['a'::ENUM('a')] AS l, "
        "(1, TIMETZ '10:00:00+02') AS t, [[1::BIT]] AS n, {'q\"': 1} AS q"
    )
    save(relation, tmp_path / "t.parquet")
    (row,) = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert row["s"]["h"] == 5
    assert row["s"]["v"] == "1"
    assert row["m"] == [("a", "1 day")]
    assert row["l"] == ["a"]
    assert row["t"] == {"element1": 1, "element2": "10:00:00+02"}
    assert row["q"] == {'q"': 1}


def test_sums_are_numbers_and_39_digits_are_text(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    save(duckdb.sql("SELECT sum(i) AS s FROM range(10) t(i)"), file)
    assert pq.read_table(file).schema.field("s").type == pa.decimal128(38, 0)
    save(
        duckdb.sql(
            "SELECT CASE WHEN i < 200000 THEN i ELSE 170141183460469231731687303715884105727 END AS s FROM range(200001) t(i)"
        ),
        file,
    )
    values = pq.read_table(file)["s"].to_pylist()
    assert values[1] == "1"
    assert values[-1] == "170141183460469231731687303715884105727"
    assert len(values) == 200_001


def test_infinite_times_and_no_rows_and_equal_names(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    query = "SELECT DATE 'infinity' AS a, TIMESTAMP '-infinity' AS a, TIMESTAMP_S 'infinity' AS a_1"
    save(duckdb.sql(query), file)
    assert duckdb.sql(f"SELECT a::VARCHAR, a_2::VARCHAR, a_1::VARCHAR FROM '{file}'").fetchall() == [
        ("infinity", "-infinity", "infinity")
    ]
    save(duckdb.sql(f"{query} WHERE false"), file)
    assert pq.read_table(file).column_names == ["a", "a_2", "a_1"]
    assert pq.read_table(file).num_rows == 0


@pytest.mark.parametrize("form", [form for form in FORMATS if form not in {"table", "box", "line", "markdown", "html"}])
def test_an_error_after_the_first_rows_is_duckdbs(form: str) -> None:
    connection = duckdb.connect()
    relation = connection.sql("SELECT (CASE WHEN i = 300000 THEN 'x' ELSE '1' END)::INTEGER FROM range(400000) t(i)")
    file = io.BytesIO() if form == "parquet" else io.StringIO()
    with pytest.raises(duckdb.ConversionException, match="Could not convert string 'x' to INT32"):
        write(Answer.of(relation), form, file)
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_an_interrupt_is_duckdbs() -> None:
    connection = duckdb.connect()
    batches = Answer.of(connection.sql("FROM range(100000000)")).batches()
    next(batches)
    connection.interrupt()
    with pytest.raises(duckdb.InterruptException):
        for _ in batches:
            pass


def test_an_answer_that_is_not_read_to_its_end_frees_the_connection() -> None:
    connection = duckdb.connect()
    batches = Answer.of(connection.sql("FROM range(10000000)")).batches()
    assert next(batches).num_rows == 50_000
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert connection.sql("SELECT 1").fetchall() == [(1,)]
