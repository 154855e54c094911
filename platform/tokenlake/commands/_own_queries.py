"""Saved queries: those of Tokenlake, and a lake's own in its folder `queries`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

import tokenlake_sql
from tokenlake.commands._messages import fitted
from tokenlake.commands._questions import assignments, text_of
from tokenlake.errors import NotFoundError, SchemaError
from tokenlake.storage import atomic
from tokenlake_sql import Query

_FOLDER = "queries"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def saved_queries(root: Path) -> dict[str, Query]:
    """Saved queries by name: Tokenlake's, then the lake's own.

    Args:
        root: folder of a lake.

    Raises:
        SchemaError: a file of the lake's is not UTF-8.
    """
    return dict(tokenlake_sql.queries()) | own_queries(root)


def own_queries(root: Path) -> dict[str, Query]:
    """The lake's own saved queries by name; one may not have the name of one of Tokenlake's."""
    files = [path for path in sorted((root / _FOLDER).glob("*.sql")) if _NAME.fullmatch(path.stem)]
    taken = tokenlake_sql.queries()
    return {path.stem: tokenlake_sql.parse(path.stem, text_of(path)) for path in files if path.stem not in taken}


def bound(root: Path, name: str, given: Iterable[str]) -> tuple[str, dict[str, str | None] | None]:
    """Question and parameters of a saved query.

    Args:
        root: folder of a lake.
        name: name of the query.
        given: texts `name=value`; the other parameters have their defaults.

    Raises:
        NotFoundError: there is no such query or parameter.
        SchemaError: a text without `=`.
    """
    saved = saved_queries(root)
    if name not in saved:
        raise NotFoundError(f"no saved query {name!r}; there are {', '.join(saved)}")
    try:
        values = saved[name].bind(assignments(given))
    except KeyError as error:
        raise NotFoundError(str(error.args[0])) from None
    return saved[name].sql, values or None


def path_of(root: Path, name: str) -> Path:
    """The file of a saved query of the lake's own.

    Raises:
        SchemaError: a name that is no identifier, or that one of Tokenlake's queries has.
    """
    if not _NAME.fullmatch(name):
        raise SchemaError(f"{name!r} names no query; take letters, digits and _, a letter first")
    if name in tokenlake_sql.queries():
        raise SchemaError(f"{name!r} is one of Tokenlake's own queries; take another name")
    return root / _FOLDER / f"{name}.sql"


def save(file: Path, title: str, question: str, defaults: Mapping[str, str | None]) -> None:
    """Write a saved query, whole or not at all.

    Args:
        file: one of `path_of`; an older one is replaced.
        title: one line that says what it asks.
        question: one statement.
        defaults: parameter -> the value that it has where none is given; None lets the query choose.

    Raises:
        SchemaError: a value that cannot stand in a line of comment.
    """
    lines = [f"-- {' '.join(title.split())}"]
    for name, value in sorted(defaults.items()):
        if value is not None and (": " in value or not value.isprintable() or value in {"", "null"}):
            raise SchemaError(f"{value!r} can be no default of ${name}; choose another with .param, and ask again")
        lines.append(f"-- ${name} = {'null' if value is None else value}: as given when it was saved")
    file.parent.mkdir(exist_ok=True)
    atomic.write(file, "\n".join([*lines, "", question.strip().rstrip(";").rstrip(), ""]))


def facts(queries: Iterable[Query]) -> list[dict[str, Any]]:
    """Saved queries for programs (docs/cli.md)."""
    return [
        {
            "name": query.name,
            "title": query.title,
            "parameters": [
                {"name": each.name, "default": each.default, "meaning": each.meaning} for each in query.parameters
            ],
        }
        for query in queries
    ]


def print_queries(queries: Iterable[Query]) -> None:
    """Print saved queries with their parameters, for people."""
    for line in _lines(queries):
        click.echo(fitted(line, sys.stdout, hanging=24))


def _lines(queries: Iterable[Query]) -> Iterator[str]:
    for query in queries:
        yield f"{query.name:<20}{' ' * (len(query.name) >= 20)}{query.title}".rstrip()
        for each in query.parameters:
            yield f"{'':<20}  {each.name}={each.default or '...'}  {each.meaning}"
