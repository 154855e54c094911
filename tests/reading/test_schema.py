"""Types of several files that go together, values that do or don't, and those that are refused by name."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlake.errors import SchemaError
from tokenlake.reading.casting import widen
from tokenlake.reading.kinds import plain
from tokenlake.reading.schema import union, widened
from tokenlake.reading.source import open_source

UTC, BERLIN = pa.timestamp("us", "UTC"), pa.timestamp("ms", "Europe/Berlin")
WIDER = [
    (pa.int32(), pa.int64(), pa.int64()),
    (pa.uint8(), pa.int16(), pa.int16()),
    (pa.uint32(), pa.int32(), pa.int64()),
    (pa.uint64(), pa.int8(), pa.int64()),
    (pa.uint64(), pa.uint8(), pa.uint64()),
    (pa.float32(), pa.float64(), pa.float64()),
    (pa.float16(), pa.float32(), pa.float32()),
    (pa.int8(), pa.float32(), pa.float64()),
    (pa.decimal128(5, 2), pa.decimal128(10, 4), pa.decimal128(10, 4)),
    (pa.decimal128(38, 2), pa.decimal128(10, 4), pa.decimal256(40, 4)),
    (pa.decimal128(76 - 40, 30), pa.int64(), pa.decimal256(50, 30)),
    (pa.date32(), pa.timestamp("s"), pa.timestamp("s")),
    (pa.date64(), UTC, UTC),
    (pa.date64(), pa.date32(), pa.date32()),
    (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ns")),
    (pa.timestamp("us"), UTC, UTC),
    (BERLIN, UTC, UTC),
    (BERLIN, pa.timestamp("us", "Europe/Berlin"), pa.timestamp("us", "Europe/Berlin")),
    (pa.time32("s"), pa.time64("us"), pa.time64("us")),
    (pa.duration("s"), pa.duration("ns"), pa.duration("ns")),
    (pa.null(), pa.list_(pa.string()), pa.list_(pa.string())),
    (pa.string(), pa.large_string(), pa.large_string()),
    (pa.string_view(), pa.string(), pa.string()),
    (pa.binary(4), pa.large_binary(), pa.large_binary()),
    (pa.dictionary(pa.int8(), pa.int32()), pa.int64(), pa.int64()),
    (pa.list_(pa.int32()), pa.list_(pa.int64()), pa.list_(pa.int64())),
    (pa.list_(pa.int32(), 2), pa.large_list(pa.float64()), pa.large_list(pa.float64())),
    (pa.list_view(pa.string_view()), pa.list_(pa.null()), pa.list_(pa.string())),
    (
        pa.struct([("a", pa.int32())]),
        pa.struct([("b", pa.string()), ("a", pa.int64())]),
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
    ),
]
APART = [
    (pa.int64(), pa.string()),
    (pa.bool_(), pa.int8()),
    (pa.decimal128(5, 2), pa.float64()),
    (pa.timestamp("us"), pa.int64()),
    (pa.date32(), pa.string()),
    (pa.string(), pa.binary()),
    (pa.list_(pa.int64()), pa.int64()),
    (pa.list_(pa.int64()), pa.list_(pa.string())),
    (pa.struct([("a", pa.int32())]), pa.struct([("a", pa.string())])),
    (pa.decimal256(76, 0), pa.decimal128(38, 38)),
]


@pytest.mark.parametrize(("one", "two", "wide"), WIDER, ids=str)
def test_types_that_go_together(one: pa.DataType, two: pa.DataType, wide: pa.DataType) -> None:
    assert widened(plain(one), plain(two)) == wide
    back = widened(plain(two), plain(one))
    assert back is not None
    assert back == wide or pa.types.is_struct(wide)


@pytest.mark.parametrize(("one", "two"), APART, ids=str)
def test_types_that_do_not_are_refused_with_both_files(one: pa.DataType, two: pa.DataType) -> None:
    for first, second in ((one, two), (two, one)):
        parts = [("a.parquet", pa.schema([("x", first)])), ("b.parquet", pa.schema([("x", second)]))]
        with pytest.raises(SchemaError) as caught:
            union([("0.parquet", pa.schema([("x", pa.null())])), *parts])
        said = str(caught.value)
        assert all(word in said for word in ("'x'", "a.parquet", "b.parquet", str(first), str(second))), said


def test_the_message_names_the_file_that_is_in_the_way() -> None:
    types = {"a": pa.int32(), "b": pa.decimal128(9, 2), "c": pa.float32()}
    with pytest.raises(SchemaError, match=r"decimal128\(9, 2\) in b and float in c"):
        union((name, pa.schema([("x", kind)])) for name, kind in types.items())


VALUES: list[tuple[pa.Array, pa.DataType, list[Any]]] = [
    (pa.array([1, None, 2**53], pa.int64()), pa.float64(), [1.0, None, 2.0**53]),
    (pa.array([2**53 + 2, -(2**62)]), pa.float64(), [2.0**53 + 2, -(2.0**62)]),
    (pa.array([2**63], pa.uint64()), pa.float64(), [2.0**63]),
    (pa.array([5], pa.uint64()), pa.int64(), [5]),
    (pa.array([-(2**63)]), pa.decimal128(21, 2), [Decimal(-(2**63))]),
    (pa.array([Decimal("1.25")]), pa.decimal256(50, 30), [Decimal("1.25")]),
    (pa.array([dt.date(2024, 1, 2)]), UTC, [dt.datetime(2024, 1, 2, tzinfo=dt.UTC)]),
    (pa.array([86_400_000], pa.date64()), pa.timestamp("s"), [np.datetime64("1970-01-02", "s").item()]),
    (pa.array([1], pa.timestamp("s")), UTC, [dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)]),
    (pa.array([1000], BERLIN), UTC, [dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)]),
    (
        pa.array([[1], None, [], [2, None]], pa.list_(pa.int32())),
        pa.list_(pa.float64()),
        [[1.0], None, [], [2.0, None]],
    ),
    (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), pa.list_(pa.int64()), [[1, 2], None]),
    (pa.array([[1], None, []], pa.list_view(pa.int32())), pa.list_(pa.int64()), [[1], None, []]),
    (pa.array(["a", None], pa.string_view()), pa.large_string(), ["a", None]),
    (pa.array(["a", None, "a"]).dictionary_encode(), pa.string(), ["a", None, "a"]),
    (pa.nulls(2), pa.list_(pa.string()), [None, None]),
    (
        pa.array([{"a": 1}, None], pa.struct([("a", pa.int32())])),
        pa.struct([("a", pa.float64()), ("b", pa.string())]),
        [{"a": 1.0, "b": None}, None],
    ),
]


@pytest.mark.parametrize(("array", "kind", "expected"), VALUES, ids=str)
def test_values_stay_what_they_are(array: pa.Array, kind: pa.DataType, expected: list[Any]) -> None:
    found = widen(array, kind, "it")
    found.validate(full=True)
    assert (found.type, found.to_pylist()) == (kind, expected)
    assert widen(array[1:], kind, "it").to_pylist() == expected[1:]


def test_views_inside_dictionaries() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([1, 0, None]), pa.array(["x", "y"], pa.string_view()))
    assert widen(words, pa.string(), "it").to_pylist() == ["y", "x", None]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([2**63 - 1]), pa.float64()),
        (pa.array([2**64 - 1], pa.uint64()), pa.float64()),
        (pa.array([2**63], pa.uint64()), pa.int64()),
        (pa.array(np.array(["9999-01-01"], "M8[us]")), pa.timestamp("ns")),
        (pa.array([[1, 2**53 + 1]]), pa.list_(pa.float64())),
        (pa.array([{"a": 2**53 + 1}]), pa.struct([("a", pa.float64())])),
    ],
    ids=str,
)
def test_values_that_are_not_exact_are_refused(array: pa.Array, kind: pa.DataType) -> None:
    with pytest.raises(SchemaError, match=r"^column 'x' of a\.parquet.*Convert"):
        widen(array, kind, "column 'x' of a.parquet")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_are_floats_where_all_are_exact(values: list[int]) -> None:
    exact = all(int(float(value)) == value for value in values)
    try:
        assert widen(pa.array(values, pa.int64()), pa.float64(), "it").to_pylist() == [float(v) for v in values]
    except SchemaError:
        assert not exact
    else:
        assert exact


def write(folder: Path, *tables: pa.Table) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{k}.parquet")
    return folder


def test_files_of_a_folder_are_read_as_one(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "f",
        pa.table({"a": pa.array([1], pa.int32()), "when": [dt.date(2024, 1, 1)], "only": ["x"]}),
        pa.table({"when": pa.array([dt.datetime(2024, 1, 1, 5, tzinfo=dt.UTC)], UTC), "a": [2.5], "other.name": [[1]]}),
        pa.table({"a": pa.nulls(1)}),
    )
    source = open_source(folder)
    names = [("a", pa.float64()), ("when", UTC), ("only", pa.string()), ("other.name", pa.list_(pa.int64()))]
    assert source.schema == pa.schema(names)
    found = source.read()
    assert found.schema == source.schema
    assert found["a"].to_pylist() == [1.0, 2.5, None]
    assert found["when"].to_pylist() == [
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2024, 1, 1, 5, tzinfo=dt.UTC),
        None,
    ]
    assert source.read(["other.name", "only"]).to_pylist() == [
        {"other.name": None, "only": "x"},
        {"other.name": [1], "only": None},
        {"other.name": None, "only": None},
    ]
    with pytest.raises(SchemaError, match="no columns"):
        source.read(["nothing"])


def test_an_inexact_value_names_its_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", pa.table({"x": [2**53 + 1]}), pa.table({"x": [0.5]}))
    with pytest.raises(SchemaError, match=r"part-0\.parquet is int64.*9007199254740993 is not exact"):
        open_source(folder).read()


def test_a_column_that_stands_there_twice(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x,y,x\n1,2,3\n")
    with pytest.raises(SchemaError, match=r"x\.csv: columns \['x'\] stand there more than once"):
        open_source(tmp_path / "x.csv")
    twice = pa.table([pa.array([1]), pa.array([2])], ["x", "x"])
    with pytest.raises(SchemaError, match=r"\['x'\] stand there more than once"):
        open_source(twice).read()


def test_metadata_is_what_all_files_say(tmp_path: Path) -> None:
    one, two = pa.table({"x": [1]}), pa.table({"x": [2]})
    folder = write(
        tmp_path / "f",
        one.replace_schema_metadata({"same": "1", "other": "a"}),
        two.replace_schema_metadata({"same": "1", "other": "b"}),
    )
    assert open_source(folder).schema.metadata == {b"same": b"1"}
