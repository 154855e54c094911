from __future__ import annotations

import datetime as dt
import gc
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenlake_sql
from tests.sql.events import DAY, an_event, at, rows_of
from tokenlake._lake import Lake
from tokenlake.lake.database import Database

VIEWS = (
    "events",
    "quarantine",
    "instance_tokens",
    "predictions",
    "user_embeddings",
    "item_embeddings",
    "edges",
)
CATALOG = ("runs", "artefacts", "metrics", "versions", "plans", "checkpoints", "index_versions", "reruns")


@pytest.mark.parametrize("name", VIEWS)
def test_views_have_the_schema_of_their_table(bare: Lake, still: Lake, name: str) -> None:
    for some in (bare, still):
        schema = getattr(some, name).schema
        assert some.sql(f"from {name}").to_arrow_table().schema.remove_metadata() == schema


def test_views_hold_what_their_table_holds(still: Lake) -> None:
    for name in VIEWS:
        table = getattr(still, name)
        keys = [
            (column, "ascending")
            for column in table.schema.names
            if column not in {"token", "tags", "image", "embedding"}
        ]
        assert still.sql(f"from {name}").to_arrow_table().sort_by(keys) == table.read().sort_by(keys)


@pytest.mark.parametrize("name", CATALOG)
def test_the_catalog_is_there_too(bare: Lake, name: str) -> None:
    assert bare.sql(f"from {name}").to_arrow_table().column_names == bare.catalog.arrow()[name].column_names
    assert bare.sql(f"select count(*) from {name}").fetchall() == [(0,)]


def test_an_empty_lake_answers(bare: Lake) -> None:
    assert bare.sql("select count(*), max(timestamp) from events").fetchall() == [(0, None)]
    assert bare.sql("from freshness()").fetchall() == []
    assert bare.sql("from by_day()").fetchall() == []
    assert bare.sql("from tokens_before(1, now())").fetchall() == []


def test_every_question_sees_the_newest_commit(lake: Lake) -> None:
    count = "select count(*) from events"
    assert lake.sql(count).fetchall() == [(18,)]
    row = an_event(9, 900, DAY + dt.timedelta(9), 0)
    lake.events.append(rows_of(lake.events.schema, [row]))
    assert lake.sql(count).fetchall() == [(19,)]
    with lake.catalog.run("encode", DAY, "v"):
        assert lake.sql("select job, status from runs order by id desc limit 1").fetchall() == [("encode", "running")]
    assert lake.sql("select status from runs order by id desc limit 1").fetchall() == [("done",)]


def test_views_do_not_outlive_a_vacuum(lake: Lake) -> None:
    before = lake.sql("select count(*) from events").fetchall()
    lake.events.replace_day(DAY, lake.events.read(day=DAY))
    table = DeltaTable(lake.events.path)
    assert table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert lake.sql("select count(*) from events").fetchall() == before


def test_a_feature_that_came_later_is_null_before(lake: Lake) -> None:
    file = lake.root / "tokenlake.yaml"
    file.write_text(file.read_text().replace("price: numeric", "price: numeric, weight: numeric"))
    import tokenlake

    later = tokenlake.open(lake.root)
    assert later.sql("select count(*), count(weight) from events").fetchall() == [(18, 0)]
    row = an_event(9, 900, DAY, 5, weight=2.5)
    later.events.append(rows_of(later.events.schema, [row]))
    assert later.sql("select count(*), sum(weight) from events").fetchall() == [(19, 2.5)]


def test_string_ids(empty: Lake) -> None:
    schema = empty.events.schema
    for index, name in enumerate(("event_id", "user_id", "item_id")):
        schema = schema.set(index, pa.field(name, pa.string()))
    from tokenlake.lake.tables import Table

    table = Table(empty.events.path, schema, ("ds",), empty.data / "locks")
    table.append(rows_of(schema, [an_event(0, 0, DAY, 0, user_id="007", event_id="a", item_id="x")]))
    assert empty.sql("select user_id from events").fetchall() == [("007",)]
    assert empty.sql("select event_id from events_before('007', '2018-01-01')").fetchall() == [("a",)]


def test_a_relation_lives_on_its_own(still: Lake) -> None:
    relation = still.sql("select user_id, count(*) as n from events where user_id < $u group by 1 order by 1", {"u": 5})
    gc.collect()
    assert relation.fetchall() == [(1, 9), (2, 9)]
    assert still.sql("select ?::int + ?::int", [1, 2]).fetchall() == [(3,)]


def test_bad_sql_is_duckdbs_own_error(still: Lake) -> None:
    with pytest.raises(duckdb.Error, match="nowhere"):
        still.sql("from nowhere").fetchall()
    with pytest.raises(duckdb.ParserException):
        still.sql("selec 1")


def test_threads_ask_while_a_day_is_replaced(lake: Lake) -> None:
    def ask(_: int) -> list[tuple[int]]:
        return lake.sql("select count(*) from events").fetchall()

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, i) for i in range(12)]
        for _ in range(3):
            lake.events.replace_day(DAY, lake.events.read(day=DAY))
        assert [answer.result() for answer in answers] == [[(18,)]] * 12


# Macros.


def known(row: dict[str, object], label: str, before: dt.datetime) -> object:
    known_at = row[f"{label}_known_at"]
    return row[label] if isinstance(known_at, dt.datetime) and known_at < before else None


@settings(max_examples=25, deadline=None)
@given(
    user=st.integers(1, 3),
    seconds=st.sampled_from([0.0, 59.999, 60.0, 60.000001, 86_400.0, 700_000.0]),
    n=st.integers(0, 9),
    available=st.sampled_from(["realtime", "daily"]),
)
def test_tokens_before_is_what_a_plain_loop_says(
    still: Lake, user: int, seconds: float, n: int, available: str
) -> None:
    before = at(DAY, seconds)
    version = still.resolve()
    rows = sorted(still.instance_tokens.read().to_pylist(), key=lambda r: (r["timestamp"], r["event_id"]))
    rows = [r for r in rows if r["user_id"] == user and r["version"] == version and r["timestamp"] < before]
    if available == "daily":
        rows = [r for r in rows if r["ds"] < before.date()]
    want = [
        (r["event_id"], known(r, "clicked", before), known(r, "bought", before))
        for r in rows[len(rows) - min(n, len(rows)) :]
    ]
    got = still.sql(
        "select event_id, clicked, bought from tokens_before($user, $before, $n, available := $available)",
        {"user": user, "before": before, "n": n, "available": available},
    )
    assert got.fetchall() == want


def test_a_label_and_its_instant_are_hidden_until_known(still: Lake) -> None:
    query = "select bought, bought_known_at from events_before(2, ?::timestamptz) where event_id = 1"
    assert still.sql(query, [at(DAY, 7 * 86_400)]).fetchall() == [(None, None)]
    assert still.sql(query, [at(DAY, 7 * 86_400 + 1e-6)]).fetchall() == [(1, at(DAY, 7 * 86_400))]


def test_the_macros_follow_the_serving_version(lake: Lake) -> None:
    query = "select distinct token[1] from tokens_before(1, '2018-01-01')"
    assert lake.sql(query).fetchall() == [(1.0,)]
    lake.promote("other")
    assert lake.sql(query).fetchall() == [(2.0,)]


def test_freshness_and_days(lake: Lake) -> None:
    fresh = lake.sql('select "table", rows, days, first_day, days_behind from freshness()').fetchall()
    of_embeddings = [("edges", 12, 3, DAY, 0), ("edges", 8, 2, DAY, 1)]
    of_tokens = [("events", 18, 3, DAY, 0), ("instance_tokens", 18, 3, DAY, 0), ("instance_tokens", 18, 3, DAY, 0)]
    assert [row for row in fresh if row[0] == "edges"] == of_embeddings
    assert [row for row in fresh if row[0] in ("events", "instance_tokens")] == of_tokens
    assert [row[1:] for row in fresh if row[0].endswith("embeddings")] == [(6, 3, DAY, 0)] * 4
    lake.instance_tokens.replace_day(DAY + dt.timedelta(2), lake.instance_tokens.schema.empty_table(), lake.resolve())
    behind = lake.sql("select days_behind from freshness() where \"table\" in ('events', 'instance_tokens')").fetchall()
    assert sorted(behind) == [(0,), (0,), (1,)]
    lake.catalog.mark_rerun([DAY], "late")
    days = lake.sql("select events, users, tokens, complete, bootstrap, rerun_pending from by_day()").fetchall()
    assert days[0] == (6, 2, 6, True, True, True)
    assert days[2] == (6, 2, 0, False, None, False)


# Saved queries.


def test_there_are_enough_saved_queries() -> None:
    assert len(tokenlake_sql.queries()) >= 10


@pytest.mark.parametrize("name", tokenlake_sql.queries())
def test_every_saved_query_runs_and_is_documented(bare: Lake, still: Lake, name: str) -> None:
    query = tokenlake_sql.queries()[name]
    assert query.title
    assert not query.title.endswith(".")
    assert query.description.endswith(".")
    for some in (bare, still):
        assert some.sql(query.sql, query.bind()).fetchall() is not None
    if name not in {"last_errors"}:
        assert still.sql(query.sql, query.bind()).fetchall(), "answers nothing on a lake that holds everything"


def test_binding_a_saved_query(still: Lake) -> None:
    query = tokenlake_sql.queries()["last_tokens"]
    assert [p.name for p in query.parameters] == ["user", "before", "n"]
    rows = (
        still.sql(query.sql, query.bind({"user": "2", "before": "2017-03-02", "n": "2"})).to_arrow_table().to_pylist()
    )
    assert [row["event_id"] for row in rows] == [3, 5]
    with pytest.raises(KeyError, match="no parameters \\['usr'\\]"):
        query.bind({"usr": "2"})


def test_calibration_leaves_the_bootstrap_out(still: Lake) -> None:
    query = tokenlake_sql.queries()["calibration"]
    rows = still.sql(query.sql, query.bind()).to_arrow_table().to_pylist()
    assert sum(row["events"] for row in rows) == 12


def test_objects_are_the_lakes_and_the_sessions_own(still: Lake) -> None:
    database = Database(still)
    for statement in ("create temp table mine as select 1 as a", "create temp view own as from mine", "from events"):
        database.sql(statement)
    found = database.objects()
    assert [each.name for each in found if each.kind == "table"] == ["mine", "own"]
    views = {name for (name,) in still.sql("select view_name from duckdb_views() where not internal").fetchall()}
    assert {each.name for each in found if each.kind == "view"} == views
    macros = {each.name: each for each in found if each.kind == "macro"}
    assert macros["tokens_before"].signature == "tokens_before(user, t, n := 256, available := 'realtime')"
    assert all(each.doc for each in found if each.kind != "table")
