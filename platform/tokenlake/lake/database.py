"""`Database`: the lake's tables and catalog as DuckDB views, read-only, and always of the newest commit."""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import duckdb
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

import tokenlake_sql
from tokenlake.errors import ForbiddenError
from tokenlake.lake import readonly
from tokenlake.names import folded, unlike

if TYPE_CHECKING:
    import pyarrow as pa

    from tokenlake.lake.project import Project
    from tokenlake.lake.tables import Table

Params: TypeAlias = Sequence[Any] | Mapping[str, Any] | None
#: Schema of the empty and catalog tables behind the views; users query the views in `main`.
_STORED = "stored"


class Database:
    """One in-memory DuckDB over a lake.

    Every query sees the newest commit of each table: the views are created again after a commit, so that no view refers
    to files that a vacuum removed. A relation that was created before the commit, and not fetched yet, still reads the
    older commit.

    Args:
        lake: an open lake.
    """

    def __init__(self, lake: Project) -> None:
        self._lake = lake
        self._lock = threading.RLock()
        self._last_query: duckdb.DuckDBPyConnection | None = None
        self._commits: object = None
        self._catalog: object = None

    @property
    def _tables(self) -> dict[str, Table]:
        lake = self._lake
        return {
            "events": lake.events,
            "quarantine": lake.quarantine,
            "instance_tokens": lake.instance_tokens,
            "predictions": lake.predictions,
            "user_embeddings": lake.user_embeddings,
            "item_embeddings": lake.item_embeddings,
            "edges": lake.edges,
            "user_statistics": lake.user_statistics,
        }

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        config: dict[str, str | bool | int | float | list[str]] = {
            "python_enable_replacements": False,  # else a query could name any Python variable
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_persistent_secrets": False,
            "temp_directory": str(Path(tempfile.gettempdir()) / f"tokenlake-{os.getpid()}-{uuid.uuid4().hex}"),
        }
        connection = duckdb.connect(":memory:", config=config)
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET parquet_metadata_cache = true")  # footers never change: Delta only adds files
        connection.execute(f"SET allowed_directories = [{_quote(self._lake.data / 'tables')}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        connection.execute(f"CREATE SCHEMA {_STORED}")
        return connection

    def sql(self, query: str, params: Params = None) -> duckdb.DuckDBPyRelation:
        """Run one read-only query.

        Args:
            query: a SELECT (or WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE), EXPLAIN, or a pragma that only reads.
            params: values of `?` or `$name` in the query.

        Returns:
            A lazy relation: `.fetchall()`, `.df()`, `.to_arrow_table()`, `.to_arrow_reader()`.

        Raises:
            ForbiddenError: a statement that is not read-only, several statements, or a file outside the lake.
            duckdb.Error: SQL that DuckDB cannot understand or run.
        """
        cursor = self._last_query = self.cursor()
        text = readonly.admit(cursor, query)
        with _forbidding():
            return cursor.sql(text) if params is None else cursor.sql(text, params=params)

    def interrupt(self) -> None:
        """Stop the running query; called from another thread."""
        if self._last_query is not None:
            self._last_query.interrupt()

    def split(self, text: str) -> list[str]:
        """Split a text into its statements, and check that every one is a read-only query.

        Raises:
            ForbiddenError: a statement is not a read-only query.
        """
        return readonly.split(self._connection.cursor(), text)

    def engine(self) -> sa.Engine:
        """A SQLAlchemy engine over the same views, as read-only as `sql`."""
        from duckdb_sqlalchemy import ConnectionWrapper

        def connect() -> ConnectionWrapper:
            return ConnectionWrapper(cast("duckdb.DuckDBPyConnection", _Guarded(self)))

        # Each query is a transaction of its own, since it sees the newest commit.
        return sa.create_engine("duckdb:///:memory:", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection with up-to-date views and without the read-only check: for our own SQL only."""
        with self._lock:
            self._refresh()
            return self._connection.cursor()

    # Views.

    def _refresh(self) -> None:
        stamp = self._lake.catalog.stamp()
        if stamp is None or stamp != self._catalog:
            self._load_catalog()
            self._catalog = stamp
        serving = self._lake.resolve()
        commits = (serving, *(table.commit_version() for table in self._tables.values()))
        if commits != self._commits:
            self._make_views(serving)
            self._commits = commits

    def _load_catalog(self) -> None:
        for name, table in self._lake.catalog.arrow().items():
            self._store(name, table)
            self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS FROM {_STORED}.{name}")

    def _make_views(self, serving: str) -> None:
        for name, table in self._tables.items():
            self._store(name, table.schema.empty_table())
            self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {_select(name, table)}")
        config = self._lake.config
        tokenlake_sql.install(
            self._connection,
            serving=serving,
            embeddings=config.embedding_version if config.embeddings else None,
            labels=tuple(config.events.labels),
        )

    def _store(self, name: str, table: pa.Table) -> None:
        self._connection.register("incoming", table)
        self._connection.execute(f"CREATE OR REPLACE TABLE {_STORED}.{name} AS FROM incoming")
        self._connection.unregister("incoming")


def _select(name: str, table: Table) -> str:
    """SQL that reads a table's files with the columns and types of its schema; columns that older files lack are null.

    Columns are qualified: DuckDB would take a bare column for the parameter of a macro that has the same name.
    """
    columns = ", ".join(f"t.{_name(column)}" for column in table.schema.names)
    empty = f"SELECT * FROM {_STORED}.{name}"
    uris = table.uris()
    if not uris:
        return empty
    files = f"[{', '.join(_quote(uri) for uri in uris)}], union_by_name = true"
    scan = _of_folders(table, files) if "=" in str(table.path) else _partitioned(table, files)
    return f"SELECT {columns} FROM ({empty} UNION ALL BY NAME {scan}) AS t"


def _partitioned(table: Table, files: str) -> str:
    types = ", ".join(f"{key}: {_partition_type(key)}" for key in table.partition_by)
    return f"SELECT * FROM read_parquet({files}, hive_partitioning = true, hive_types = {{{types}}})"


def _of_folders(table: Table, files: str) -> str:
    """As `_partitioned`, for a folder above the table named like `price=3`: DuckDB would read it as a partition column."""
    file = unlike("filename", list(map(folded, table.schema.names)))
    parts = [
        f"regexp_extract({file}, '.*/{key}=([^/]+)/', 1)::{_partition_type(key)} AS {key}" for key in table.partition_by
    ]
    return (
        f"SELECT * EXCLUDE ({file}), {', '.join(parts)} "
        f"FROM read_parquet({files}, hive_partitioning = false, filename = '{file}')"
    )


def _partition_type(key: str) -> str:
    return "DATE" if key == "ds" else "VARCHAR"


class _Guarded:
    """The part of a DuckDB connection that SQLAlchemy needs to run read-only queries."""

    _PASSED = frozenset(
        {"begin", "commit", "rollback", "close", "description", "rowcount", "fetchone", "fetchmany", "fetchall", "df"}
    )

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cursor = database.cursor()

    def execute(self, query: str, parameters: object = None) -> _Guarded:
        if query.strip():
            self._database.cursor().close()  # brings the views up to date
            text = readonly.admit(self._cursor, query)
            with _forbidding():
                self._cursor.execute(text, parameters)
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self._PASSED:
            return getattr(self._cursor, name)
        raise ForbiddenError(f"{name} is not part of a read-only connection; use lake.sql, or the lake's own methods")


@contextmanager
def _forbidding() -> Iterator[None]:
    try:
        yield
    except duckdb.PermissionException as error:
        reason = str(error).split("\n")[0].removeprefix("Permission Error: ")
        raise ForbiddenError(f"{reason}; SQL may read the lake's own tables only") from error


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quote(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"
