"""Macros of declared aggregations beside a plain loop over the log."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenlake
from tests.fixtures import count_oracle
from tests.sql.events import rows_of
from tokenlake._lake import Lake
from tokenlake.errors import ForbiddenError
from tokenlake.lake.database import Database
from tokenlake.times import as_micros

YAML = """
project: test
events:
  features: {category: categorical, tags: multi, Others: multi, price: numeric}
  labels: {clicked: {}, bought: {known_at: bought_at, window: 2d}}
"""
COUNTS = """
  item: {by: item, as: [count, recency], windows: [all, 1d], decay: 5h}
  pair: {by: [user, item], of: {where: [{label: bought}, {feature: category, is: [dairy, fish]}]}, as: [count, recency], windows: [all, 30h]}
  cat: {by: [user, category], of: {label: bought}, as: [count, known, mean, recency], windows: [all, 1d], decay: 9h}
  of_fish: {by: item, of: {label: clicked, where: [{feature: category, is: fish}, {label: bought}]}, as: [known, mean]}
  tags: {by: [tags, user], of: {label: clicked}, as: [mean, known], windows: [all, 1d]}
  both: {by: [tags, Others, item], as: count}
  spend: {by: user, of: {numeric: price}, as: [count, sum, mean, min, max, last, recency], windows: [all, 1d], decay: 1d}
  late: {by: tags, of: {numeric: price, unit: 0.25, where: {label: bought}}, as: [sum, min, max, last], windows: [all, 1d]}
  # 24 half-lives go beyond the log: the loop knows no age at which an event weighs nothing.
  Odd: {by: category, of: {numeric: price, unit: 3}, as: [mean, sum], decay: 5h}
"""
DECLARED = dict(line.strip().split(": ", 1) for line in COUNTS.strip().splitlines() if "#" not in line)
START = dt.datetime(2017, 3, 1, tzinfo=dt.UTC)
HOUR = 3_600_000_000
#: Instants that meet each other, the edges of days and windows, and the ends of maturity.
INSTANTS = st.builds(
    lambda hours, edge: as_micros(START, "t").item() + hours * HOUR + edge,
    st.integers(0, 96),
    st.sampled_from([0, 0, 0, -1, 1]),
)
TAGS = st.none() | st.lists(st.sampled_from(["a", "b", "c", None]), max_size=3)
KEYS = {
    "user_id": st.integers(1, 2),
    "item_id": st.integers(1, 3),
    "category": st.sampled_from(["dairy", "fish", "it's", None]),
    "tags": TAGS,
    "Others": TAGS,
}
EVENTS = st.fixed_dictionaries(
    KEYS
    | {
        "timestamp": INSTANTS,
        "price": st.none() | st.sampled_from([0.0, 2.5, 1.125, -7.25, 0.3, math.nan, math.inf, 1e6 / 3]),
        "clicked": st.sampled_from([0, 1, None]),
        "bought": st.sampled_from([0, 1, None]),
        "delay": st.sampled_from([None, 0, HOUR, 24 * HOUR, 50 * HOUR]),
    }
)
QUERIES = st.lists(st.tuples(st.fixed_dictionaries(KEYS), INSTANTS), min_size=1, max_size=6)


def opened(folder: Path, *names: str) -> Lake:
    """A lake that declares some of the definitions."""
    counts = "".join(f"  {name}: {DECLARED[name]}\n" for name in names)
    (folder / "tokenlake.yaml").write_text(f"{YAML}counts:\n{counts}")
    return tokenlake.open(folder)


def instant(micros: int | None) -> dt.datetime | None:
    return None if micros is None else dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)


def filled(lake: Lake, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write events into a lake; returns them as the oracle reads them, with instants in microseconds."""
    log, rows = [], []
    for number, event in enumerate(events):
        t, delay = event["timestamp"], event["delay"]
        row = {
            **event,
            "event_id": number,
            "clicked_known_at": t,
            "bought_known_at": None if delay is None else t + delay,
        }
        log.append(row)
        moments = {name: instant(row[name]) for name in ("timestamp", "clicked_known_at", "bought_known_at")}
        rows.append({**row, **moments, "ds": moments["timestamp"].date(), "ingested_at": START})  # type: ignore[union-attr]  # never null
    lake.events.append(rows_of(lake.events.schema, rows))
    return log


def asked(lake: Lake, queries: list[tuple[dict[str, Any], int]]) -> dict[str, list[float | None]]:
    """Every column for every query, in one question."""
    config = lake.config
    calls = []
    for name, count in config.definitions.items():
        keys = ", ".join(f'q."{count_oracle.COLUMN.get(key, key)}"' for key in count.by)
        calls += [f'counts."{column.name}"({keys}, q.t) AS "{column.name}"' for column in count.columns(name)]
    rows = [{**keys, "t": instant(t), "place": place} for place, (keys, t) in enumerate(queries)]
    given = ", ".join(
        "({user_id}, {item_id}, $c{place}, $g{place}::VARCHAR[], $o{place}::VARCHAR[], $t{place}::TIMESTAMPTZ, {place})".format(
            **row
        )
        for row in rows
    )
    params = {
        f"{letter}{row['place']}": row[name]
        for row in rows
        for letter, name in (("c", "category"), ("g", "tags"), ("o", "Others"), ("t", "t"))
    }
    query = (
        f'SELECT {", ".join(calls)} FROM (VALUES {given}) AS q(user_id, item_id, category, tags, "Others", t, place) '
        "ORDER BY q.place"
    )
    answer: dict[str, list[float | None]] = lake.sql(query, params).to_arrow_table().to_pydict()
    return answer


def same(got: float | None, wanted: float | None) -> bool:
    if got is None or wanted is None:
        return got is wanted
    return math.isclose(got, wanted, rel_tol=1e-5, abs_tol=1e-5)


#: Those that `make test` asks too; planning many macros takes long.
QUICK = tuple(DECLARED)[:3]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DECLARED]
)
@settings(max_examples=3, deadline=None)
@given(events=st.lists(EVENTS, max_size=25), queries=QUERIES)
def test_each_column_is_what_a_loop_counts(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    events: list[dict[str, Any]],
    queries: list[tuple[dict[str, Any], int]],
) -> None:
    lake = opened(tmp_path_factory.mktemp("lake"), name)
    log = filled(lake, events)
    got = asked(lake, queries)
    keys, times = [keys for keys, _ in queries], [t for _, t in queries]
    wanted = count_oracle.answers(log, keys, times, lake.config.definitions)
    assert list(got) == list(wanted)
    for column in wanted:
        assert all(map(same, got[column], wanted[column])), (column, got[column], wanted[column])


def test_macros_have_a_schema_of_their_own(tmp_path: Path) -> None:
    lake = opened(tmp_path, "item", "Odd")
    database = Database(lake)
    macros = {each.signature: each.doc for each in database.objects() if each.name.startswith("counts.")}
    assert macros["counts.item_count_1d(item, t)"] == "Number of events, of the same item, before t, not older than 1d."
    assert "counts.Odd_mean_decay_5h(category, t)" in macros
    for query in ("from counts.item_count(1, '2017-01-01')", "from counts.item_count", "from answers.facts_0"):
        with pytest.raises((ForbiddenError, duckdb.Error)):
            lake.sql(query)
    assert lake.sql("select counts.ITEM_count('1', '2017-01-01')").fetchall() == [(0.0,)]
    assert lake.sql("select counts.item_count(1, null), counts.item_count(null, '2017-01-01')").fetchall() == [
        (None, 0.0)
    ]


def test_many_rows_are_joined_and_not_looped_over(tmp_path: Path) -> None:
    lake = opened(tmp_path, "cat")
    event = {"user_id": 1, "item_id": 1, "category": "fish", "bought": 1, "delay": 0, "clicked": None}
    filled(lake, [{**event, "timestamp": as_micros(START, "t").item() + i} for i in range(9)])
    (plan,) = lake.sql("explain select counts.cat_mean_1d(user_id, category, timestamp) from events").fetchall()
    assert plan[1].count("Asof Join") == 2
    assert "Nested Loop" not in plan[1]
