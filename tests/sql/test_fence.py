from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import sqlalchemy as sa

import tokenlake
from tests.sql.events import DAY, YAML, an_event, rows_of
from tokenlake._lake import Lake
from tokenlake.errors import ForbiddenError
from tokenlake.lake.database import Database
from tokenlake.lake.sql.fence import Fence

ADMITTED = [
    "select 1",
    "SELECT 1; -- done",
    "/* hello; drop table x */ select ';' as a",
    "with a as (select 1) from a",
    "with recursive t(n) as (select 1 union all select n + 1 from t where n < 3) from t",
    "select 1 union all select 2",
    "from events",
    "table events",
    "values (1), (2)",
    "describe events",
    "describe select 1",
    "show tables",
    "summarize events",
    "explain select 1",
    "EXPLAIN ANALYZE select count(*) from events",
    "explain (format json) select 1",
    "pragma version",
    "pragma table_info('events')",
    "pivot (select 1 as a, 2 as b) on a in (1, 2) using sum(b)",
    "select {'type': 'x', 'function_name': 'y'} as s",
    "pivot events on user_id using count(*)",
    "with a as (select 1 as x, 2 as y) pivot a on x || '!', y using sum(y) as s, max(x)",
    'select \'"function_name":"read_csv"\' as a',
    "from information_schema.tables",
    "from main.events",
    "from memory.main.events",
    "select * from duckdb_views()",
]
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
WRITING = [
    "copy (select 1) to '{tables}/x.csv'",
    "copy events from '{tables}/x.csv'",
    "with a as (copy (select 1) to '{tables}/x.csv') select * from a",
    "explain analyze copy (select 1) to '{tables}/x.csv'",
    "explain /* just asking */ analyze copy (select 1) to '{tables}/x.csv'",
    "explain/**/analyze copy (select 1) to '{tables}/x.csv'",
    "explain (format json) copy (select 1) to '{tables}/x.csv'",
    "explain analyze with a as (copy (select 1) to '{tables}/x.csv') select * from a",
    "describe with a as (copy (select 1) to '{tables}/x.csv') select * from a",
    "export database '{tables}/x'",
    "attach '{tables}/x.db'",
    "attach ':memory:' as m",
    "detach memory",
    "install httpfs",
    "load httpfs",
    "create table x as select 1",
    "create macro m() as 1",
    "create secret s (type s3)",
    "insert into stored.runs(id) values (1)",
    "with a as (insert into stored.runs(id) values (1) returning *) select * from a",
    "select (with a as (delete from stored.runs returning id) select id from a)",
    "select * from (with a as (update stored.runs set id = 1 returning *) select * from a)",
    "explain analyze insert into stored.runs(id) values (1)",
    "update stored.runs set id = 1",
    "delete from stored.runs",
    "truncate stored.runs",
    "merge into stored.runs using stored.runs as b on false when matched then delete",
    "drop view events",
    "alter view events rename to e",
    "set enable_external_access = true",
    "set variable x = 1",
    "pragma enable_profiling",
    "pragma import_database('{tables}')",
    "pragma json_execute_serialized_sql('x')",
    "use stored",
    "call enable_logging()",
    "from enable_logging()",
    "from checkpoint()",
    "from query('select 1')",
    "from query_table('events')",
    "from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select write_log('x')",
    "begin",
    "prepare p as select 1",
    "execute p",
    "vacuum",
    "analyze",
    "checkpoint",
    "select 1; drop view events",
    "select 1; select 2",
    "-- nothing\n/* at all */",
    "select 1 -- ;\n; copy (select 1) to '{tables}/x.csv'",
]
READING_OUTSIDE = [
    "from read_csv('/etc/passwd')",
    "from '{root}/secret.csv'",
    "from read_text('{root}/secret.csv')",
    "from read_blob('/proc/self/environ')",
    "from read_json('{root}/secret.csv')",
    "from read_parquet('{root}/*.parquet')",
    "from parquet_metadata('{root}/x.parquet')",
    "from sniff_csv('/etc/passwd')",
    "from glob('/etc/*')",
    "from read_csv('{tables}/../secret.csv')",
    "from read_csv('{tables}/link.csv')",
    "from glob('{tables}/../*')",
    "from read_csv('https://localhost:1/x.csv')",
    "from 's3://bucket/x.parquet'",
    "select (select max(content) from read_text('/etc/passwd'))",
    "explain analyze select * from read_text('/etc/passwd')",
]

#: Names of the functions of the pinned DuckDB that stand in expressions.
SCALARS_LOOKED_AT = 1023


@pytest.fixture(scope="module")
def guarded(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """One lake for all tests here: none of them may change it."""
    lake = tokenlake.open(shutil.copytree(made, tmp_path_factory.mktemp("guarded") / "lake"))
    (lake.root / "secret.csv").write_text("a\n1\n")
    (lake.data / "tables" / "link.csv").symlink_to(lake.root / "secret.csv")
    return lake


def fill(lake: Lake, query: str) -> str:
    return query.replace("{tables}", str(lake.data / "tables")).replace("{root}", str(lake.root))


def files(lake: Lake) -> set[Path]:
    return {path for path in lake.root.rglob("*") if "catalog.sqlite" not in path.name}


@pytest.mark.parametrize("query", ADMITTED)
def test_questions_are_admitted(guarded: Lake, query: str) -> None:
    assert guarded.sql(query).fetchall()
    with guarded.engine().connect() as connection:
        assert connection.exec_driver_sql(query).fetchall()


@pytest.mark.parametrize("query", OF_A_SESSION)
def test_a_session_changes_itself_alone(guarded: Lake, query: str) -> None:
    before, one = files(guarded), Database(guarded)
    assert one.sql(query) is None
    assert files(guarded) == before
    others = Database(guarded)
    assert others.sql("select current_setting('TimeZone')").fetchall() == [("UTC",)]
    with pytest.raises(duckdb.CatalogException):
        others.sql("from x")
    with guarded.engine().connect() as connection:
        connection.exec_driver_sql(query)


@pytest.mark.parametrize("query", WRITING)
def test_nothing_else_is(guarded: Lake, query: str) -> None:
    before, runs = files(guarded), guarded.sql("from runs").fetchall()
    with pytest.raises(ForbiddenError):
        guarded.sql(fill(guarded, query))
    with guarded.engine().connect() as connection, pytest.raises((ForbiddenError, sa.exc.DBAPIError)):
        connection.exec_driver_sql(fill(guarded, query))
    assert files(guarded) == before
    assert guarded.sql("from runs").fetchall() == runs


@pytest.mark.parametrize("query", READING_OUTSIDE)
def test_no_file_outside_is_read(guarded: Lake, query: str) -> None:
    with pytest.raises(ForbiddenError, match=r"is not admitted: (SQL reads the lake's views|it opens files)"):
        guarded.sql(fill(guarded, query))
    with guarded.engine().connect() as connection, pytest.raises((ForbiddenError, sa.exc.DBAPIError)):
        connection.exec_driver_sql(fill(guarded, query))


def test_no_python_variable_is_read(guarded: Lake) -> None:
    secret = pa.table({"a": [1]})
    assert secret.num_rows
    with pytest.raises(duckdb.CatalogException, match="secret"):
        guarded.sql("from secret").fetchall()


def test_settings_are_locked_even_for_our_own_sql(guarded: Lake) -> None:
    cursor = Database(guarded).cursor()
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


def test_several_questions_are_all_admitted_before_the_first_is_asked(guarded: Lake) -> None:
    database = Database(guarded)
    assert len(database.split("select 1; -- one\nselect ';'")) == 2
    with pytest.raises(ForbiddenError, match=r"^DROP is not admitted"):
        database.split("select 1; drop view x")
    with pytest.raises(ForbiddenError, match="PIVOT x ON y IN"):
        database.split("from (pivot x on y)")


def test_every_function_of_this_duckdb_was_looked_at() -> None:
    """A new DuckDB may bring a function that reads files under another kind or name: then look at it, and list it here."""
    with duckdb.connect() as connection:
        names = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type NOT IN ('table', 'table_macro', 'pragma')"
        ).fetchall()
        assert len(names) == SCALARS_LOOKED_AT
        refused = {name for (name,) in names if Fence(connection, ()).refuses(name)}
    assert refused == {
        "currval",
        "json_deserialize_sql",
        "json_serialize_plan",
        "json_serialize_sql",
        "nextval",
        "setval",
        "write_log",
    }


def test_a_lists_constants_are_not_parsed_one_by_one(guarded: Lake) -> None:
    many = ", ".join(map(str, range(5000)))
    assert guarded.sql(f"select count(*) from events where event_id in ({many})").fetchall() == [(18,)]
    with pytest.raises(ForbiddenError):
        guarded.sql(f"select 1 in ({many}, (select count(*) from read_text('x')))")
