"""Read the `.sql` files."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
    return {path.stem: parse(path.stem, path.read_text("utf-8")) for path in sorted((_HERE / "queries").glob("*.sql"))}


def parse(name: str, text: str) -> Query:
    """Read a saved query.

    Args:
        name: its name.
        text: comments (a title, a description, then `$name = default: meaning` lines; `null` lets the query choose), an
            empty line, and the statement; without the comments, the statement alone.

    Returns:
        The query.
    """
    lines = text.strip().split("\n")
    size = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
    title, *rest = [line.removeprefix("--").strip() for line in lines[:size]] or [""]
    found = [(line, _PARAMETER.fullmatch(line)) for line in rest]
    parameters = tuple(
        Parameter(m["name"], None if m["default"] == "null" else m["default"], m["meaning"]) for _, m in found if m
    )
    description = " ".join(line for line, match in found if not match)
    return Query(name, title, description, "\n".join(lines[size:]).strip(), parameters)


@dataclass(frozen=True)
class Definition:
    """A view or macro that a lake's database has beside the views of its tables.

    Attributes:
        name: its name; macros that only others use stand in the schema `answers`.
        kind: what it is.
        signature: name and parameters of a macro, as one calls it; the name of a view.
        doc: what it gives, in a few sentences; empty where only other definitions use it.
        sql: the statement that creates it, with places that `filled` fills.
        uses: words of the statement: names of tables, views and macros are among them.
    """

    name: str
    kind: Literal["view", "macro"]
    signature: str
    doc: str
    sql: str
    uses: frozenset[str]


@functools.cache
def definitions() -> Mapping[str, Definition]:
    """All views and macros by name.

    >>> definitions()["known"].signature
    'known(value, known_at, t)'
    """
    texts = [(_HERE / name).read_text("utf-8") for name in ("views.sql", "macros.sql")]
    found = [_definition(text) for whole in texts for text in re.split(r"(?<=;)\n+", whole) if "CREATE OR" in text]
    return {each.name: each for each in found}


def _definition(text: str) -> Definition:
    comments, create, body = text.partition("CREATE OR REPLACE ")
    found = re.match(r"(?P<kind>VIEW|MACRO) (?P<name>[\w.]+)(?P<parameters>\(.*?\))?", body, re.DOTALL)
    if found is None:
        raise ValueError(f"no view or macro: {text[:60]!r}")
    own = comments.rpartition("\n\n")[2]  # what stands further above is said of the whole file
    doc = " ".join(line.removeprefix("--").strip() for line in own.splitlines())
    signature = found["name"] + (found["parameters"] or "").replace('"', "")
    uses = frozenset(re.findall(r"[\w.]+", body[found.end() :]))
    return Definition(
        found["name"], "view" if found["kind"] == "VIEW" else "macro", signature, doc, create + body.strip(), uses
    )


@dataclass(frozen=True)
class Filling:
    """What the definitions of one lake say in their places; functions are called only where a definition needs them.

    Attributes:
        serving: the version that `serving_tokens` and `tokens_before` read.
        embeddings: the version that `serving_embeddings`, `embedding_as_of` and `neighbors` read; None for none.
        labels: names of the labels, each of which has a column `<label>` and a column `<label>_known_at`.
        columns: names of the columns of events and tokens.
        user_type: DuckDB's name of the type of user ids.
        item_type: that of item ids.
    """

    serving: Callable[[], str]
    embeddings: str | None
    labels: tuple[str, ...]
    columns: Callable[[], Sequence[str]]
    user_type: Callable[[], str]
    item_type: Callable[[], str]


def filled(definition: Definition, filling: Filling) -> str:
    """The statement that creates a view or macro in one lake's database.

    Args:
        definition: one of `definitions()`.
        filling: what this lake puts into its places.

    Returns:
        SQL for a connection that has everything that the definition uses.
    """
    fill: dict[str, Callable[[], str]] = {
        "serving": lambda: quote(filling.serving()),
        "embeddings": lambda: "NULL" if filling.embeddings is None else quote(filling.embeddings),
        "labels": lambda: _labels(filling.labels),
        "own": lambda: _beginning(filling.columns()),
        "masked": lambda: _masked(filling.labels, f"{_beginning(filling.columns())}t"),
        "own_user": lambda: _given_id(f"{_beginning(filling.columns())}user", filling.user_type()),
        "own_item": lambda: _given_id(f"{_beginning(filling.columns())}item", filling.item_type()),
        "user": lambda: _given_id("user", filling.user_type()),
    }
    return re.sub(r"/\*\{(\w+)\}\*/", lambda match: fill[match[1]](), definition.sql)


def _beginning(columns: Iterable[str]) -> str:
    """What no column's name begins with, in any capitals."""
    own = "asked "
    while any(name.lower().startswith(own) for name in columns):
        own += " "
    return own


def _given_id(parameter: str, kind: str) -> str:
    """SQL that casts a macro's parameter to this lake's type of ids; null, which matches none, if it is not valid.

    DuckDB's own cast would round a fraction to another id, and ignore blanks.
    """
    text = f"{quote_name(parameter)}::VARCHAR"
    if kind == "VARCHAR":
        return text
    return f"CASE WHEN regexp_full_match({text}, '[+-]?[0-9]+([.]0*)?') THEN TRY_CAST({text} AS {kind}) END"


def _labels(labels: Sequence[str]) -> str:
    columns = "SELECT e.event_id, e.user_id, e.item_id, e.timestamp, e.ds,"
    parts = [
        f"{columns} {quote(name)} AS label, e.{quote_name(name)} AS value, e.{quote_name(name + '_known_at')} AS known_at "
        "FROM events AS e"
        for name in labels
    ]
    none = f"{columns} NULL::VARCHAR AS label, NULL::TINYINT AS value, NULL::TIMESTAMPTZ AS known_at FROM events AS e LIMIT 0"
    return " UNION ALL ".join(parts) or none


def _masked(labels: Sequence[str], t: str) -> str:
    """SQL that hides labels not known before the parameter `t`, and their instants, which would reveal them."""
    parts = [
        f"CASE WHEN e.{quote_name(name + '_known_at')} < {quote_name(t)}::TIMESTAMPTZ THEN e.{quote_name(column)} END AS {quote_name(column)}"
        for name in labels
        for column in (name, f"{name}_known_at")
    ]
    return f"REPLACE ({', '.join(parts)})" if parts else ""


def quote_name(name: str) -> str:
    """A name as SQL writes it, whatever its characters."""
    return '"' + name.replace('"', '""') + '"'


def quote(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
