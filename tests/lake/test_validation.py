"""Validation against an oracle that reads one row at a time in plain Python."""

import datetime as dt
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.fake_lake import FakeLake
from tokenlake.errors import SchemaError
from tokenlake.lake.ingest import canonical, ingest

EVENTS = {
    "id": "id",
    "user": "u",
    "item": "i",
    "timestamp": "at",
    "unit": "s",
    "features": {"kind": "categorical", "tags": "multi", "price": "numeric", "image": "vector"},
    "labels": {"clicked": {}, "bought": {"known_at": "paid_at", "window": "1d"}, "kept": {"known_at": "paid_at"}},
}
LOW, HIGH = 631_152_000, 4_102_531_200  # 1990-01-01 and the end of 2100-01-01
DAY = 86_400


def oracle(row: dict[str, Any]) -> dict[str, Any] | None:
    """The canonical row, or None where it belongs in quarantine."""
    at = row["at"]
    if row["u"] in (None, "") or row["i"] is None or at is None or not LOW <= at < HIGH:
        return None
    price = None if row["price"] is None or math.isnan(row["price"]) else row["price"]
    if price is not None and math.isinf(price):
        return None
    image = row["image"]
    if image is not None and (len(image) != 2 or any(x is None or not math.isfinite(x) for x in image)):
        return None
    labels: dict[str, Any] = {}
    for name in ("clicked", "bought", "kept"):
        value = row[name]
        if value not in (None, 0, 1):
            return None
        known = None if value is None else at
        if name != "clicked" and value == 1:
            known = row["paid_at"]
            if known is None or not LOW <= known < HIGH or known < at:
                return None
        elif name != "clicked" and value == 0:
            known = at + DAY if name == "bought" else None
        labels |= {name: value, f"{name}_known_at": None if known is None else instant(known)}
    tags = None if row["tags"] is None else [tag for tag in row["tags"] if tag]
    return {
        "event_id": row["id"],
        "user_id": row["u"],
        "item_id": row["i"],
        "timestamp": instant(at),
        "ds": instant(at).date(),
        "kind": row["kind"],
        "tags": tags,
        "price": price,
        "image": image,
        **labels,
    }


def instant(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


times = st.one_of(
    st.integers(1_488_000_000, 1_488_300_000), st.sampled_from([0, LOW - 1, LOW, HIGH - 1, HIGH, -1]), st.none()
)
binary = st.sampled_from([0, 1, None, 0, 1, 2])
float32 = st.floats(width=32)
row_values = st.fixed_dictionaries(
    {
        "u": st.sampled_from(["007", "7", "a", "", None, "b", "c"]),
        "i": st.one_of(st.integers(0, 9), st.none()),
        "at": times,
        "kind": st.one_of(st.none(), st.text(max_size=3)),
        "tags": st.one_of(st.none(), st.lists(st.sampled_from(["x", "y", "", None]), max_size=3)),
        "price": st.one_of(st.none(), st.floats()),
        "image": st.one_of(
            st.none(), st.lists(float32, min_size=2, max_size=2), st.lists(st.none() | float32, max_size=3)
        ),
        "clicked": binary,
        "bought": binary,
        "kept": binary,
        "paid_at": times,
    }
)
SOURCE = pa.schema(
    [
        ("id", pa.int64()),
        ("u", pa.string()),
        ("i", pa.int64()),
        ("at", pa.int64()),
        ("kind", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("price", pa.float64()),
        ("image", pa.list_(pa.float32())),
        ("clicked", pa.int64()),
        ("bought", pa.int64()),
        ("kept", pa.int64()),
        ("paid_at", pa.int64()),
    ]
)
# The first row settles the vector's length.
SOUND = {
    "u": "a",
    "i": 1,
    "at": 1_488_000_000,
    "kind": "k",
    "tags": [],
    "price": 1.0,
    "image": [0.5, 1.0],
    "clicked": 1,
}
SOUND |= {"bought": 0, "kept": None, "paid_at": None}


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(row_values, max_size=30))
def test_every_row_as_the_oracle_says(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    lake = FakeLake(tmp_path_factory.mktemp("lake"), EVENTS)
    ingest(lake, pa.Table.from_pylist([SOUND | {"id": -1}], SOURCE))
    source = [row | {"id": number} for number, row in enumerate(rows)]
    expected = [row for row in map(oracle, source) if row is not None]
    report = ingest(lake, pa.Table.from_pylist(source, SOURCE))
    assert (report.accepted, report.duplicates) == (len(expected), 0)
    assert report.quarantined == len(rows) - len(expected) == lake.quarantine.count() == sum(report.reasons.values())
    assert report.days == tuple(sorted({row["ds"] for row in expected}))
    assert [r for r in lake.rows() if r["event_id"] >= 0] == sorted(expected, key=repr)
    bad = [row["id"] + 1 for row in source if oracle(row) is None]
    assert sorted(lake.quarantine.read()["row_number"].to_pylist()) == bad
    # What encode is handed is what the lake would hold.
    good = [row for row in source if oracle(row) is not None]
    table = canonical(lake, pa.Table.from_pylist(good, SOURCE)).drop_columns(["ingested_at"])
    assert table.to_pylist() == expected


def plain(tmp_path: Path, column: pa.Array, **events: Any) -> tuple[list[Any], list[str]]:
    """Instants that come of a timestamp column, and the reasons of those that don't."""
    lake = FakeLake(tmp_path, events)
    n = len(column)
    ingest(lake, pa.table({"user_id": range(n), "item_id": range(n), "timestamp": column}))
    rows = lake.events.read().sort_by("user_id")
    return rows["timestamp"].to_pylist(), lake.reasons()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_units_are_inferred_and_strangers_refused(unit: str, tmp_path: Path) -> None:
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    stranger = 1_488_330_123 * (scale["ms"] if unit == "s" else 1)
    times, reasons = plain(tmp_path, pa.array([1_488_330_123 * scale[unit], 1_488_330_124 * scale[unit], stranger, 0]))
    assert times == [instant(1_488_330_123), instant(1_488_330_124)]
    assert [r.split(" ")[1] for r in reasons] == ["looks", "is"]
    assert "1970" in reasons[1]


def test_a_unit_in_doubt_is_refused(tmp_path: Path) -> None:
    both = pa.array([1_488_330_123, 1_488_330_123_000])
    times, reasons = plain(tmp_path / "tie", both)
    assert times == []
    assert all("in doubt; set events.unit" in reason for reason in reasons)
    times, reasons = plain(tmp_path / "given", both, unit="ms")
    assert times == [instant(1_488_330_123)]
    assert reasons == ["timestamp looks like seconds, and is read as milliseconds"]
    small = pa.array([5, 6, 7])
    assert plain(tmp_path / "small", small)[0] == []


def test_1970_and_2262(tmp_path: Path) -> None:
    column = pa.array([0, 2**63 - 1, 1_488_330_123 * 10**9], pa.timestamp("ns"))
    times, reasons = plain(tmp_path, column)
    assert times == [instant(1_488_330_123)]
    assert "in 1970" in reasons[0]
    assert "2262" in reasons[1]


def test_zones(tmp_path: Path) -> None:
    texts = [
        "2017-03-01T02:02:03+01:00",
        "2017-03-01 01:02:03.1234567Z",
        "2017-03-01",
        "2017-02-30T00:00:00Z",
        "soon",
        "2017-03-01 01:02:03",
    ]
    times, reasons = plain(tmp_path / "mixed", pa.array(texts))
    assert times == [instant(1_488_330_123), instant(1_488_330_123).replace(microsecond=123456)]
    assert [reason.split(" ", 1)[1].split(";")[0] for reason in reasons] == [
        "has no time zone while other rows have one",
        "is no ISO 8601 time",
        "is no ISO 8601 time",
        "has no time zone while other rows have one",
    ]
    times, reasons = plain(tmp_path / "given", pa.array(texts), timezone="Europe/Berlin")
    assert times[-1] == instant(1_488_330_123 - 3600)
    assert len(reasons) == 2
    naive, _ = plain(tmp_path / "naive", pa.array(["2017-03-01 01:02:03", "2017-03-01T01:02"]))
    assert naive == [instant(1_488_330_123), instant(1_488_330_120)]
    typed, _ = plain(tmp_path / "typed", pa.array([1_488_330_123], pa.timestamp("s", "Asia/Tokyo")))
    assert typed == [instant(1_488_330_123)]
    days, _ = plain(tmp_path / "days", pa.array([dt.date(2017, 3, 1)]))
    assert days == [dt.datetime(2017, 3, 1, tzinfo=dt.UTC)]


def test_floats_of_pandas_are_whole_numbers(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, {"features": {"hour": "categorical"}})
    nan = float("nan")
    source = pa.table(
        {
            "user_id": [1.0, 2.5, nan, 2.0],
            "item_id": [1, 2, 3, 4],
            "timestamp": [1_488_330_123.25] * 4,
            "hour": [7.0, 1.0, 1.0, nan],
        }
    )
    assert ingest(lake, source).accepted == 2
    rows = lake.rows()
    assert sorted((r["user_id"], r["hour"] or "") for r in rows) == [(1, "7"), (2, "")]
    assert rows[0]["timestamp"].microsecond == 250_000
    assert lake.reasons() == ["user id is a fraction, or too big a number to be exact", "user id is missing"]


def test_ids_too_big_for_int64(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    users = pa.array([2**63, 2**63 - 1], pa.uint64())
    report = ingest(lake, pa.table({"user_id": users, "item_id": [1, 2], "timestamp": [1_488_330_123] * 2}))
    assert (report.accepted, report.quarantined) == (1, 1)
    assert lake.reasons() == ["user id does not fit int64; use string ids"]


def test_a_column_of_another_kind(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, {"features": {"price": "numeric"}})
    source = pa.table({"user_id": [1], "item_id": [1], "timestamp": [1_488_330_123], "price": [[1.0]]})
    with pytest.raises(SchemaError, match=r"price.*no numeric"):
        ingest(lake, source)
    with pytest.raises(SchemaError, match=r"no time \(a timestamp"):
        ingest(lake, source.set_column(2, "timestamp", [[[1]]]).set_column(3, "price", [[1.0]]))
    with pytest.raises(SchemaError, match="row 1 is no event: user id is missing"):
        canonical(
            lake, pa.table({"user_id": pa.nulls(1), "item_id": [1], "timestamp": [1_488_330_123], "price": [1.0]})
        )
