"""The fence around SQL over a lake: what a statement names decides, before DuckDB binds it.

A statement is parsed into DuckDB's own tree, and every name of a table and of a function in it is looked at. A table is a
view of the lake, a table of the statement or of the session, or one of DuckDB's own catalogs: never a file. A function is
one that computes: never one that opens a path, runs SQL given as text, or changes a state. So it does not matter which
paths DuckDB would allow; its own settings (`limits.py`) are a second fence behind this one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import duckdb

from tokenlake.errors import ForbiddenError
from tokenlake.lake.sql import lexer

#: Pragmas that only read.
PRAGMAS = frozenset({"database_list", "database_size", "show_tables", "show_tables_expanded", "table_info", "version"})
#: Settings that a session may change; `limits.py` tells how far.
SETTINGS = frozenset({"timezone", "threads", "memory_limit", "max_memory"})
#: Functions in FROM that read neither files nor the process, apart from the lake's macros.
TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns",
        "duckdb_constraints",
        "duckdb_databases",
        "duckdb_dialects",
        "duckdb_functions",
        "duckdb_indexes",
        "duckdb_keywords",
        "duckdb_memory",
        "duckdb_optimizers",
        "duckdb_schemas",
        "duckdb_sequences",
        "duckdb_settings",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_variables",
        "duckdb_views",
        "generate_series",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "pg_timezone_names",
        "pragma_collations",
        "pragma_database_size",
        "pragma_platform",
        "pragma_show",
        "pragma_table_info",
        "pragma_user_agent",
        "pragma_version",
        "range",
        "repeat",
        "repeat_row",
        "summary",
        "test_all_types",
        "test_vector_types",
        "unnest",
    }
)
#: Functions that compute nothing: they take SQL as text, change a state, or wait, which no timeout ends.
_SCALARS = frozenset(
    {
        "json_execute_serialized_sql",
        "json_deserialize_sql",
        "json_serialize_plan",
        "json_serialize_sql",
        "nextval",
        "currval",
        "pg_sleep",
        "setval",
        "sleep_ms",
        "write_log",
    }
)
#: Names that an aggregate has too; their table macro takes a table by its text, so a file as well.
_MACRO_OF_TEXT = frozenset({"histogram"})
#: What lists the lake's views among its rows.
_LISTINGS = re.compile(
    r"duckdb_(?:columns|tables|views|functions|schemas|constraints)|pragma_(?:show|table_info)|sqlite_(?:temp_)?(?:master|schema)"
    r"|tables|views|columns|routines|pg_(?:class|attribute|views|tables|proc|type|namespace)"
)
#: Query nodes that only read; the others (INSERT_QUERY_NODE, COPY_QUERY_NODE, ...) write.
_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
#: A name that DuckDB takes for no file: those have a suffix or a folder.
_NO_FILE = re.compile(r"[^./\\:*?\[\]{}]*")
#: A text in the tree. Those of the statement have escaped quotes, so the keys below are found in none of them.
_TEXT = r'"(?:[^"\\]|\\.)*"'
#: A key of the tree and its value.
_FACT = re.compile(
    rf'"(type|function_name|catalog_name|schema_name|table_name|show_type)":({_TEXT})|"(path)":(\[(?:{_TEXT},?)*\])'
)
_KINDS = "SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, PIVOT, EXPLAIN and PRAGMA " + ", ".join(
    sorted(PRAGMAS)
)
_READS = "a lake is asked, not changed"
#: Reasons for kinds of statements that people try in good faith.
_WHY = {
    "CREATE": f"{_READS}; a session has tables and views of its own: CREATE TEMP TABLE name AS SELECT ...",
    "DROP": f"{_READS}; of your session DROP TABLE NAME drops a table (temp.NAME, if the lake has that name too), and DROP VIEW temp.NAME a view",
    "SET": f"only {', '.join(sorted(SETTINGS))} may be set",
    "TRANSACTION": "every question sees the newest commit",
}
#: What is refused, and why, where a kind of statement holds anything but one SELECT.
_NO_SELECT = {
    "MULTI": (
        "a PIVOT without its values",
        "only one at the top of a question finds them itself; write them out, as in PIVOT x ON y IN ('a', 'b')",
    ),
    "CREATE": (
        "what follows AS",
        "CREATE TEMP TABLE name AS takes one SELECT, and nothing behind it such as WITH NO DATA",
    ),
    "EXPLAIN": ("EXPLAIN {}", "EXPLAIN takes one SELECT"),
}
_SESSION_KINDS = "CREATE TEMP TABLE ... AS, CREATE TEMP VIEW ... AS, DROP TABLE NAME, DROP VIEW temp.NAME, SET and RESET of TimeZone, threads, memory_limit"


@dataclass(frozen=True)
class Admitted:
    """A statement that passed the fence.

    Attributes:
        text: the statement.
        kind: a question, or a statement that changes the asker's own session only.
        tables: last parts of the names of tables in it, and of table macros, in lower case.
        functions: names of functions in it, in lower case.
        lists: whether it lists the views that there are.
        setting: name (in lower case) and value of a SET; the value is empty for a RESET; None for other statements.
        view: whether it makes a view of the session, which names its tables whenever it is asked.
    """

    text: str
    kind: Literal["question", "session"]
    tables: frozenset[str] = field(default_factory=frozenset)
    functions: frozenset[str] = field(default_factory=frozenset)
    lists: bool = False
    setting: tuple[str, str] | None = None
    view: bool = False


class Fence:
    """Admits statements over one DuckDB, for any number of threads.

    Args:
        connection: a connection to it, which parses and runs nothing of a statement.
        views: names of the lake's views and tables.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, views: Iterable[str]) -> None:
        self._connection = connection
        listed = connection.execute(
            "SELECT lower(function_name) FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
        )
        self._refused = ({name for (name,) in listed.fetchall()} - TABLE_FUNCTIONS) | _SCALARS
        internal = connection.execute("SELECT lower(view_name) FROM duckdb_views() WHERE internal")
        self._qualified = {name for (name,) in internal.fetchall()} | {name.lower() for name in views}

    def split(self, text: str) -> list[Admitted]:
        """Split a text into its statements.

        Raises:
            ForbiddenError: one of them is not admitted.
            duckdb.Error: it cannot be parsed.
        """
        cursor = self._connection.cursor()
        return [self._admit(cursor, each) for each in cursor.extract_statements(text)]

    def admit(self, text: str) -> Admitted:
        """The one statement of a text.

        Raises:
            ForbiddenError: no statement, several, or one that is not admitted.
            duckdb.Error: it cannot be parsed.
        """
        cursor = self._connection.cursor()
        count, tree = _tree(cursor, lexer.shortened(text))
        if count == 1:
            return self._question(text, tree)
        admitted = [self._admit(cursor, each) for each in cursor.extract_statements(text)]
        if len(admitted) != 1:
            raise ForbiddenError(
                f"{len(admitted) or 'no'} statement{'s' * bool(admitted)} given; ask one question at a time"
            )
        return admitted[0]

    def _admit(self, cursor: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> Admitted:
        text, kind = statement.query, _kind(statement)
        if kind == "SELECT":
            return self._select(cursor, text, text, kind)
        if kind == "EXPLAIN":
            return self._select(cursor, text, _explained(text), kind)
        if kind == "MULTI":
            return self._select(cursor, text, lexer.with_pivot_values(text), kind)
        if kind == "PRAGMA" and (pragma := _pragma(text)) in PRAGMAS:
            return Admitted(text, "question", lists=pragma != "version")
        if kind == "SET" and (setting := _setting(text))[0] in SETTINGS:
            return Admitted(text, "session", setting=setting)
        if kind == "CREATE" and (made := _made(text)) is not None:
            inner = self._select(cursor, text, made[1], kind)
            return replace(inner, kind="session", view=made[0] == "view")
        if kind == "DROP" and self._drops_temp(text):
            return Admitted(text, "session")
        raise _forbidden(_named(kind, text), _WHY.get(kind, _READS))

    def _drops_temp(self, text: str) -> bool:
        """Whether a DROP can only mean something of the session: `temp.x`, or one table that has no name of a view."""
        words = [word for word in _words(text) if word != ";"]
        i = 4 if words[2:4] == ["if", "exists"] else 2
        temp = words[1:2] in (["table"], ["view"]) and words[i : i + 2] == ["temp", "."] and len(words) == i + 3
        own = words[1:2] == ["table"] and len(words) == i + 1 and words[i].strip('"').lower() not in self._qualified
        return temp or own

    def _select(self, cursor: duckdb.DuckDBPyConnection, text: str, select: str, kind: str) -> Admitted:
        count, tree = _tree(cursor, lexer.shortened(select))
        if count == 1:
            return self._question(text, tree)
        begins = "".join(_words(select)[:1]).upper()
        what, why = _NO_SELECT.get(kind, (begins, _READS))
        raise _forbidden(what.format(begins).strip(), why)

    def _question(self, text: str, tree: str) -> Admitted:
        """What a tree of one SELECT names, each name checked; DuckDB writes a table's schema right before its name."""
        tables, functions, lists, schema, in_from = set[str](), set[str](), False, "", False
        for match in _FACT.finditer(tree):
            key, value = match[1] or match[3], json.loads(match[2] or match[4])
            if key == "type":
                _check_node(value)
                in_from |= value == "TABLE_FUNCTION"
            elif key == "function_name":
                functions.add(self._function(value, in_from=in_from))
                in_from = False
            elif key == "table_name":
                tables.add(self._table(schema, value))
            elif key == "path":
                _check_path(value)
            elif key != "show_type":
                _check_no_file(value)
            lists |= key == "show_type" and value == "SHOW_SPECIAL"
            schema = value if key == "schema_name" else ""
        lists |= any(_LISTINGS.fullmatch(name) for name in functions | tables)
        return Admitted(text, "question", frozenset(tables), frozenset(functions), lists)

    def refuses(self, function: str, *, in_from: bool = False) -> bool:
        """Whether a function is refused where it stands, in FROM or in an expression."""
        name = function.lower()
        return name in self._refused and (in_from or name not in _MACRO_OF_TEXT)

    def _function(self, name: str, *, in_from: bool) -> str:
        if self.refuses(name, in_from=in_from):
            raise _forbidden(
                f"the function {name}", "it opens files, takes SQL or a table as text, changes something, or waits"
            )
        return name.lower()

    def _table(self, schema: str, name: str) -> str:
        """Check a table's name: DuckDB would open `x.csv`, and `main.csv` too where there is no such table."""
        lower = name.lower()
        if schema and lower not in self._qualified:
            raise _forbidden(
                f"{schema}.{name} in FROM",
                "it is no view of this lake, SQL reads no files, and a temporary table is named without a schema",
            )
        _check_no_file(name)
        return lower


def _kind(statement: duckdb.Statement) -> str:
    try:
        return statement.type.name
    except ValueError:  # a kind that DuckDB has and its Python module has no name for
        return statement.query.split(maxsplit=1)[0].upper()


def _tree(cursor: duckdb.DuckDBPyConnection, text: str) -> tuple[int, str]:
    """How many SELECTs a text has, and DuckDB's tree of them as JSON; 0 where it holds anything else."""
    query = "SELECT json_array_length(tree, '$.statements'), tree::VARCHAR FROM (SELECT json_serialize_sql($1) AS tree)"
    count, tree = cursor.execute(query, [text]).fetchall()[0]
    return count or 0, tree


def _check_node(kind: str) -> None:
    if kind.endswith("_NODE") and kind not in _NODES:
        raise _forbidden(kind.removesuffix("_NODE").removesuffix("_QUERY"))


def _words(text: str) -> list[str]:
    return [token.text if token.quoted else token.text.lower() for token in lexer.tokens(text)]


def _check_no_file(name: str) -> None:
    if not _NO_FILE.fullmatch(name):
        raise _forbidden(f"{name!r} in FROM", "SQL reads the lake's views, and no files")


def _check_path(path: list[str]) -> None:
    """Check a name of many parts, of which `catalog_name` and `schema_name` tell two only."""
    for part in path if len(path) > 3 else ():
        _check_no_file(part)


def _named(kind: str, text: str) -> str:
    """A statement as its refusal names it."""
    return " ".join([kind, *_setting(text)[:1]]) if kind == "SET" else kind


def _explained(text: str) -> str:
    """What an EXPLAIN explains; empty where that isn't clear."""
    found = lexer.tokens(text)
    words = ["" if token.quoted else token.text.lower() for token in found]
    if words[0] != "explain":
        return ""
    i = 1 + (words[1] == "analyze")
    if words[i] == "(" and words[i + 1] in {"analyze", "format"}:  # no query begins like that
        i = words.index(")") + 1
    return text.encode()[found[i].start :].decode()


def _pragma(text: str) -> str:
    return "".join(_words(text)[1:2])


def _setting(text: str) -> tuple[str, str]:
    """Name and value that a SET or RESET names."""
    said = [token.text.strip("\"'") for token in lexer.tokens(text) if token.text != ";"]
    words = [word.lower() for word in said]
    if words[1:3] == ["time", "zone"]:
        return "timezone", "".join(said[3:])
    i = 2 if words[1:2] in (["session"], ["global"]) else 1
    return "".join(words[i : i + 1]), "" if words[0] == "reset" else "".join(said[i + 2 :])


def _made(text: str) -> tuple[str, str] | None:
    """`table` or `view`, and the SELECT, of a `CREATE TEMP TABLE name AS SELECT`; None for any other CREATE."""
    found = lexer.tokens(text)
    words = _words(text)
    i = 3 if words[1:3] == ["or", "replace"] else 1
    if words[i : i + 1] not in (["temp"], ["temporary"]) or words[i + 1 : i + 2] not in (["table"], ["view"]):
        return None
    name = i + (5 if words[i + 2 : i + 5] == ["if", "not", "exists"] else 2)
    # One name without a schema: a table in another schema would be none of the session.
    if words[name + 1 : name + 2] != ["as"] or len(words) < name + 3:
        return None
    return words[i + 1], text.encode()[found[name + 2].start :].decode()


def _forbidden(what: str, why: str = _READS) -> ForbiddenError:
    return ForbiddenError(
        f"{what} is not admitted: {why}. Admitted are {_KINDS}; and for your session {_SESSION_KINDS}"
    )
