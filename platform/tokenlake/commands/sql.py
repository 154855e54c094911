"""`tokenlake sql`: read-only SQL over a lake."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import lake_argument
from tokenlake.commands._output import FORMATS, format_of, write
from tokenlake.errors import ForbiddenError, SchemaError

if TYPE_CHECKING:
    import duckdb

    from tokenlake.lake.database import Database


@click.command()
@lake_argument
@click.option("-c", "--command", "text", help="Run this SQL, and exit.")
@click.option(
    "-f", "--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Run the SQL in a file."
)
@click.option("-q", "--query", "saved", help="Run a saved query; --queries lists them.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the saved query.")
@click.option("--queries", is_flag=True, help="List the saved queries.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Defaults to the suffix of -o, else a table.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the result to a file.")
@json_option
def command(
    lake: Path,
    text: str | None,
    file: Path | None,
    saved: str | None,
    params: tuple[str, ...],
    form: str | None,
    output: Path | None,
    *,
    queries: bool,
    as_json: bool,
) -> None:
    """Query a lake in SQL, read-only: at a prompt, or with -c, -f or -q.

    \b
    tokenlake sql demo -c "select * from freshness()"
    tokenlake sql demo -q last_tokens -p user=12 -p before=2017-06-01
    tokenlake sql demo -c "from events" -o events.parquet
    """  # noqa: D301  click's mark for "do not wrap" is the character itself
    import duckdb

    import tokenlake
    from tokenlake.commands import _shell
    from tokenlake.lake.database import Database

    if as_json and form not in {None, "json"}:
        raise click.UsageError(f"--json and --format {form} were given together; give one of them")
    if queries:
        if as_json:
            print_json(_saved_queries())
        else:
            _shell.list_queries()
        return
    if sum(given is not None for given in (text, file, saved)) > 1:
        raise click.UsageError("-c, -f and -q were given together; give one of them")
    opened = tokenlake.open(lake)
    _outside(output, opened.data)
    database, form = Database(opened), "json" if as_json else format_of(form, output)

    def show(relation: duckdb.DuckDBPyRelation | None) -> None:
        if relation is not None:
            write(relation, form, output)

    if text is None and file is None and saved is None and sys.stdin.isatty():
        _shell.interact(_shell.Shell(database, show), _views(database))
        return

    def ask() -> None:
        if saved is not None:
            show(_shell.ask_saved(database, saved, params))
        else:
            _ask_all(database, _text(text, file), show, single=output is not None)

    try:
        _shell.interruptible(database, ask)
    except duckdb.Error as error:
        raise click.ClickException(str(error)) from error


def _saved_queries() -> list[dict[str, Any]]:
    import tokenlake_sql

    return [
        {
            "name": query.name,
            "title": query.title,
            "parameters": [
                {"name": each.name, "default": each.default, "meaning": each.meaning} for each in query.parameters
            ],
        }
        for query in tokenlake_sql.queries().values()
    ]


def _text(text: str | None, file: Path | None) -> str:
    if text is not None:
        return text
    return file.read_text("utf-8") if file is not None else sys.stdin.read()


def _ask_all(
    database: Database, text: str, show: Callable[[duckdb.DuckDBPyRelation | None], None], *, single: bool
) -> None:
    questions = database.split(text)
    if single and len(questions) != 1:
        raise SchemaError(f"{len(questions)} questions given, and one file for the answer; ask one")
    for question in questions:
        show(database.sql(question))


def _views(database: Database) -> list[str]:
    return [each.name for each in database.objects() if each.kind == "view"]


def _outside(output: Path | None, data: Path) -> None:
    for folder in ("tables", "tokens", "checkpoints"):
        if output is not None and output.resolve().is_relative_to(data / folder):
            raise ForbiddenError(f"{output} lies among the lake's own files; write it elsewhere")
