"""Every aggregate of every kind of key, against a loop over the log; and whichever way the log is cut into runs."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features.tables import table_of
from tests.fixtures import count_oracle
from tokenlake.config import Config
from tokenlake.features.aggregations.contributions import contributions
from tokenlake.features.aggregations.query import answer
from tokenlake.features.aggregations.run import CountRun
from tokenlake.features.aggregations.streams import recipes
from tokenlake.times import DAY_US, day_start

START = day_start(dt.date(2017, 3, 1))
HOUR = DAY_US // 24
DEFINITIONS: dict[str, Any] = {
    "all": {"by": "user", "as": ["count", "recency"], "windows": ["all", "1d", "3h"], "decay": "6h"},
    "pair": {"by": ["user", "item"], "as": ["count", "recency"], "of": {"where": [{"label": "bought"}, {"feature": "kind", "is": "a"}]},
             "windows": ["all", "1d"], "decay": "1d"},
    "click": {"by": ["item"], "as": ["count", "known", "mean", "recency"], "of": {"label": "clicked"}, "windows": ["all", "1d"], "decay": "1h"},
    "buy": {"by": ["kind", "user"], "as": ["count", "known", "mean", "recency"], "of": {"label": "bought"}, "windows": ["all", "1d", "2d"], "decay": "1d"},
    "tag": {"by": ["tags"], "as": ["count", "known", "mean", "recency"], "of": {"label": "bought", "where": {"feature": "kind", "is": ["a", "b"]}}, "windows": ["all", "1d"]},
    "tag_pair": {"by": ["user", "tags", "kind"], "as": ["count", "recency"], "decay": "2d", "windows": "all"},
    "spend": {"by": "user", "of": {"numeric": "price", "unit": 0.01}, "as": ["count", "sum", "mean", "min", "max", "last", "recency"], "windows": ["all", "1d"]},
    "decayed": {"by": "user", "of": {"numeric": "price"}, "as": ["count", "sum", "mean"], "decay": "1d"},
    "late": {"by": "tags", "of": {"numeric": "price", "where": {"label": "bought"}, "unit": 0.5}, "as": ["sum", "mean", "min", "max", "last", "recency"], "windows": ["all", "1d"], "decay": "3d"},
}  # fmt: skip
CONFIG = Config.model_validate(
    {
        "events": {
            "features": {"kind": "categorical", "tags": "multi", "price": "numeric"},
            "labels": {"clicked": {}, "bought": {"known_at": "at", "window": "2d"}},
        },
        "counts": DEFINITIONS,
    }
)
INSTANTS = st.builds(
    lambda day, offset: START + day * DAY_US + offset,
    st.integers(0, 3),
    st.sampled_from([0, 1, HOUR, DAY_US // 2, DAY_US // 2 + 1, DAY_US - 1]),
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    timestamp = draw(INSTANTS)
    delay = draw(st.sampled_from([None, -5, 0, 1, DAY_US // 2, DAY_US, 2 * DAY_US]))
    return {
        "user_id": draw(st.integers(0, 2)),
        "item_id": draw(st.integers(0, 2)),
        "timestamp": timestamp,
        "kind": draw(st.sampled_from([None, "a", "b", "c"])),
        "tags": draw(st.none() | st.lists(st.none() | st.sampled_from("xyz"), max_size=3)),
        "price": draw(st.none() | st.sampled_from([0.0, 1.25, -3.0, 7.5, 1e6])),
        "clicked": draw(st.sampled_from([None, 0, 1])),
        "bought": draw(st.sampled_from([None, 0, 1])),
        "bought_known_at": None if delay is None else timestamp + delay,
    }


@st.composite
def logs(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = draw(st.lists(events(), max_size=16))
    ids = draw(st.permutations(range(len(rows))))
    return [{**row, "event_id": i} for row, i in zip(rows, ids, strict=True)]


def asked(
    log: list[dict[str, Any]], parts: list[list[dict[str, Any]]], queries: list[dict[str, Any]]
) -> dict[str, Any]:
    """The product's answers, from one run a part; parts are merged where there are more than three."""
    made = recipes(CONFIG, CONFIG.definitions)
    runs = {}
    for stream in {s for recipe in made for s in recipe.streams()}:
        all_runs = [CountRun.of(stream, contributions(stream, table_of(part, CONFIG))) for part in parts]
        while len(all_runs) > 3:
            all_runs[:2] = [CountRun.merged(stream, *all_runs[:2])]
        runs[stream] = all_runs
    at = np.array([query["timestamp"] for query in queries], np.int64)
    return answer(made, runs, table_of(queries, CONFIG), at)


@given(logs(), st.lists(events(), min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_answers_are_what_a_loop_over_the_log_gives(log: list[Any], queries: list[Any], data: st.DataObject) -> None:
    parts: list[list[Any]] = [[] for _ in range(data.draw(st.integers(1, 5)))]
    for row in log:
        data.draw(st.sampled_from(parts)).append(row)
    given_ = asked(log, parts, queries)
    whole = asked(log, [log], queries)
    expected = count_oracle.answers(log, queries, [query["timestamp"] for query in queries], CONFIG.definitions)
    assert list(given_) == list(expected)
    for name, numbers in expected.items():
        np.testing.assert_array_equal(given_[name], whole[name], err_msg=name)  # whatever the cut, bit for bit
        # Decayed weights are kept in fixed point, values of `late` and `spend` in thousandths of their unit.
        close = (
            {"rtol": 1e-5, "atol": 1e-2 if name.startswith("late") else 1e-5}
            if "decay" in name or name.startswith("decayed")
            else {"rtol": 1e-12, "atol": 0.0}
        )
        right = np.array([np.nan if number is None else number for number in numbers])
        np.testing.assert_allclose(given_[name], right, err_msg=name, **close)


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_ids_of_both_kinds(kind: pa.DataType) -> None:
    rows = [
        {"user_id": i % 3, "item_id": i % 2, "timestamp": START + i, "event_id": i, "bought": None, "clicked": None}
        for i in range(30)
    ]
    table = table_of(rows, CONFIG).set_column(1, "user_id", pa.array([r["user_id"] for r in rows]).cast(kind))
    made = recipes(CONFIG, {"all": CONFIG.definitions["all"]})
    runs = {s: [CountRun.of(s, contributions(s, table))] for s in made[0].streams()}
    found = answer(made, runs, table, np.array([START + i for i in range(30)]))
    assert found["all_count"].tolist() == [i // 3 for i in range(30)]
