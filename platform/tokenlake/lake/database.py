"""`Database`: the lake's tables and catalog as DuckDB views, read-only, and always of the newest commit."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb

import tokenlake_sql
from tokenlake.errors import ForbiddenError
from tokenlake.lake.sql import limits, scan, sessions
from tokenlake.lake.sql.counts import definitions_of
from tokenlake.lake.sql.fence import Admitted, Fence
from tokenlake.lake.sql.notebook import show_as_html
from tokenlake.lake.sql.views import CATALOG, NAMES, TABLES, Views

if TYPE_CHECKING:
    import sqlalchemy

    from tokenlake.config import Config
    from tokenlake.lake.project import Project

Params: TypeAlias = Sequence[Any] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Object:
    """A view, a macro, or a temporary table.

    Attributes:
        name: its name.
        kind: `view`, `macro`, or `table` for what a session made.
        signature: a macro with its parameters; else the name.
        doc: what it holds or gives.
    """

    name: str
    kind: str
    signature: str
    doc: str


@dataclass(frozen=True)
class Column:
    """A column of a view or of a table.

    Attributes:
        name: its name.
        type: DuckDB's name of its type.
        origin: the column of the source that `tokenlake.yaml` names for it; empty for columns of Tokenlake's own.
    """

    name: str
    type: str
    origin: str


class Database:
    """One in-memory DuckDB over a lake, for one asker or for threads that share it.

    A statement sees the newest commit of each table that it names: views are created when they are named, and again after
    a commit. A relation that was created before the commit, and not fetched yet, still reads the older one.

    Each question has a connection of its own, until a statement makes a temporary table or changes a setting: from then on
    all are asked on one connection, which knows them, and an unfinished answer ends with the next question.

    Args:
        lake: an open lake.
    """

    def __init__(self, lake: Project) -> None:
        self._lake = lake
        self._lock = threading.RLock()
        self._opened: _Opened | None = None
        self._session: duckdb.DuckDBPyConnection | None = None
        self._last: duckdb.DuckDBPyConnection | None = None
        #: Tables and functions that temporary views name: they are asked without being named again.
        self._named = (frozenset[str](), frozenset[str]())

    @property
    def lake(self) -> Project:
        """The lake that is asked."""
        return self._lake

    def sql(self, query: str, params: Params = None) -> duckdb.DuckDBPyRelation | None:
        """Run one statement.

        Args:
            query: a SELECT (or WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, PIVOT), an EXPLAIN, a pragma that only reads,
                or a statement that changes this session only (docs/sql.md).
            params: values of `?` or `$name` in the query.

        Returns:
            A lazy relation: `.fetchall()`, `.df()`, `.to_arrow_table()`, `.to_arrow_reader()`; None for a statement that
            has no answer, such as a temporary table or SET.

        Raises:
            ForbiddenError: a statement of another kind, several statements, a file, a function that reads files, or a SET
                beyond what tokenlake.yaml admits.
            duckdb.Error: SQL that DuckDB cannot understand or run.
        """
        with self._lock:
            asked = self._open().fence.admit(query)
            connection = self._last = self._connection_for(asked)
        with self._telling_more():
            if asked.kind == "session":
                connection.execute(limits.within(asked, self._lake.config.sql), params)
                return None
            relation = connection.sql(asked.text) if params is None else connection.sql(asked.text, params=params)
        show_as_html(relation)
        return relation

    def done(self) -> duckdb.DuckDBPyRelation:
        """The answer of a statement that has none: one row, `done`."""
        return self._open().connection.cursor().sql("SELECT true AS done")

    def interrupt(self) -> None:
        """Stop the running query; called from another thread."""
        if self._last is not None:
            self._last.interrupt()

    def progress(self) -> float:
        """How far the running query is, in percent; -1.0 where that is not known."""
        return -1.0 if self._last is None else float(self._last.query_progress())

    def split(self, text: str) -> list[str]:
        """Split a text into its statements, and check every one.

        Raises:
            ForbiddenError: one of them is not admitted.
            duckdb.Error: the text cannot be parsed.
        """
        statements = self._open().fence.split(text)
        for each in statements:
            limits.within(each, self._lake.config.sql)
        return [each.text for each in statements]

    def objects(self) -> list[Object]:
        """Views and macros that there are, and the session's own tables and views, by name."""
        found = [Object(name, "view", name, doc) for name, doc in (TABLES | CATALOG).items()]
        found += [
            Object(each.name, each.kind, each.signature, each.doc)
            for each in (*tokenlake_sql.definitions().values(), *definitions_of(self._lake.config).values())
            if not each.name.startswith("answers.")
        ]
        if self._session is not None:
            own = (
                "SELECT table_name FROM duckdb_tables() WHERE temporary "
                "UNION ALL SELECT view_name FROM duckdb_views() WHERE temporary AND NOT internal"
            )
            found += [Object(name, "table", name, "") for (name,) in self._session.execute(own).fetchall()]
        # The lake's own, then the session's, then macros.
        return sorted(found, key=lambda each: (["view", "table", "macro"].index(each.kind), each.name))

    def columns(self, name: str) -> list[Column]:
        """Columns of a view, or of a temporary table.

        Raises:
            duckdb.CatalogException: there is none of that name.
        """
        with self._lock:
            described = f"SELECT column_name, column_type FROM (DESCRIBE {scan.quoted_name(name)})"
            connection = self._connection_for(self._open().fence.admit(described))
            origins = origins_of(self._lake.config)
            return [
                Column(column, kind, origins.get(column, ""))
                for column, kind in connection.execute(described).fetchall()
            ]

    def engine(self) -> sqlalchemy.Engine:
        """A SQLAlchemy engine over the same views, as read-only as `sql`."""
        from tokenlake.lake.sql.engine import engine_of

        return engine_of(self)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for `run`, or for our own SQL: it has no fence, and only the views that were made already."""
        return self._open().connection.cursor()

    def run(self, connection: duckdb.DuckDBPyConnection, query: str, params: Any = None) -> duckdb.DuckDBPyConnection:
        """Run one statement on a connection of `cursor`; errors are those of `sql`.

        Returns:
            The connection, which holds the answer; another one, to go on with, after a folder of the lake was moved.
        """
        with self._lock:
            asked = self._open().fence.admit(query)
            self._make_views(asked)
            connection = self._current(connection)
        with self._telling_more():
            text = asked.text if asked.kind == "question" else limits.within(asked, self._lake.config.sql)
            return connection.execute(text, params)

    @contextmanager
    def _telling_more(self) -> Iterator[None]:
        """Turn DuckDB's own refusals into Tokenlake errors, and name the lake's views where it misses one."""
        try:
            yield
        except duckdb.PermissionException as error:
            reason = str(error).split("\n")[0].removeprefix("Permission Error: ")
            raise ForbiddenError(f"{reason}; SQL may read the lake's own tables only") from error
        except (duckdb.OutOfMemoryException, duckdb.InterruptException) as error:
            raise type(error)(limits.explained(error)) from error
        except duckdb.CatalogException as error:
            raise duckdb.CatalogException(_naming_views(str(error))) from error

    def _connection_for(self, asked: Admitted) -> duckdb.DuckDBPyConnection:
        self._make_views(asked)
        if self._session is not None:
            return self._session
        connection = sessions.begin(self._open().connection)
        if asked.kind == "session":
            self._session = connection
        return connection

    def _make_views(self, asked: Admitted) -> None:
        opened = self._open()
        links = limits.links(self._lake.data / "tables")
        if asked.tables or asked.functions or asked.lists:
            limits.check_links(links)
        if not limits.folders(self._lake.data / "tables", links) <= opened.folders:
            opened = self._reopen()
        tables, functions = self._named[0] | asked.tables, self._named[1] | asked.functions
        if asked.view:
            self._named = tables, functions
        if asked.lists:
            opened.views.make_all()
        else:
            opened.views.make(tables, functions)

    def _open(self) -> _Opened:
        with self._lock:
            if self._opened is None:
                self._opened = _Opened.over(self._lake)
            return self._opened

    def _reopen(self) -> _Opened:
        """Another DuckDB, which may read the folders that links lead to by now: one that runs can't be told of more."""
        self._opened = None
        opened = self._open()
        if self._session is not None:
            self._session = self._current(self._session)
        return opened

    def _current(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        """A connection to the DuckDB of now, with all that a connection to an older one holds."""
        opened = self._open()
        if sessions.home(connection) == sessions.home(opened.connection):
            return connection
        opened.views.make(*self._named)
        new = sessions.begin(opened.connection)
        sessions.move(connection, new)
        return new


@dataclass(frozen=True)
class _Opened:
    """A DuckDB over a lake, with what it may read."""

    connection: duckdb.DuckDBPyConnection
    fence: Fence
    views: Views
    folders: frozenset[Path]

    @classmethod
    def over(cls, lake: Project) -> _Opened:
        folders = limits.folders(lake.data / "tables", limits.links(lake.data / "tables"))
        connection = limits.connect(lake.config.sql, folders)
        return cls(connection, Fence(connection, NAMES), Views(lake, connection), folders)


def origins_of(config: Config) -> dict[str, str]:
    """The source's column behind each column of the views, where `tokenlake.yaml` names one."""
    events = config.events
    own = {"event_id": events.id or "", "user_id": events.user, "item_id": events.item, "timestamp": events.timestamp}
    features = {name: feature.column or name for name, feature in events.features.items()}
    known = {f"{name}_known_at": label.known_at or "" for name, label in events.labels.items()}
    return own | features | {name: name for name in events.labels} | known


def _naming_views(text: str) -> str:
    """DuckDB's error of a missing table, with a suggestion among all views: it knows those alone that were named before."""
    missing = re.search(r"Table with name (\S+) does not exist", text)
    if missing is None:
        return text
    near = difflib.get_close_matches(missing[1].lower(), NAMES, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(sorted(NAMES))}."
    return re.sub(r"(does not exist!?)(\nDid you mean .*)?", rf"\1\n{hint}", text, count=1)
