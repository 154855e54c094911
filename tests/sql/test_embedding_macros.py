"""`embedding_as_of`, `neighbors`, `index_versions` and the saved queries over them, each beside a plain loop."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenlake
import tokenlake_sql
from tests.sql.events import DAY, RETIRED, YAML, an_event, at, rows_of
from tokenlake._lake import Lake
from tokenlake.lake.schema import IdTypes, edges_schema, embeddings_schema
from tokenlake.lake.tables import Table

TIMES = st.sampled_from([s + d * 86_400.0 for d in range(5) for s in (-1e-6, 0.0, 1e-6, 50_000.0)])


def asked(lake: Lake, query: str, params: Any = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lake.sql(query, params).to_arrow_table().to_pylist()
    return rows


def saved(lake: Lake, name: str, **values: str) -> list[dict[str, Any]]:
    query = tokenlake_sql.queries()[name]
    return asked(lake, query.sql, query.bind(values))


@settings(max_examples=40, deadline=None)
@given(user=st.integers(1, 4), seconds=TIMES, as_text=st.booleans())
def test_embedding_as_of_is_the_newest_that_was_available(
    still: Lake, user: int, seconds: float, as_text: bool
) -> None:
    t = at(DAY, seconds)
    newest = None
    for row in sorted(still.user_embeddings.read().to_pylist(), key=lambda r: r["ds"]):
        mine = row["user_id"] == user and row["version"] == still.config.embedding_version
        if mine and row["available_at"] <= t:
            newest = row
    got = asked(still, "from embedding_as_of($user, $t)", {"user": str(user) if as_text else user, "t": t})
    assert got == ([] if newest is None else [newest])


@settings(max_examples=40, deadline=None)
@given(user=st.integers(1, 4), seconds=st.none() | TIMES, k=st.integers(0, 4), as_text=st.booleans())
def test_neighbors_are_of_the_newest_graph_alone(
    still: Lake, user: int, seconds: float | None, k: int, as_text: bool
) -> None:
    rows = [r for r in still.edges.read().to_pylist() if r["version"] == still.config.embedding_version]
    if seconds is not None:
        t = at(DAY, seconds)
        rows = [r for r in rows if dt.datetime.combine(r["ds"] + dt.timedelta(1), dt.time(), dt.UTC) <= t]
    newest = max((r["ds"] for r in rows), default=None)
    mine = sorted((-r["weight"], r["dst"]) for r in rows if r["ds"] == newest and r["src"] == user)[:k]
    given_t = None if seconds is None else at(DAY, seconds)
    query = "from neighbors($user, $k, $t)" if seconds is not None else "from neighbors($user, $k)"
    params: dict[str, object] = {"user": str(user) if as_text else user, "k": k}
    got = asked(still, query, params | ({} if given_t is None else {"t": given_t}))
    assert [(-r["weight"], r["dst"]) for r in got] == mine
    assert [r["rank"] for r in got] == list(range(1, len(mine) + 1))
    assert {(r["src"], r["ds"], r["version"]) for r in got} <= {(user, newest, still.config.embedding_version)}


def test_neighbors_of_sql_and_of_python_are_the_same(tmp_path: Path) -> None:
    from tests.fixtures.embedded import SEEN_LEFT_OUT, filled

    lake = filled(tmp_path, SEEN_LEFT_OUT)
    graph = lake.graph()
    for user in graph.ids.to_pylist():
        found = graph.neighbors([user], 3)
        rows = asked(lake, "from neighbors(?, 3)", [user])
        assert [r["dst"] for r in rows] == found.ids.to_pylist()
        assert [r["weight"] for r in rows] == found.weights.tolist()
        mine = lake.user_embeddings.read(day=graph.identity.day).filter(pa.compute.field("user_id") == user)
        midnight = graph.identity.day + dt.timedelta(days=1)
        assert asked(lake, "from embedding_as_of(?, ?)", [user, midnight]) == mine.to_pylist()
    built = {r["name"]: r for r in asked(lake, "from index_versions()") if r["day"] == graph.identity.day}
    assert (built["users"]["kind"], built["users"]["rows"], built["users"]["recall@10"]) == ("flat", 12, 1.0)
    assert (built["graph"]["kind"], built["graph"]["checkpoint"]) == ("cosine", graph.identity.checkpoint)


def test_an_id_of_the_other_kind_is_nobody(still: Lake) -> None:
    for name in ("embedding_as_of", "tokens_before", "events_before"):
        assert asked(still, f"from {name}('nobody', '2018-01-01')") == []
        assert asked(still, f"from {name}('1', '2018-01-01')") == asked(still, f"from {name}(1, '2018-01-01')") != []
    assert asked(still, "from neighbors('nobody')") == []


def test_string_ids(tmp_path: Path) -> None:
    (tmp_path / "tokenlake.yaml").write_text(YAML)
    lake = tokenlake.open(tmp_path)
    text, version, locks = IdTypes(pa.string(), pa.string(), pa.string()), lake.config.embedding_version, tmp_path / "l"
    schema = lake.events.schema
    for index, name in enumerate(("event_id", "user_id", "item_id")):
        schema = schema.set(index, pa.field(name, pa.string()))
    event = an_event(0, 0, DAY, 0, user_id="7", event_id="a", item_id="x")
    Table(lake.events.path, schema, ("ds",), locks).append(rows_of(schema, [event]))
    own = {"version": version, "checkpoint": "c", "ds": DAY, "available_at": at(DAY, 86_400)}
    vectors = [{"user_id": name, "embedding": [1.0], **own} for name in ("7", "007")]
    lake.user_embeddings.replace_day(DAY, rows_of(embeddings_schema("user", text), vectors), version)
    edges = [{"src": "007", "dst": "7", "weight": 1.0, "version": version, "ds": DAY}]
    lake.edges.replace_day(DAY, rows_of(edges_schema(text), edges), version)
    assert [r["user_id"] for r in asked(lake, "from embedding_as_of(7, '2018-01-01')")] == ["7"]
    assert [r["user_id"] for r in asked(lake, "from embedding_as_of('007', '2018-01-01')")] == ["007"]
    assert [r["dst"] for r in asked(lake, "from neighbors('007')")] == ["7"]
    assert asked(lake, "from neighbors(7)") == []
    assert [r["event_id"] for r in asked(lake, "from events_before(7, '2018-01-01')")] == ["a"]


def test_index_versions_tells_the_kind_and_the_recall(still: Lake) -> None:
    rows = asked(still, "from index_versions()")
    assert len(rows) == 12
    for row in rows:
        d = (row["day"] - DAY).days
        users = row["name"] == "users"
        assert (row["kind"], row["rows"]) == ("flat" if users else "learned", 2)
        assert row["recall@10"] == (pytest.approx(1 - d / 100) if users else None)
        assert (row["built_at"], row["checkpoint"]) == (at(row["day"], 90_000), str(row["day"] - dt.timedelta(1)))
        assert row["serving"] == (row["version"] != RETIRED)


def test_a_lake_without_embeddings_answers(tmp_path: Path) -> None:
    (tmp_path / "tokenlake.yaml").write_text("project: none\nevents: {}\n")
    lake = tokenlake.open(tmp_path)
    for query in ("embedding_as_of(1, now())", "neighbors(1)", "neighbors(1, 5, now())", "index_versions()"):
        assert asked(lake, f"from {query}") == []
    for name in ("similar_users", "index_recall", "embedding_coverage", "embedding_drift"):
        assert saved(lake, name) == []


# Saved queries.


def test_similar_users_share_what_both_met_by_then(still: Lake) -> None:
    events = still.events.read().to_pylist()

    def met(user: int, end: dt.date) -> dict[int, dt.datetime]:
        seen: dict[int, dt.datetime] = {}
        for e in events:
            if e["user_id"] == user and e["ds"] <= end:
                seen[e["item_id"]] = max(e["timestamp"], seen.get(e["item_id"], e["timestamp"]))
        return seen

    for user, when, day in (("1", "2018-01-01", 1), ("1", "2017-03-02", 0), ("2", "2018-01-01", 1)):
        end = DAY + dt.timedelta(day)
        rows = saved(still, "similar_users", user=user, at=when)
        edges = still.edges.read(day=end, version=still.config.embedding_version).to_pylist()
        expected = []
        for e in sorted(edges, key=lambda e: (-e["weight"], e["dst"])):
            theirs = met(e["dst"], end)
            if str(e["src"]) == user and theirs:
                both = sorted(theirs.keys() & met(e["src"], end).keys(), key=lambda i: i)
                both = sorted(both, key=lambda i: theirs[i], reverse=True)
                expected.append((e["dst"], e["weight"], len(both), len(theirs), both[:5]))
        got = [(r["neighbor"], r["weight"], r["shared"], r["neighbor_items"], r["some_shared"] or []) for r in rows]
        assert got == expected
        assert all(r["ds"] == end for r in rows)
    assert saved(still, "similar_users", user="1", at="2017-03-01") == []


def test_coverage_tells_the_warm_from_the_cold(still: Lake) -> None:
    rows = {r["ds"]: r for r in saved(still, "embedding_coverage")}
    # Users 1 and 2 are active on every day; 1 has a vector from the first day's end on, 2 from the second's.
    assert [rows[DAY + dt.timedelta(d)]["warm_users"] for d in range(3)] == [0, 0.5, 1]
    assert [rows[DAY + dt.timedelta(d)]["warm_events"] or 0 for d in range(3)] == [0, 0.5, 1]
    assert {(r["embedded_users"], r["active_users"]) for r in rows.values()} == {(2, 2)}


def test_drift_is_the_mean_cosine_to_the_day_before(still: Lake) -> None:
    rows = {r["ds"]: r for r in saved(still, "embedding_drift")}
    assert [rows[DAY + dt.timedelta(d)]["in_both"] for d in range(3)] == [0, 1, 2]
    cosines = [None, math.cos(0.3), (math.cos(0.3) + math.cos(0.6)) / 2]
    assert [rows[DAY + dt.timedelta(d)]["mean_cosine"] for d in range(3)] == [
        None if c is None else pytest.approx(c, abs=1e-4) for c in cosines
    ]
    assert [rows[DAY + dt.timedelta(d)]["new_checkpoint"] for d in range(3)] == [None, True, True]


def test_recall_over_time(still: Lake) -> None:
    rows = [r for r in saved(still, "index_recall", n="2") if r["name"] == "users" and r["serving"]]
    assert [(r["day"], r["recall@10"]) for r in rows] == [(DAY + dt.timedelta(2), 0.98), (DAY + dt.timedelta(1), 0.99)]
