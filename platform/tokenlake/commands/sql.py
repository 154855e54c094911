"""`tokenlake sql`: read-only SQL over a lake."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._output import FORMATS, format_of, write
from tokenlake.errors import SchemaError, TokenlakeError

if TYPE_CHECKING:
    from tokenlake.commands._questions import Question
    from tokenlake.lake.database import Database
    from tokenlake.lake.project import Project


@click.command()
@click.argument("lake", type=click.Path(path_type=Path))
@click.option("-c", "--command", "text", help="Run this SQL, and exit.")
@click.option(
    "-f", "--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Run the SQL in a file."
)
@click.option("-q", "--query", "saved", help="Run a saved query; --queries lists them.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="Value of $NAME in the question.")
@click.option("--queries", is_flag=True, help="List the saved queries.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Defaults to the suffix of -o, else a table.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the result to a file.")
@click.option("--yes", is_flag=True, help="Replace the file of -o without a question.")
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
    yes: bool,
    as_json: bool,
) -> None:
    """Query a lake in SQL, read-only: at a prompt, or with -c, -f or -q.

    \b
    tokenlake sql demo -c "select * from freshness()"
    tokenlake sql demo -c 'from events where ds = $day' -p day=2017-06-01
    tokenlake sql demo -q last_tokens -p user=12 -p before=2017-06-01
    tokenlake sql demo -c "from events" -o events.parquet
    """  # noqa: D301  click's mark for "do not wrap" is the character itself
    import tokenlake
    from tokenlake.commands import _answer_files, _own_queries

    if as_json and form not in {None, "json"}:
        raise click.UsageError(f"--json and --format {form} were given together; give one of them")
    if sum(given is not None for given in (text, file, saved)) > 1:
        raise click.UsageError("-c, -f and -q were given together; give one of them")
    opened = tokenlake.open(lake)
    if queries:
        found = _own_queries.saved_queries(opened.root).values()
        print_json(_own_queries.facts(found)) if as_json else _own_queries.print_queries(found)
        return
    if output is not None:
        _answer_files.checked(output, opened, replace=yes)
    form = "json" if as_json else format_of(form, output)
    if text is None and file is None and saved is None and sys.stdin.isatty():
        _prompt(opened, form, output, params)
    else:
        _ask(opened, lambda database: _questions(database, text, file, saved, params), form, output)


def _prompt(lake: Project, form: str, output: Path | None, params: tuple[str, ...]) -> None:
    from tokenlake.commands import _questions, _shell_prompt
    from tokenlake.commands._shell import Shell
    from tokenlake.lake.database import Database

    with _shell_prompt.history() as remember:
        shell = Shell(Database(lake), lambda relation: write(relation, form, None), form=form, remember=remember)
        shell.screen.choose()
        shell.values.update(_questions.assignments(params))
        if output is not None:
            shell.screen.output(output)
        _shell_prompt.completion(shell)
        _shell_prompt.interact(shell)


def _ask(lake: Project, find: Callable[[Database], list[Question]], form: str, output: Path | None) -> None:
    from tokenlake.commands._messages import message_of
    from tokenlake.commands._waiting import interruptible
    from tokenlake.lake.database import Database

    database = Database(lake)

    def ask() -> None:
        questions = find(database)
        if output is not None:
            _check_single([question for question, _ in questions])
        for question, values in questions:
            relation = database.sql(question, values)
            if relation is not None:
                write(relation, form, output)

    try:
        interruptible(database, ask)
    except (TokenlakeError, BrokenPipeError):
        raise
    except Exception as error:  # DuckDB's, Arrow's and Python's own: a question may cause any
        raise click.ClickException(message_of(error)) from error


def _questions(
    database: Database, text: str | None, file: Path | None, saved: str | None, params: tuple[str, ...]
) -> list[Question]:
    """The questions of the options, all of them checked, each with the values of its parameters."""
    from tokenlake.commands import _own_queries, _questions

    if saved is not None:
        return [_own_queries.bound(database.lake.root, saved, params)]
    whole = _questions.text_of(file) if text is None else text
    questions, given = database.split(whole), _questions.assignments(params)
    names = {name for question in questions for name in _questions.named(database, question)} if given else set()
    if unknown := sorted(given.keys() - names):
        has = f"it names {', '.join(f'${name}' for name in sorted(names))}" if names else "it names none"
        raise SchemaError(f"-p {unknown[0]}={given[unknown[0]]}: the question has no ${unknown[0]}; {has}")
    return [(question, _questions.parameters(database, question, given)) for question in questions]


def _check_single(questions: list[str]) -> None:
    from tokenlake.commands._questions import has_answer

    answers = sum(map(has_answer, questions))
    if answers != 1:
        raise SchemaError(f"{answers} questions given, and one file for the answer; ask one")
