"""The section `sql` of tokenlake.yaml holds for `lake.sql` and the engine."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import duckdb
import pytest
import sqlalchemy as sa

import tokenlake
from tests.sql.events import YAML
from tokenlake._lake import Lake
from tokenlake.config.sql import Sql
from tokenlake.errors import ConfigError, ForbiddenError
from tokenlake.lake.database import Database
from tokenlake.lake.sql import limits

#: What each bound stops.
BEYOND = {
    "memory": "select len(list(range)) from range(20_000_000)",
    "spill": "select count(*) from (select distinct hash(range)::varchar || range from range(3_000_000))",
    "timeout": "select sum(a.range * b.range) from range(10_000_000) a, range(1_000_000) b",
}
BOUNDS = {
    "memory": "{memory: 64MB, threads: 1}",
    "spill": "{memory: 64MB, spill: 1MB, threads: 1}",
    "timeout": "{timeout: 1s, threads: 1}",
}
ERRORS = {"timeout": duckdb.InterruptException}


def bounded(tmp_path: Path, sql: str) -> Lake:
    (tmp_path / "tokenlake.yaml").write_text(f"{YAML}sql: {sql}\n")
    return tokenlake.open(tmp_path)


@pytest.mark.parametrize("key", BEYOND)
def test_a_question_beyond_a_bound_is_an_error(tmp_path: Path, key: str) -> None:
    lake = bounded(tmp_path, BOUNDS[key])
    with pytest.raises(ERRORS.get(key, duckdb.OutOfMemoryException)) as error:
        lake.sql(BEYOND[key]).fetchall()
    assert "SET " not in limits.explained(error.value)
    told = f"; sql.{key} in tokenlake.yaml is the bound"
    assert told in limits.explained(error.value)
    with lake.engine().connect() as connection, pytest.raises(sa.exc.DBAPIError) as of_engine:
        connection.exec_driver_sql(BEYOND[key])
    assert told in str(of_engine.value)
    assert limits.explained(of_engine.value.orig) == str(of_engine.value.orig)
    assert lake.sql("select 1").fetchall() == [(1,)]


def test_other_errors_are_told_as_they_are() -> None:
    for error in (duckdb.BinderException("a\nb"), duckdb.InterruptException("INTERRUPT Error: Interrupted!")):
        assert limits.explained(error) == str(error)


def test_the_bounds_are_duckdbs_settings(tmp_path: Path) -> None:
    lake = bounded(tmp_path, "{memory: 256MiB, spill: 512MiB, timeout: 30s, threads: 1}")
    asked = "select current_setting('memory_limit'), current_setting('max_temp_directory_size'), current_setting('max_execution_time')::int, current_setting('threads')"
    assert lake.sql(asked).fetchall() == [("256.0 MiB", "512.0 MiB", 30_000, 1)]
    with lake.engine().connect() as connection:
        assert tuple(connection.exec_driver_sql(asked).one()) == ("256.0 MiB", "512.0 MiB", 30_000, 1)


def test_without_the_section() -> None:
    sql = Sql()
    assert (sql.memory, sql.spill, sql.timeout, sql.threads) == (None, "10GB", None, None)
    with limits.connect(sql, frozenset({Path("/tmp")})) as connection:
        asked = "select current_setting('memory_limit'), current_setting('max_temp_directory_size'), current_setting('max_execution_time')::int, current_setting('threads')"
        ((memory, spill, timeout, threads),) = connection.execute(asked).fetchall()
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < limits._bytes(memory) <= whole / 2 * 1.01
    assert (spill, timeout) == ("9.3 GiB", 0)
    assert threads >= 1


@pytest.mark.parametrize("given", ["memory: 5", "memory: 50%", "memory: 0GB", "spill: -1GB", "spill: much", "timeout: soon", "timeout: 0s", "timeout: -5", "threads: 0", "threads: many", "sill: 1GB"])  # fmt: skip
def test_a_wrong_bound_is_told(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match=f"sql.{given.split(':')[0]}: "):
        bounded(tmp_path, f"{{{given}}}")


def test_a_session_changes_its_settings_within_the_bounds(tmp_path: Path) -> None:
    lake = bounded(tmp_path, "{memory: 256MiB, threads: 2}")
    database = Database(lake)
    settings = "select current_setting('threads'), current_setting('memory_limit')"
    with database.engine().connect() as tool:
        for ask in (database.sql, tool.exec_driver_sql):
            ask("set threads = 1")
            ask("set memory_limit = '100 MiB'")
            assert database.sql(settings).fetchall() == [(1, "100.0 MiB")]
            for beyond in ("set threads = 3", "set memory_limit = '257MiB'", "set max_memory = '1GB'"):
                with pytest.raises(
                    ForbiddenError, match=r"of at most (2|256MiB); sql.(threads|memory) in tokenlake.yaml"
                ):
                    ask(beyond)
            ask("reset threads")
            ask("reset max_memory")
            assert database.sql(settings).fetchall() == [(2, "256.0 MiB")]


def test_the_folder_for_temporary_files_does_not_stay(tmp_path: Path) -> None:
    database = Database(bounded(tmp_path, "{memory: 64MB, threads: 1}"))
    ((folder,),) = database.sql("select current_setting('temp_directory')").fetchall()
    database.sql("create temp table big as select range, hash(range)::varchar || range as s from range(2_000_000)")
    assert any(Path(folder).iterdir())
    del database
    gc.collect()
    assert not Path(folder).exists()
