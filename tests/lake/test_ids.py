"""Ids, from ingest to the questions in SQL: to the last character, and never another's."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tokenlake
from tokenlake._lake import Lake
from tokenlake.errors import SchemaError

MICROS = pa.timestamp("us", "UTC")
STRINGS = ["a", "a\0", "a ", " a", "A", "\0", "7", "7 ", "7.0", "007"]


def lake_with(folder: Path, users: pa.Array | pa.ChunkedArray) -> Lake:
    (folder / "tokenlake.yaml").write_text("project: p\nevents: {user: u, item: i, timestamp: t}\n")
    lake = tokenlake.open(folder)
    times = pa.array([dt.datetime(2024, 1, 1, k, tzinfo=dt.UTC) for k in range(len(users))], MICROS)
    report = lake.ingest(pa.table({"u": users, "i": list(range(len(users))), "t": times}))
    assert report.accepted == len(users), report.reasons
    return lake


def asked(lake: Lake, user: str, params: dict[str, Any] | None = None) -> list[Any]:
    found = lake.sql(f"select user_id from events_before({user}, '2025-01-01')", params).fetchall()
    return [value for (value,) in found]


@pytest.mark.parametrize(
    "users",
    [
        pa.array(STRINGS),
        pa.array(STRINGS, pa.large_string()),
        pa.array(STRINGS, pa.string_view()),
        pa.array(STRINGS).dictionary_encode(),
    ],
    ids=lambda users: str(users.type),
)
def test_strings_are_told_apart(tmp_path: Path, users: pa.Array) -> None:
    lake = lake_with(tmp_path, users)
    assert sorted(lake.events.read()["user_id"].to_pylist()) == sorted(STRINGS)
    for user in STRINGS:
        assert asked(lake, "$user", {"user": user}) == [user]
    assert asked(lake, "7") == ["7"]
    assert asked(lake, "7.5") == []
    assert lake.sql("select count(distinct user_id) from events").fetchall() == [(len(STRINGS),)]


INTEGERS = [7, 8, 0, -7, 2**53 + 1, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("7", 7), ("'7'", 7), ("7.0", 7), ("7.000::decimal(20, 3)", 7), ("7::double", 7), ("7::utinyint", 7), ("7::hugeint", 7),
        ("-7", -7), ("'-7'", -7), ("0", 0), ("9007199254740993", 2**53 + 1), ("'9223372036854775807'", 2**63 - 1),
        ("'-9223372036854775808'", -(2**63)), ("(select 8)", 8),
        ("7.4", None), ("7.6", None), ("7.5::double", None), ("6.999999::decimal(20, 6)", None), ("'7.6'", None), ("-0.5", None),
        ("'x'", None), ("''", None), ("'7 '", None), ("' 7'", None), ("'7' || chr(10)", None), ("'7x'", None), ("'0x7'", None), ("'7e0'", None),
        ("9223372036854775808", None), ("1e300", None), ("'nan'::double", None), ("null", None), ("true", None),
        ("date '2024-01-01'", None), ("[7]", None),
    ],
)  # fmt: skip
def test_an_integer_lake_knows_integers_alone(integers: Lake, given: str, expected: int | None) -> None:
    assert asked(integers, given) == ([] if expected is None else [expected])


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return lake_with(tmp_path_factory.mktemp("integers"), pa.array(INTEGERS))


@pytest.mark.parametrize("given", [7.4, 7.6, Decimal("7.5"), "7.6", "x", "7\0", b"7", float("nan"), None])
def test_parameters_that_are_nobody(integers: Lake, given: Any) -> None:
    assert asked(integers, "$user", {"user": given}) == ([7] if given == b"7" else [])


def test_parameters_that_are_somebody(integers: Lake) -> None:
    for given in (7, 7.0, Decimal("7.00"), "7"):
        assert asked(integers, "$user", {"user": given}) == [7]


@pytest.mark.parametrize(
    ("users", "accepted"),
    [
        (pa.array([1, 2], pa.uint64()), [1, 2]),
        (pa.array([1, 2], pa.int8()).dictionary_encode(), [1, 2]),
        (pa.array([1.0, 2.0]), [1, 2]),
    ],
    ids=lambda users: str(getattr(users, "type", "")),
)
def test_integers_of_any_layout(tmp_path: Path, users: pa.Array, accepted: list[int]) -> None:
    assert sorted(lake_with(tmp_path, users).events.read()["user_id"].to_pylist()) == accepted


@pytest.mark.parametrize(
    "users",
    [pa.array([Decimal("1.0")]), pa.array([True]), pa.array([b"a"]), pa.array([[1]])],
    ids=lambda u: str(u.type),
)
def test_other_types_are_refused_by_name(tmp_path: Path, users: pa.Array) -> None:
    with pytest.raises(SchemaError, match=re.escape(f"column 'u' has type {users.type}, which is no id")):
        lake_with(tmp_path, users)


def test_fractions_and_integers_too_large_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "tokenlake.yaml").write_text("project: p\nevents: {user: u, item: i, timestamp: t}\n")
    lake = tokenlake.open(tmp_path)
    times = pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * 3, MICROS)
    for users, good in ((pa.array([1.0, 1.5, 2.0**53]), [1]), (pa.array([2, 2**63, 2**64 - 1], pa.uint64()), [1, 2])):
        report = lake.ingest(pa.table({"u": users, "i": [1, 2, 3], "t": times}))
        assert (report.accepted, report.quarantined) == (1, 2)
        assert sorted(lake.events.read()["user_id"].to_pylist()) == good
