"""Read the `.sql` files and hand them to DuckDB."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

_HERE = Path(__file__).parent
_PARAMETER = re.compile(r"\$(?P<name>\w+) = (?P<default>.+?): (?P<meaning>.+)")


@dataclass(frozen=True)
class Parameter:
    """A `$name` of a saved query; a `default` of None lets the query choose."""

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Query:
    """A saved query.

    Attributes:
        name: the file's name.
        title: one line.
        description: what it shows, and how to read it.
        sql: the statement, with `$name` parameters that take text.
    """

    name: str
    title: str
    description: str
    sql: str
    parameters: tuple[Parameter, ...] = field(default=())

    def bind(self, values: Mapping[str, str] | None = None) -> dict[str, str | None]:
        """Values of all parameters: the given ones, else the defaults.

        Args:
            values: parameter -> its value as text; None: none are given.

        Returns:
            Every parameter of the query; None where it has neither.

        Raises:
            KeyError: a value for no parameter of this query.
        """
        known = {p.name: p.default for p in self.parameters}
        if unknown := sorted((values or {}).keys() - known.keys()):
            raise KeyError(f"query {self.name!r} has no parameters {unknown}; it has {sorted(known) or 'none'}")
        return known | dict(values or {})


@functools.cache
def queries() -> Mapping[str, Query]:
    """All saved queries by name.

    >>> queries()["days"].title
    'Every day at a glance'
    """
    return {path.stem: _parse(path.stem, path.read_text("utf-8")) for path in sorted((_HERE / "queries").glob("*.sql"))}


def _parse(name: str, text: str) -> Query:
    """Read the header: a title, a description, then `$name = default: meaning` lines; `null` lets the query choose."""
    lines = text.splitlines()
    size = next(i for i, line in enumerate(lines) if not line.startswith("--"))
    title, *rest = [line.removeprefix("--").strip() for line in lines[:size]]
    found = [(line, _PARAMETER.fullmatch(line)) for line in rest]
    parameters = tuple(
        Parameter(m["name"], None if m["default"] == "null" else m["default"], m["meaning"]) for _, m in found if m
    )
    description = " ".join(line for line, match in found if not match)
    return Query(name, title, description, "\n".join(lines[size:]).strip(), parameters)


def install(
    connection: duckdb.DuckDBPyConnection, *, serving: str, embeddings: str | None, labels: Sequence[str]
) -> None:
    """Make the derived views and the macros, or make them anew.

    Args:
        connection: has the lake's tables as views: `events`, `instance_tokens`, `runs`, ...
        serving: the version that `serving_tokens` and `tokens_before` read.
        embeddings: the version that `serving_embeddings`, `embedding_as_of` and `neighbors` read; None for none.
        labels: names of the labels, each of which has a column `<label>` and a column `<label>_known_at`.
    """
    types = {name: kind for table in ("events", "instance_tokens") for name, kind in _columns(connection, table)}
    own = _beginning(types)
    fill = {
        "serving": _quote(serving),
        "embeddings": "NULL" if embeddings is None else _quote(embeddings),
        "labels": _labels(labels),
        "own": own,
        "masked": _masked(labels, f"{own}t"),
        "own_user": _given_user(f"{own}user", types["user_id"]),
        "user": _given_user("user", types["user_id"]),
    }
    for name in ("views.sql", "macros.sql"):
        text = (_HERE / name).read_text("utf-8")
        connection.execute(re.sub(r"/\*\{(\w+)\}\*/", lambda match: fill[match[1]], text))


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    """Names and types of a table's columns."""
    return [(name, kind) for name, kind, *_ in connection.execute(f"DESCRIBE {table}").fetchall()]


def _beginning(columns: Iterable[str]) -> str:
    """What no column's name begins with, in any capitals."""
    own = "asked "
    while any(name.lower().startswith(own) for name in columns):
        own += " "
    return own


def _given_user(user: str, kind: str) -> str:
    """SQL that casts a macro's parameter `user` to this lake's id type; null, which matches no user, if it is not valid.

    DuckDB's own cast would round a fraction to another user's id, and ignore blanks.
    """
    text = f"{_name(user)}::VARCHAR"
    if kind == "VARCHAR":
        return text
    return f"CASE WHEN regexp_full_match({text}, '[+-]?[0-9]+([.]0*)?') THEN TRY_CAST({text} AS {kind}) END"


def _labels(labels: Sequence[str]) -> str:
    columns = "SELECT e.event_id, e.user_id, e.item_id, e.timestamp, e.ds,"
    parts = [
        f"{columns} {_quote(name)} AS label, e.{_name(name)} AS value, e.{_name(name + '_known_at')} AS known_at "
        "FROM events AS e"
        for name in labels
    ]
    none = f"{columns} NULL::VARCHAR AS label, NULL::TINYINT AS value, NULL::TIMESTAMPTZ AS known_at FROM events AS e LIMIT 0"
    return " UNION ALL ".join(parts) or none


def _masked(labels: Sequence[str], t: str) -> str:
    """SQL that hides labels not known before the parameter `t`, and their instants, which would reveal them."""
    parts = [
        f"CASE WHEN e.{_name(name + '_known_at')} < {_name(t)}::TIMESTAMPTZ THEN e.{_name(column)} END AS {_name(column)}"
        for name in labels
        for column in (name, f"{name}_known_at")
    ]
    return f"REPLACE ({', '.join(parts)})" if parts else ""


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
