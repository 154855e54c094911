"""A SQLAlchemy engine over a lake, for notebooks and BI tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from duckdb_sqlalchemy import ConnectionWrapper
from sqlalchemy.pool import NullPool

from tokenlake.errors import ForbiddenError

if TYPE_CHECKING:
    import duckdb

    from tokenlake.lake.database import Database


def engine_of(database: Database) -> sa.Engine:
    """An engine whose connections are behind the fence; each holds temporary tables and settings of its own."""

    def connect() -> ConnectionWrapper:
        return ConnectionWrapper(cast("duckdb.DuckDBPyConnection", _Guarded(database)))

    # Each query is a transaction of its own, since it sees the newest commit.
    return sa.create_engine("duckdb:///:memory:", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")


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
            self._cursor = self._database.run(self._cursor, query, parameters)
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self._PASSED:
            return getattr(self._cursor, name)
        raise ForbiddenError(f"{name} is not part of a read-only connection; use lake.sql, or the lake's own methods")
