"""The views of a lake in DuckDB: each is created when a statement names it, and again after a commit to its table."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import duckdb

import tokenlake_sql
from tokenlake.lake.sql import scan
from tokenlake.lake.sql.counts import COUNTS, definitions_of
from tokenlake_sql import Definition, Filling

if TYPE_CHECKING:
    from tokenlake.lake.project import Project

#: Tables of the lake, which are views in SQL.
TABLES = {
    "events": "Every accepted event, its features, and its labels with the instant from which each may be seen.",
    "quarantine": "Refused rows, with the reason.",
    "instance_tokens": "Every token of every version, with the checkpoint that made it.",
    "predictions": "Probabilities of the source models.",
    "user_embeddings": "A vector per user, day and version, and since when it was available.",
    "item_embeddings": "A vector per item, day and version, and since when it was available.",
    "edges": "The graph of similar users; a user's weights sum to 1.",
    "user_statistics": "What each user did lately, a row a day, and since when it was available.",
}
#: Tables of the catalog, which are views in SQL too.
CATALOG = {
    "runs": "What ran: a row per try of a job.",
    "artefacts": "What the runs wrote.",
    "metrics": "What the runs measured.",
    "versions": "Versions of the token encoders.",
    "plans": "Which checkpoint encodes which day.",
    "checkpoints": "Trained models.",
    "index_versions": "Indexes and graphs that were built.",
    "reruns": "Days that must run again, and why.",
}
_DEFINITIONS = tokenlake_sql.definitions()
#: Names of all views.
NAMES = (*TABLES, *CATALOG, *(name for name, each in _DEFINITIONS.items() if each.kind == "view"))


class Views:
    """The views and macros of one lake in one DuckDB. Not for several threads at a time.

    Args:
        lake: an open lake.
        connection: a connection to the DuckDB.
    """

    def __init__(self, lake: Project, connection: duckdb.DuckDBPyConnection) -> None:
        self._lake = lake
        self._connection = connection
        self._definitions = {**_DEFINITIONS, **definitions_of(lake.config)}
        #: State of what each view and macro was created from.
        self._made: dict[str, object] = {}
        connection.execute(f"CREATE SCHEMA {scan.STORED}; CREATE SCHEMA answers; CREATE SCHEMA {COUNTS}")

    def make_all(self) -> None:
        """Create whatever there is, and what is out of date again."""
        self.make(NAMES, [name for name, each in self._definitions.items() if each.kind == "macro"])

    def make(self, views: Iterable[str], macros: Iterable[str]) -> None:
        """Create the views and macros of these names and what they use, where they are not there or out of date.

        Args:
            views: names of tables in a statement; others than the lake's are left alone.
            macros: names of functions in it, likewise.
        """
        seen = dict[str, object]()
        for name in views:
            self._make(name, seen, macro=False)
        for name in macros:
            self._make(name, seen, macro=True)
            self._make(f"{COUNTS}.{name}", seen, macro=True)

    def _make(self, name: str, seen: dict[str, object], *, macro: bool) -> object:
        """Create one of them; returns what it was created from, None where it is none of the lake's."""
        key = f"{name}()" if macro else name
        if key in seen:
            return seen[key]
        seen[key] = None
        definition = self._definitions.get(name)
        if definition is not None and macro == (definition.kind == "macro"):
            seen[key] = self._define(key, definition, seen)
        elif not macro and name in TABLES:
            seen[key] = self._view_table(name)
        elif not macro and name in CATALOG:
            seen[key] = self._load_catalog()
        return seen[key]

    def _view_table(self, name: str) -> object:
        table = getattr(self._lake, name)
        commit = (table.commit_version(),)
        if self._made.get(name) != commit:
            self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {scan.select(self._connection, name, table)}")
            self._made[name] = commit
        return commit

    def _load_catalog(self) -> object:
        stamp = self._lake.catalog.stamp()
        if stamp is None or self._made.get("catalog") != stamp:
            for name, rows in self._lake.catalog.arrow().items():
                scan.store(self._connection, name, rows)
                self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS FROM {scan.STORED}.{name}")
            self._made["catalog"] = stamp
        return "catalog"

    def _define(self, key: str, definition: Definition, seen: dict[str, object]) -> object:
        used = [
            self._make(word, seen, macro=macro)
            for word in sorted(definition.uses)
            for macro in (False, True)
            if word != definition.name or macro != (definition.kind == "macro")
        ]
        statement = tokenlake_sql.filled(definition, self._filling)
        if self._made.get(key) != (statement, used):
            self._connection.execute(statement)
            self._made[key] = statement, used
        return statement, used

    @cached_property
    def _filling(self) -> Filling:
        lake, config = self._lake, self._lake.config
        return Filling(
            serving=lake.resolve,
            embeddings=config.embedding_version if config.embeddings else None,
            labels=tuple(config.events.labels),
            columns=lambda: (*lake.events.schema.names, *lake.instance_tokens.schema.names),
            user_type=lambda: self._type("user_id"),
            item_type=lambda: self._type("item_id"),
        )

    def _type(self, column: str) -> str:
        return scan.types(self._lake.events.schema)[column]
