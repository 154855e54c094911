"""What an analyst's connection holds: its own tables, views and settings."""

from __future__ import annotations

import duckdb

from tokenlake.lake.sql.scan import quoted, quoted_name

_SETTINGS = ("TimeZone", "threads", "memory_limit")


def begin(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A connection for one asker."""
    cursor = connection.cursor()
    cursor.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
    return cursor


def home(connection: duckdb.DuckDBPyConnection) -> str:
    """What tells the DuckDB of a connection from others: its folder for temporary files."""
    (row,) = connection.cursor().execute("SELECT current_setting('temp_directory')").fetchall()
    return str(row[0])


def settings(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """What SET changed, or not, on a connection."""
    asked = ", ".join(f"current_setting({quoted(name)})::VARCHAR" for name in _SETTINGS)
    (row,) = connection.execute(f"SELECT {asked}").fetchall()
    return tuple(row)


def move(old: duckdb.DuckDBPyConnection, new: duckdb.DuckDBPyConnection) -> None:
    """Make the tables, views and settings of a connection on another one, whose DuckDB has the views that those name."""
    for name, value in zip(_SETTINGS, settings(old), strict=True):
        new.execute(f"SET {name} = {quoted(value)}")
    for (name,) in old.execute("SELECT table_name FROM duckdb_tables() WHERE temporary").fetchall():
        new.register("incoming", old.sql(f"FROM temp.{quoted_name(name)}").to_arrow_table())
        new.execute(f"CREATE TEMP TABLE {quoted_name(name)} AS FROM incoming")
        new.unregister("incoming")
    for (sql,) in old.execute("SELECT sql FROM duckdb_views() WHERE temporary AND NOT internal").fetchall():
        new.execute(sql)
