from __future__ import annotations

import datetime as dt
import io
from typing import Any

import duckdb
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.oracle import csv_of, json_of, read_json, written
from tokenlake.formats import Answer, write

#: Text without surrogates and NUL, which DuckDB's parameters do not take.
_TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=8)
_CELLS = _TEXT | st.sampled_from(
    ["", " ", '"', ",", "\r", "\n", "a\r\nb", "null", "NULL", "\u2028", "\u202e\x1b[31m", "\x7f", "\x85"]
)
_INSTANTS = st.datetimes()
_TYPES: dict[str, st.SearchStrategy[Any]] = {
    "BOOLEAN": st.booleans(),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "UBIGINT": st.integers(0, 2**64 - 1),
    "HUGEINT": st.integers(-(2**127), 2**127 - 1),
    "UHUGEINT": st.integers(0, 2**128 - 1),
    "DOUBLE": st.floats(),
    "VARCHAR": _CELLS,
    "BLOB": st.binary(max_size=6),
    "DATE": st.dates(),
    "TIMESTAMP": _INSTANTS,
    "TIMESTAMPTZ": _INSTANTS.map(lambda value: value.replace(tzinfo=dt.UTC)),
    "VARCHAR[]": st.lists(st.none() | _CELLS, max_size=3),
    "DOUBLE[][]": st.lists(st.none() | st.lists(st.none() | st.floats(), max_size=3), max_size=3),
    'STRUCT(a BIGINT, "b""\'c" VARCHAR)': st.fixed_dictionaries({"a": st.integers(-9, 9), "b\"'c": st.none() | _CELLS}),
    # DuckDB takes a parameter {"": ...} for a tuple.
    "MAP(VARCHAR, BLOB)": st.dictionaries(_CELLS.filter(bool), st.binary(max_size=3), max_size=3),
    "MAP(INTEGER, TIMESTAMP[])": st.dictionaries(st.integers(-9, 9), st.lists(_INSTANTS, max_size=2), max_size=3),
}
_SCALARS = ("BOOLEAN", "BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT", "VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMPTZ")


@st.composite
def _tables(draw: st.DrawFn, types: tuple[str, ...]) -> tuple[list[str], list[tuple[Any, ...]]]:
    chosen = draw(st.lists(st.sampled_from(types), min_size=1, max_size=4))
    cells = st.tuples(*(st.none() | _TYPES[each] for each in chosen))
    return chosen, draw(st.lists(cells, max_size=4))


def _relation(types: list[str], rows: list[tuple[Any, ...]]) -> duckdb.DuckDBPyRelation:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'Asia/Kathmandu'")
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(types))
    connection.execute(f"CREATE TABLE t ({columns})")
    for row in rows:
        parameters = ", ".join(f"?::{kind}" for kind in types)
        connection.execute(f"INSERT INTO t VALUES ({parameters})", list(row))
    return connection.sql("FROM t")


@settings(max_examples=100, deadline=None)
@given(_tables(tuple(_TYPES)))
def test_json_is_what_python_would_write(table: tuple[list[str], list[tuple[Any, ...]]]) -> None:
    types, rows = table
    text = written(_relation(types, rows), "json")
    assert read_json(text) == json_of([f"c{number}" for number in range(len(types))], rows)
    assert len(text.splitlines()) == (len(rows) + 2 if rows else 1)


@settings(max_examples=100, deadline=None)
@given(_tables(_SCALARS))
def test_csv_is_what_python_would_write(table: tuple[list[str], list[tuple[Any, ...]]]) -> None:
    types, rows = table
    names = [f"c{number}" for number in range(len(types))]
    assert written(_relation(types, rows), "csv") == csv_of(names, rows)


@pytest.mark.parametrize("name", duckdb.sql("FROM test_all_types()").columns)
def test_every_type_comes_back_from_csv(name: str, tmp_path: Any) -> None:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'Asia/Kathmandu'")
    connection.execute(f'CREATE TABLE t AS SELECT 1 AS n, "{name}" AS v FROM test_all_types()')
    relation = connection.sql("FROM t")
    kind = str(relation.types[1])
    file = tmp_path / "t.csv"
    file.write_text(written(relation, "csv"), "utf-8", newline="")
    connection.execute(
        f"CREATE TABLE back AS FROM read_csv('{file}', header = true, delim = ',', quote = '\"', escape = '\"', "
        f"allow_quoted_nulls = false, columns = {{'n': 'INTEGER', 'v': $kind${kind}$kind$}})"
    )
    # A null union comes back as its first member.
    present = "WHERE v IS NOT NULL" if kind.startswith("UNION") else ""
    expected = connection.execute(f"SELECT v::VARCHAR FROM t {present}").fetchall()
    assert connection.execute("SELECT v::VARCHAR FROM back").fetchall()[: len(expected)] == expected
    assert len(read_json(written(relation, "json"))) == relation.count("*").fetchall()[0][0]


def test_pandas_keeps_the_types_of_csv(tmp_path: Any) -> None:
    relation = duckdb.sql(
        "SELECT i::BIGINT + 9007199254740993 AS i, i % 2 = 0 AS b, i / 3 AS d, (i / 10)::FLOAT AS f, "
        "TIMESTAMP '2024-01-01' + i * INTERVAL 500 MILLISECOND AS t, TIMESTAMPTZ '2024-06-01 00:00:00+02' AS z, "
        "DATE '2024-01-01' AS day, 'x, \"' || i AS s FROM range(3) r(i)"
    )
    file = tmp_path / "t.csv"
    file.write_text(written(relation, "csv"))
    frame = pd.read_csv(file, parse_dates=["t", "z", "day"])
    kinds = ["int64", "bool", "float64", "float64", "datetime64[ns]", "datetime64[ns, UTC]", "datetime64[ns]", "object"]
    assert [str(kind) for kind in frame.dtypes] == kinds
    assert frame.i.tolist() == [9007199254740993, 9007199254740994, 9007199254740995]
    assert frame.f.tolist() == [0.0, 0.1, 0.2]
    assert frame.s.tolist() == ['x, "0', 'x, "1', 'x, "2']


def test_null_is_not_empty_text(tmp_path: Any) -> None:
    assert written(duckdb.sql("SELECT NULL AS a, '' AS b, 'NULL' AS c"), "csv") == 'a,b,c\n,"",NULL\n'
    assert written(duckdb.sql("SELECT * FROM (VALUES (NULL), ('')) t(a)"), "csv") == 'a\n\n""\n'


@pytest.mark.parametrize(
    ("value", "json_text", "csv_text"),
    [
        ("0.1::FLOAT", "0.1", "0.1"),
        ("0.30000000000000004::DOUBLE", "0.30000000000000004", "0.30000000000000004"),
        ("'-inf'::FLOAT", "null", "-inf"),
        ("-0.0::DOUBLE", "-0.0", "-0.0"),
        ("1.50::DECIMAL(38, 20)", "1.50000000000000000000", "1.50000000000000000000"),
        ("99999999999999999999999999999999999999999999::BIGNUM", "9" * 44, "9" * 44),
        ("INTERVAL '1 year 2 days 3.5 seconds'", "[12, 2, 3500000000]", "1 year 2 days 00:00:03.5"),
        ("INTERVAL '-100 hours'", "[0, 0, -360000000000000]", "-100:00:00"),
        ("DATE 'infinity'", '"infinity"', "infinity"),
        ("TIMESTAMPTZ '-infinity'", '"-infinity"', "-infinity"),
        ("TIMESTAMP '12024-01-31 01:00:00'", '"12024-01-31 01:00:00"', "12024-01-31 01:00:00"),
        ("DATE '0044-03-15 (BC)'", '"0044-03-15 (BC)"', "0044-03-15 (BC)"),
        ("TIMESTAMP_NS '2024-01-01 00:00:00.123456789'", '"2024-01-01T00:00:00.123456789"', "2024-01-01 00:00:00.123456789"),
        ("'2024-01-01 00:00:00.123456789Z'::TIMESTAMPTZ_NS", '"2024-01-01T00:00:00.123456789Z"', "2024-01-01 00:00:00.123456789+00:00"),
        ("TIMESTAMP_S '2024-01-01 00:00:05'", '"2024-01-01T00:00:05.000000"', "2024-01-01 00:00:05.000000"),
        ("'12:00:00+05:45'::TIMETZ", '"12:00:00+05:45"', "12:00:00+05:45"),
        ("'101'::BIT", '"101"', "101"),
        ("'b'::ENUM('a', 'b')", '"b"', "b"),
        ("union_value(k := {'a': 1})", '{"a": 1}', "{'a': 1}"),
        ("(1, 'x')", '[1, "x"]', '"(1, x)"'),
        ("MAP {DATE '2020-01-01': 1}", '{"2020-01-01": 1}', "{2020-01-01=1}"),
        ("MAP {1.5::FLOAT: NULL}", '{"1.5": null}', "{1.5=NULL}"),
        ("'{\"a\":\n [1.50, 12345678901234567890123]}'::JSON", '{"a":  [1.50, 12345678901234567890123]}', None),
        ("'[NaN]'::JSON", '"[NaN]"', "[NaN]"),
        ("'[1,]'::JSON", '"[1,]"', '"[1,]"'),
        ("'[\"NaN,]\"]'::JSON", '["NaN,]"]', None),
        ("{'a': 1}::VARIANT", '{"a":1}', "{'a': 1}"),
        ("'POINT(1 2)'::GEOMETRY", '"POINT (1 2)"', "POINT (1 2)"),
        (r"'\xff\x41\x5C\xAB'::BLOB", r'"\\xffA\\x5c\\xab"', r"\xFFA\x5C\xAB"),
        ("'\u2028\u202e' || chr(27) || chr(127)", r'"\u2028\u202e\u001B\u007f"', None),
        ("' x '", '" x "', '" x "'),
    ],
)  # fmt: skip
def test_rules(value: str, json_text: str, csv_text: str | None) -> None:
    relation = duckdb.sql(f"SELECT {value} AS v")
    assert written(relation, "json") == f'[\n{{"v": {json_text}}}\n]\n'
    if csv_text is not None:
        assert written(relation, "csv") == f"v\n{csv_text}\n"


def test_equal_names_keep_their_columns() -> None:
    relation = duckdb.sql('SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a, 5 AS "q""\n"')
    assert written(relation, "json") == '[\n{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4, "q\\"\\n": 5}\n]\n'
    assert written(relation, "csv") == 'a,a,a_1,a,"q""\n"\n1,2,3,4,5\n'


def test_no_rows() -> None:
    nothing = duckdb.sql("SELECT 1 AS a, 'x' AS b WHERE false")
    assert written(nothing, "csv") == "a,b\n"
    assert written(nothing, "json") == "[]\n"


def test_more_rows_than_a_batch() -> None:
    relation = duckdb.sql("SELECT i, 'é' || i AS t FROM range(120000) r(i)")
    rows = [(i, f"é{i}") for i in range(120_000)]
    assert written(relation, "csv") == csv_of(["i", "t"], rows)
    assert read_json(written(relation, "json")) == json_of(["i", "t"], rows)


def test_deeply_nested_values_are_duckdbs_text() -> None:
    lists = duckdb.sql("SELECT " + "[" * 60 + "1" + "]" * 60 + " AS v")
    assert read_json(written(lists, "json"))[0]["v"][0][0][0][0][0][0][0][0] == "[" * 52 + "1" + "]" * 52
    structs = duckdb.sql("SELECT " + "{'a': " * 60 + "1" + "}" * 60 + " AS v")
    assert "{'a': {'a': " in written(structs, "table")


def test_what_is_nested_too_deeply_is_an_error() -> None:
    relation = duckdb.sql("SELECT " + "[" * 100 + "1" + "]" * 100 + " AS v")
    with pytest.raises(duckdb.Error, match="Recursion level"):
        write(Answer.of(relation), "parquet", io.BytesIO())
