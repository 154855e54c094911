"""The check that SQL over a lake only reads.

DuckDB's own settings (`database.py`) keep it from files outside the lake. They don't keep it from writing inside, or
into its memory, and a statement's type is not enough: `WITH x AS (COPY ... RETURNING *) SELECT ...` is a SELECT, and
`EXPLAIN ANALYZE` runs what it explains. So every node of the parsed statement is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from tokenlake.errors import ForbiddenError

#: Pragmas that only read.
PRAGMAS = frozenset({"database_list", "database_size", "show_tables", "show_tables_expanded", "table_info", "version"})
#: Query nodes that only read; the others (INSERT_QUERY_NODE, COPY_QUERY_NODE, ...) write.
_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
#: Functions that run SQL which this module cannot see, read memory by address, change state, or open a file so late
#: that DuckDB, not this module, would refuse it.
_FUNCTIONS = re.compile(
    r"query|query_table|sniff_csv|json_execute_serialized_sql|checkpoint|force_checkpoint|write_log|truncate_duckdb_logs|setval"
    r"|(enable|disable)_\w+|\w*external_resource\w*|(arrow|pandas|python_arrow|seq)_scan\w*|python_map_function"
)
_EXPLAIN = re.compile(r"explain(\s+analyze)?(\s*\([\w\s,]*\))?\s+(?P<explained>.*)", re.IGNORECASE | re.DOTALL)
_PRAGMA = re.compile(r"pragma\s+(?P<name>\w+)", re.IGNORECASE)


def split(connection: duckdb.DuckDBPyConnection, text: str) -> list[str]:
    """Split a text into its statements, and check each of them.

    Raises:
        ForbiddenError: a statement is not a read-only query.
    """
    statements = connection.extract_statements(text)
    for statement in statements:
        _check(connection, statement)
    return [statement.query for statement in statements]


def admit(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """Return the single statement of a text, after checking that it only reads.

    Raises:
        ForbiddenError: no statement, several, or one that is not a read-only query.
    """
    statements = split(connection, text)
    if len(statements) != 1:
        raise ForbiddenError(f"{len(statements)} statements given; ask one question at a time")
    return statements[0]


def _check(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> None:
    text = statement.query
    if statement.type == duckdb.StatementType.SELECT:
        _check_select(connection, text)
    elif statement.type == duckdb.StatementType.EXPLAIN and (match := _EXPLAIN.match(text)):
        _check_select(connection, match["explained"])
    elif statement.type != duckdb.StatementType.PRAGMA or not _is_listed_pragma(text):
        raise _forbidden(statement.type.name)


def _is_listed_pragma(text: str) -> bool:
    match = _PRAGMA.match(text)
    return match is not None and match["name"].lower() in PRAGMAS


def _check_select(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    ((serialized,),) = connection.execute("SELECT json_serialize_sql($1)", [text]).fetchall()
    tree = json.loads(serialized)
    if tree["error"]:  # not a SELECT
        raise _forbidden(text.split(maxsplit=1)[0] if text.strip() else "an empty statement")
    for node in _walk(tree["statements"]):
        kind, function = str(node.get("type", "")), str(node.get("function_name", ""))
        if kind.endswith("_NODE") and kind not in _NODES:
            raise _forbidden(kind.removesuffix("_NODE").removesuffix("_QUERY"))
        if _FUNCTIONS.fullmatch(function.lower()):
            raise _forbidden(f"the function {function}")


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _forbidden(what: str) -> ForbiddenError:
    hint = "; write the values of a PIVOT out: PIVOT x ON y IN (...)" if what == "MULTI" else ""
    return ForbiddenError(
        f"a lake is asked, not changed, and {what} was given; SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, "
        f"EXPLAIN and PRAGMA {', '.join(sorted(PRAGMAS))} are admitted{hint}"
    )
