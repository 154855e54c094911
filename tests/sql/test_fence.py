from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenlake
from tests.sql.events import DAY, YAML, an_event, rows_of
from tests.sql.fence_statements import ASKED, NO_SQL, REFUSED
from tokenlake._lake import Lake
from tokenlake.errors import ForbiddenError
from tokenlake.lake.database import Database
from tokenlake.lake.sql import lexer
from tokenlake.lake.sql.fence import Fence

#: Statements that change nothing but the asker's own session.
OF_A_SESSION = [
    "create temp table x as select 1 as a",
    "create or replace temporary table x as from events",
    "create temp table if not exists x as select 1 as a",
    "create temp view x as from events",
    "create temp table x as (with a as (select 1 as a) from a)",
    "set timezone = 'Europe/Berlin'",
    "SET TIME ZONE 'Asia/Tokyo'",
    "set session TimeZone to 'UTC'",
    "reset timezone",
    "set threads = 1",
    "set threads to 1",
    "reset threads",
    "set memory_limit = '100MB'",
    "set max_memory = '100 MiB'",
    "reset memory_limit",
    "pragma threads = 1",
]
#: Names of the functions of the pinned DuckDB that stand in expressions.
SCALARS_LOOKED_AT = 1023


#: What every secret file holds.
SECRET = "top-secret"


class Guarded(NamedTuple):
    """A lake with secret files about it, and who asks it: an analyst in a session, and a tool on the engine."""

    lake: Lake
    analyst: Database
    tool: sa.Connection


@pytest.fixture(scope="module")
def guarded(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One lake for all tests here: none of them may change it."""
    lake = tokenlake.open(shutil.copytree(made, tmp_path_factory.mktemp("guarded") / "lake"))
    outside, here = tmp_path_factory.mktemp("outside"), tmp_path_factory.mktemp("here")
    (lake.data / "tables" / "out").symlink_to(outside)
    places = [lake.root / "secret.csv", outside / "secret.csv", lake.data / "tables" / "inside.csv"]
    names = ("x.csv", "main.csv", "temp.csv", "memory.main.csv", "x.csv?y.events", "x.json", "x")
    for file in (*places, *(here / name for name in names)):
        file.write_text(f"a\n{SECRET}\n")
    analyst = Database(lake)
    analyst.sql("create temp table own as select 1 as a")
    with pytest.MonkeyPatch.context() as patch, lake.engine().connect() as tool:
        patch.chdir(here)
        yield Guarded(lake, analyst, tool)


def fill(lake: Lake, query: str) -> str:
    return query.replace("{tables}", str(lake.data / "tables")).replace("{root}", str(lake.root))


def state(lake: Lake) -> object:
    """Every file about a lake but its catalog, with its time, and what the catalog and the session hold."""
    folders = (lake.root, lake.data / "tables" / "out", Path.cwd())
    paths = {path for folder in folders for path in (folder, *folder.rglob("*")) if "catalog.sqlite" not in path.name}
    return {path: path.lstat().st_mtime_ns for path in paths}, lake.sql("from runs").fetchall()


@pytest.fixture
def unchanged(guarded: Guarded) -> Iterator[None]:
    """Nothing of the lake, of the folders about it, and of the others' settings changes."""
    before = state(guarded.lake)
    yield
    assert state(guarded.lake) == before
    settings = "select current_setting('enable_external_access'), current_setting('lock_configuration'), current_setting('TimeZone')"
    assert guarded.lake.sql(settings).fetchall() == [(False, True, "UTC")]
    assert guarded.analyst.sql("from own").fetchall() == [(1,)]


def test_there_are_enough_statements() -> None:
    assert sum(map(len, REFUSED.values())) >= 250
    assert len(ASKED) >= 60


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.usefixtures("unchanged")
def test_refused(guarded: Guarded, kind: str) -> None:
    for query in REFUSED[kind]:
        text = fill(guarded.lake, query)
        # Several statements may be split: each of them is asked by itself then.
        splitting = () if kind == "several statements, or none" else (guarded.analyst.split,)
        for ask in (guarded.lake.sql, guarded.analyst.sql, *splitting):
            with pytest.raises(ForbiddenError) as refusal:
                pytest.fail(f"{query!r} is admitted: {ask(text)}")
            assert SECRET not in str(refusal.value)
        # SQLAlchemy takes an empty text and COMMIT for its own.
        if query.strip() and query != "commit":
            with pytest.raises(ForbiddenError):
                pytest.fail(f"{query!r} is admitted: {guarded.tool.exec_driver_sql(text).all()}")


@pytest.mark.parametrize("query", NO_SQL)
@pytest.mark.usefixtures("unchanged")
def test_no_sql(guarded: Guarded, query: str) -> None:
    for ask in (guarded.lake.sql, guarded.analyst.sql):
        with pytest.raises(duckdb.Error) as error:
            ask(fill(guarded.lake, query))
        assert SECRET not in str(error.value)
    with pytest.raises(sa.exc.DBAPIError):
        guarded.tool.exec_driver_sql(fill(guarded.lake, query))


@pytest.mark.parametrize("query", ASKED)
def test_questions_are_admitted(guarded: Guarded, query: str) -> None:
    for database in (guarded.lake, guarded.analyst):
        relation = database.sql(query)
        assert relation is not None
        rows = relation.fetchall()
        assert rows
        assert SECRET not in str(rows)
    assert guarded.tool.exec_driver_sql(query).all()


@pytest.mark.parametrize("query", OF_A_SESSION)
def test_a_session_changes_itself_alone(guarded: Guarded, query: str) -> None:
    before, one = state(guarded.lake), Database(guarded.lake)
    assert one.sql(query) is None
    assert state(guarded.lake) == before
    assert guarded.lake.sql("select current_setting('TimeZone')").fetchall() == [("UTC",)]
    with pytest.raises(duckdb.CatalogException):
        guarded.lake.sql("from x")
    with guarded.lake.engine().connect() as connection, guarded.lake.engine().connect() as other:
        connection.exec_driver_sql(query)
        assert other.exec_driver_sql("select current_setting('TimeZone')").scalar() == "UTC"


def test_a_global_setting_is_the_sessions_alone(guarded: Guarded) -> None:
    database = Database(guarded.lake)
    with database.engine().connect() as one, database.engine().connect() as other:
        one.exec_driver_sql("set global timezone = 'Asia/Tokyo'")
        assert one.exec_driver_sql("select current_setting('TimeZone')").scalar() == "Asia/Tokyo"
        assert other.exec_driver_sql("select current_setting('TimeZone')").scalar() == "UTC"
        one.exec_driver_sql("reset timezone")
        assert one.exec_driver_sql("select current_setting('TimeZone')").scalar() == "UTC"


def test_a_session_shadows_a_view_for_itself_alone(guarded: Guarded) -> None:
    one, count = Database(guarded.lake), "select count(*) from events"
    one.sql("create temp table events as select 1 as a")
    assert one.sql("from events").fetchall() == [(1,)]
    assert one.sql("select count(*) from memory.main.events").fetchall() == [(18,)]
    assert guarded.lake.sql(count).fetchall() == [(18,)]
    with one.engine().connect() as other:
        assert other.exec_driver_sql(count).scalar() == 18
    one.sql("drop table temp.events")
    assert one.sql(count).fetchall() == [(18,)]


def test_a_sessions_view_is_of_the_newest_commit(lake: Lake) -> None:
    database = Database(lake)
    with database.engine().connect() as tool:
        for make in (database.sql, tool.exec_driver_sql):
            make("create temp view own as select count(*) as n from events")
        lake.events.append(rows_of(lake.events.schema, [an_event(9, 900, DAY, 0)]))
        assert database.sql("from own").fetchall() == [(19,)]
        assert tool.exec_driver_sql("from own").scalar() == 19


@pytest.mark.parametrize(
    ("query", "begins"),
    [
        ("from 'x.csv'", "'x.csv' in FROM is not admitted: SQL reads the lake's views, and no files"),
        ("from main.csv", "main.csv in FROM is not admitted: it is no view of this lake"),
        ("from read_csv('x')", "the function read_csv is not admitted: it opens files"),
        ("set schema = 'x'", "SET schema is not admitted: only max_memory, memory_limit, threads, timezone may be set"),
        ("set threads = 1 + 1", "SET threads = 1+1 is not admitted: give a number of at most "),
        ("set memory_limit = '50%'", "SET memory_limit = 50% is not admitted: give a size such as 512MB of at most "),
        ("drop view events", "DROP is not admitted: a lake is asked, not changed; of your session"),
        ("create table x as select 1", "CREATE is not admitted: a lake is asked, not changed; a session has tables"),
        ("create temp table x as select 1 with no data", "what follows AS is not admitted: CREATE TEMP TABLE name AS"),
        ("explain analyze copy (select 1) to 'x'", "EXPLAIN COPY is not admitted: EXPLAIN takes one SELECT"),
        ("with a as (copy (select 1) to 'x') from a", "COPY is not admitted"),
        ("from (pivot events on user_id)", "a PIVOT without its values is not admitted: only one at the top"),
        ("select 1; select 2", "2 statements given; ask one question at a time"),
        ("", "no statement given"),
        ("begin", "TRANSACTION is not admitted: every question sees the newest commit"),
    ],
)
def test_a_refusal_begins_with_what_was_refused_and_why(guarded: Guarded, query: str, begins: str) -> None:
    with pytest.raises(ForbiddenError) as refusal:
        guarded.lake.sql(query)
    assert str(refusal.value).startswith(begins)


def test_no_python_variable_is_read(guarded: Guarded) -> None:
    secret = pa.table({"a": [1]})
    assert secret.num_rows
    with pytest.raises(duckdb.CatalogException, match="secret"):
        guarded.lake.sql("from secret").fetchall()


def test_settings_are_locked_even_for_our_own_sql(guarded: Guarded) -> None:
    cursor = Database(guarded.lake).cursor()
    for statement in (
        "set enable_external_access = true",
        "set lock_configuration = false",
        "set allowed_directories = ['/']",
    ):
        with pytest.raises(duckdb.Error):
            cursor.execute(statement)
    with pytest.raises(duckdb.PermissionException):
        cursor.execute("copy (select 1) to '/tmp/tokenlake-should-not-be'")


def test_a_lake_in_an_odd_folder(tmp_path: Path) -> None:
    folder = tmp_path / "it's a lake"
    folder.mkdir()
    (folder / "tokenlake.yaml").write_text(YAML)
    odd = tokenlake.open(folder)
    odd.events.append(rows_of(odd.events.schema, [an_event(1, 1, DAY, 0)]))
    assert odd.sql("select count(*) from events").fetchall() == [(1,)]


def test_several_questions_are_all_admitted_before_the_first_is_asked(guarded: Guarded) -> None:
    database = Database(guarded.lake)
    assert len(database.split("select 1; -- one\nselect ';'")) == 2
    with pytest.raises(ForbiddenError, match=r"^DROP is not admitted"):
        database.split("select 1; drop view x")
    with pytest.raises(ForbiddenError, match="a PIVOT without its values"):
        database.split("from (pivot x on y)")


def test_every_function_of_this_duckdb_was_looked_at() -> None:
    """A new DuckDB may bring a function that reads files under another kind or name: then look at it, and list it here."""
    with duckdb.connect() as connection:
        names = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type NOT IN ('table', 'table_macro', 'pragma')"
        ).fetchall()
        assert len(names) == SCALARS_LOOKED_AT
        fence = Fence(connection, ())
        refused = {name for (name,) in names if fence.refuses(name)}
    assert refused == {
        "currval",
        "json_deserialize_sql",
        "json_serialize_plan",
        "json_serialize_sql",
        "nextval",
        "pg_sleep",
        "setval",
        "sleep_ms",
        "write_log",
    }


def test_a_lists_constants_are_not_parsed_one_by_one(guarded: Guarded) -> None:
    many = ", ".join(map(str, range(5000)))
    text = f"select count(*) from events where event_id in ({many})"
    assert len(lexer.shortened(text)) < 100
    assert guarded.lake.sql(text).fetchall() == [(18,)]
    with pytest.raises(ForbiddenError):
        guarded.lake.sql(f"select 1 in ({many}, (select count(*) from read_text('x')))")


#: Pieces of SQL, of which some begin or end a text, a comment, a name or a list.
PIECES = st.sampled_from(
    [
        "select",
        "from",
        "in",
        "(",
        ")",
        ",",
        ";",
        "1",
        "2.5",
        "-3",
        "'a'",
        "''",
        "'",
        '"',
        '"b"',
        "$$",
        "$a$",
        "--",
        "/*",
        "*/",
        "\n",
        "e'",
        "\\",
        "->",
        "||",
        "::",
        "t",
        "main",
        ".",
        "csv",
        "read_text(",
        "'x.csv'",
        "$1",
        "\xa0",
        "é",
        "pivot",
        "on",
        "using",
        "count(*)",
        "group",
        "by",
        "and",
        "not",
        "union",
        "order",
    ]
)


def names(cursor: duckdb.DuckDBPyConnection, text: str) -> set[str] | None:
    """Every name of a table and of a function, operators apart, that DuckDB's parser finds in a text; None where it is no query."""
    (tree,) = cursor.execute("SELECT json_serialize_sql($1)::VARCHAR", [text]).fetchall()[0]
    return None if '"error":true' in tree else set(re.findall(r'"(?:table|function)_name":"[^"+>-]*"', tree))


@pytest.fixture(scope="module")
def parser() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@given(
    head=st.lists(PIECES, max_size=4),
    constants=st.lists(st.lists(PIECES, min_size=1, max_size=3), min_size=1, max_size=4),
    tail=st.lists(PIECES, max_size=4),
    blank=st.sampled_from(["", " ", "\n"]),
)
@settings(max_examples=150, deadline=None)
def test_a_shortened_text_names_the_same(
    parser: duckdb.DuckDBPyConnection, head: list[str], constants: list[list[str]], tail: list[str], blank: str
) -> None:
    items = ", ".join(blank.join(item) for item in constants)
    text = f"select {blank.join(head)} 1 in ({items}) {blank.join(tail)}"
    if (whole := names(parser, text)) is not None:
        assert names(parser, lexer.shortened(text)) == whole


@given(
    on=st.lists(
        st.sampled_from(["a", "upper(b)", "(c, d)", "b || 'on, using'", '"using"', "[a, b][1]", "-- in\n a"]),
        min_size=1,
        max_size=3,
    ),
    using=st.sampled_from(["", " using sum(x)", " using sum(x) as s, max(y)"]),
    group=st.sampled_from(["", " group by g", " order by all", " limit 3", " -- end", ";"]),
    head=st.sampled_from(["", "with t as (select 1) ", "with t as (from u) /* pivot on */ "]),
)
@settings(max_examples=60, deadline=None)
def test_a_pivot_with_values_names_the_same(
    parser: duckdb.DuckDBPyConnection, on: list[str], using: str, group: str, head: str
) -> None:
    text = f"{head}pivot t on {', '.join(on)}{using}{group}"
    (statement,) = parser.extract_statements(text)
    assert statement.type.name == "MULTI"
    (tree,) = parser.execute("SELECT json_serialize_sql($1)::VARCHAR", [lexer.with_pivot_values(text)]).fetchall()[0]
    assert '"error":false' in tree
    for name in ("t", *(["u"] if "from u" in head else []), *(["upper"] if "upper(b)" in on else [])):
        assert f'_name":"{name}"' in tree
