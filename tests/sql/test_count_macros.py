"""Macros of declared aggregations beside a plain loop over the log."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

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
counts:
  item: {by: item, as: [count, recency], windows: [all, 1d], decay: 5h}
  pair: {by: [user, item], of: {where: [{label: bought}, {feature: category, is: [dairy, fish]}]}, as: [count, recency], windows: [all, 30h]}
  cat: {by: [user, category], of: {label: bought}, as: [count, known, mean, recency], windows: [all, 1d], decay: 9h}
  of_fish: {by: item, of: {label: clicked, where: [{feature: category, is: fish}, {label: bought}]}, as: [known, mean]}
  tags: {by: [tags, user], of: {label: clicked}, as: [mean, known], windows: [all, 1d]}
  both: {by: [tags, Others, item], as: count}
  spend: {by: user, of: {numeric: price}, as: [count, sum, mean, min, max, last, recency], windows: [all, 1d], decay: 1d}
  late: {by: tags, of: {numeric: price, unit: 0.25, where: {label: bought}}, as: [sum, min, max, last], windows: [all, 1d]}
  Odd: {by: category, of: {numeric: price, unit: 3}, as: [mean, sum], decay: 1h}
"""
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


def instant(micros: int | None) -> dt.datetime | None:
    return None if micros is None else dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)


def filled(lake: Lake, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write events into a lake; returns them as the oracle reads them, with instants in microseconds."""
    log, rows = [], []
    for number, event in enumerate(events):
        t, delay = event["timestamp"], event["delay"]
        row = {**event, "event_id": number, "clicked_known_at": t, "bought_known_at": None if delay is None else t + delay}
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
        "({user_id}, {item_id}, $c{place}, $g{place}::VARCHAR[], $o{place}::VARCHAR[], $t{place}::TIMESTAMPTZ, {place})".format(**row)
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


@settings(max_examples=25, deadline=None)
@given(events=st.lists(EVENTS, max_size=25), queries=QUERIES)
def test_each_column_is_what_a_loop_counts(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, Any]], queries: list[tuple[dict[str, Any], int]]
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    (folder / "tokenlake.yaml").write_text(YAML)
    lake = tokenlake.open(folder)
    log = filled(lake, events)
    got = asked(lake, queries)
    keys, times = [keys for keys, _ in queries], [t for _, t in queries]
    wanted = count_oracle.answers(log, keys, times, lake.config.definitions)
    assert list(got) == list(wanted)
    for name in wanted:
        assert all(map(same, got[name], wanted[name])), (name, got[name], wanted[name])
