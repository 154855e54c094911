from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features.tables import config_of, table_of
from tokenlake.features.negatives import UNIFORM, item_table, sample

CONFIG = config_of(
    {
        "genre": {"kind": "categorical", "of": "item"},
        "tags": {"kind": "multi", "of": "item"},
        "image": {"kind": "vector", "of": "item"},
        "hour": "categorical",
        "age": {"kind": "numeric", "of": "user"},
    }
)
DAY = dt.date(1970, 1, 1)
OF_ITEM = ("genre", "tags", "image")
Row = dict[str, Any]

ROWS = st.fixed_dictionaries(
    {
        "user_id": st.integers(0, 3),
        "item_id": st.integers(0, 4),
        "timestamp": st.integers(0, 5),
        "genre": st.none() | st.sampled_from("xyz"),
        "tags": st.none() | st.lists(st.sampled_from("abc"), max_size=2),
        "image": st.none() | st.just([1.0, 2.0]),
        "hour": st.sampled_from("12"),
        "age": st.none() | st.integers(1, 9).map(float),
    }
)
LOGS = st.lists(ROWS, max_size=15)


def sampled(rows: list[Row], n: int = 3, seed: int = 0, ids: pa.DataType | None = None) -> pa.Table:
    table = table_of(rows, CONFIG, ids)
    return sample(table, n, seed, DAY, items=item_table(CONFIG, table))


@given(LOGS, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_negative_is_its_event_with_another_item(rows: list[Row], n: int) -> None:
    table = table_of(rows, CONFIG)
    both = sampled(rows, n)
    assert both.slice(0, len(rows)).select(table.column_names).equals(table)
    assert both["observed"].to_pylist()[: len(rows)] == [1] * len(rows)
    negatives = both.slice(len(rows)).to_pylist()
    events = table.to_pylist()
    possible = len({row["item_id"] for row in rows}) > 1
    assert len(negatives) == (n * len(rows) if possible else 0)
    for i, negative in enumerate(negatives):
        event = events[i // n]
        assert negative["event_id"] is None
        assert (negative["observed"], negative["observed_known_at"]) == (0, event["timestamp"])
        assert negative["item_id"] != event["item_id"]
        for name in ("user_id", "timestamp", "ds", "ingested_at", "hour", "age"):
            assert negative[name] == event[name]
        *_, latest = sorted(
            (row for row in events if row["item_id"] == negative["item_id"]),
            key=lambda row: (row["timestamp"], row["event_id"]),
        )
        for name in OF_ITEM:
            assert negative[name] == latest[name]


@given(LOGS, LOGS)
@settings(max_examples=40, deadline=None)
def test_items_summed_up_day_by_day_are_those_summed_up_at_once(early: list[Row], late: list[Row]) -> None:
    table = table_of([*early, *late], CONFIG)
    first, second = table.slice(0, len(early)), table.slice(len(early))
    at_once = item_table(CONFIG, table)
    assert item_table(CONFIG, second, item_table(CONFIG, first)).equals(at_once)
    assert item_table(CONFIG, first, item_table(CONFIG, second)).equals(at_once)
    assert at_once["events"].to_pylist() == [n for _, n in sorted(Counter(table["item_id"].to_pylist()).items())]


@given(LOGS, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_and_company_of_events_change_nothing(rows: list[Row], random: Any) -> None:
    table = table_of(rows, CONFIG)
    items = item_table(CONFIG, table)
    order = list(range(len(rows)))
    random.shuffle(order)
    order = order[: (len(rows) + 1) // 2]
    whole = sample(table, 2, 7, DAY, items=items).slice(len(rows))
    part = sample(table.take(pa.array(order, pa.int64())), 2, 7, DAY, items=items).slice(len(order))
    if whole.num_rows:
        assert part.equals(whole.take(pa.array([2 * i + k for i in order for k in range(2)], pa.int64())))


def test_seed_and_day_change_the_draw() -> None:
    table = table_of([{"user_id": 0, "item_id": i, "timestamp": 0} for i in range(50)], CONFIG)
    items = item_table(CONFIG, table)

    def drawn(seed: int, day: dt.date) -> list[int]:
        return sample(table, 1, seed, day, items=items)["item_id"].to_pylist()

    assert drawn(0, DAY) == drawn(0, DAY)
    assert drawn(0, DAY) != drawn(1, DAY)
    assert drawn(0, DAY) != drawn(0, dt.date(1970, 1, 2))


def test_items_are_drawn_evenly_and_by_popularity() -> None:
    popularity = [1, 2, 3, 14]
    rows = [{"user_id": 0, "item_id": item, "timestamp": 0} for item, n in enumerate(popularity) for _ in range(n)]
    both = sampled(rows, 4000)
    of_first = both.slice(len(rows), 4000)["item_id"].to_numpy()
    observed = np.bincount(of_first, minlength=4) / len(of_first)
    even, popular = np.array([0, 1, 1, 1]) / 3, np.array([0, 2, 3, 14]) / 19
    np.testing.assert_allclose(observed, UNIFORM * even + (1 - UNIFORM) * popular, atol=0.03)


def test_string_ids() -> None:
    rows = [{"user_id": "u", "item_id": f"i{i}", "timestamp": i} for i in range(5)]
    table = table_of(rows, CONFIG, pa.string())
    table = table.set_column(0, "event_id", pa.array([f"e{i}" for i in range(5)]))
    both = sample(table, 2, 0, DAY, items=item_table(CONFIG, table))
    assert both.num_rows == 15
    assert both["event_id"].null_count == 10
    own = pc.equal(both["item_id"].slice(5), table["item_id"].take([i // 2 for i in range(10)]))
    assert not pc.any(own).as_py()


def test_items_that_were_seen_before_are_drawn_too() -> None:
    early = table_of([{"user_id": 0, "item_id": 1, "timestamp": 0, "genre": "x"}], CONFIG)
    today = table_of([{"user_id": 0, "item_id": 2, "timestamp": 9, "genre": "y", "event_id": 1}], CONFIG)
    both = sample(today, 1, 0, DAY, items=item_table(CONFIG, today, item_table(CONFIG, early)))
    assert both.slice(1).select(["item_id", "genre", "observed"]).to_pylist() == [
        {"item_id": 1, "genre": "x", "observed": 0}
    ]
