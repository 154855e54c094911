"""The prompt of `tokenlake sql`: multi-line queries, history, completion, and dot commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click
import duckdb

import tokenlake_sql
from tokenlake.errors import NotFoundError, TokenlakeError

if TYPE_CHECKING:
    from tokenlake.lake.database import Database

_HELP = """\
A question ends with ; and may take several lines. Ctrl-C drops it, Ctrl-D leaves.
  .tables                 views of this lake
  .schema VIEW            its columns
  .queries                saved queries
  .run NAME [a=b ...]     ask a saved query
  .help                   this
  .quit                   leave"""
_MACROS = (
    "tokens_before(user, t, n)",
    "events_before(user, t, n)",
    "embedding_as_of(user, t)",
    "neighbors(user, k, t)",
    "index_versions()",
    "freshness()",
    "by_day()",
)
Show: TypeAlias = Callable[["duckdb.DuckDBPyRelation"], None]


class Shell:
    """Reads lines, runs queries, and shows their results.

    Args:
        database: the database to query.
        show: writes a result.

    Attributes:
        pending: lines of an incomplete query.
        done: whether the user has left the shell.
    """

    def __init__(self, database: Database, show: Show) -> None:
        self._database = database
        self._show = show
        self.pending = ""
        self.done = False
        self._commands: dict[str, Callable[[list[str]], None]] = {
            ".tables": lambda _: self._tables(),
            ".schema": self._schema,
            ".queries": lambda _: list_queries(),
            ".run": self._run,
            ".help": lambda _: click.echo(_HELP),
        }

    def feed(self, line: str) -> None:
        """Handle one line; runs the query when the line completes it. An error discards the query, and the shell goes on."""
        if not self.pending and line.strip() in {".quit", ".exit"}:
            self.done = True
        elif not self.pending and line.lstrip().startswith("."):
            self._guard(self._command, line)
        else:
            text = f"{self.pending}\n{line}".strip("\n")
            self.pending = "" if _is_whole(text) or not text.strip() else text
            if _is_whole(text):
                self._guard(self._ask, text)

    def _guard(self, act: Callable[[str], None], text: str) -> None:
        try:
            interruptible(self._database, lambda: act(text))
        except KeyboardInterrupt:
            click.secho("interrupted", fg="yellow", err=True)
        except (TokenlakeError, duckdb.Error) as error:
            click.secho(f"{type(error).__name__}: {error}", fg="red", err=True)

    def _ask(self, text: str) -> None:
        for question in self._database.split(text):
            self._answer(self._database.sql(question))

    def _answer(self, relation: duckdb.DuckDBPyRelation | None) -> None:
        if relation is not None:
            self._show(relation)

    def _command(self, line: str) -> None:
        name, *arguments = line.split()
        if name not in self._commands:
            raise NotFoundError(f"no command {name!r}; .help lists them")
        self._commands[name](arguments)

    def _tables(self) -> None:
        self._answer(
            self._database.sql(
                "SELECT view_name AS view, column_count AS columns FROM duckdb_views() WHERE NOT internal ORDER BY 1"
            )
        )
        click.echo("macros: " + ", ".join(_MACROS))

    def _schema(self, arguments: list[str]) -> None:
        if len(arguments) != 1:
            raise NotFoundError(".schema takes one view; .tables lists them")
        name = arguments[0].replace('"', '""')
        self._answer(self._database.sql(f'SELECT column_name, column_type FROM (DESCRIBE "{name}")'))

    def _run(self, arguments: list[str]) -> None:
        if not arguments:
            raise NotFoundError(".run takes the name of a saved query; .queries lists them")
        self._answer(ask_saved(self._database, arguments[0], arguments[1:]))


def interruptible(database: Database, act: Callable[[], None]) -> None:
    """Run `act` in a thread, so that Ctrl-C can interrupt its query: DuckDB does not check for Ctrl-C while it works.

    Raises:
        KeyboardInterrupt: after the query was interrupted.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        try:
            future.result()
        except KeyboardInterrupt:
            while not future.done():  # it may be between two queries
                database.interrupt()
                wait([future], timeout=0.05)
            raise


def ask_saved(database: Database, name: str, assignments: Iterable[str]) -> duckdb.DuckDBPyRelation | None:
    """Run a saved query with `name=value` parameters.

    Raises:
        NotFoundError: there is no such query or parameter.
    """
    saved = tokenlake_sql.queries()
    if name not in saved:
        raise NotFoundError(f"no saved query {name!r}; there are {', '.join(saved)}")
    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise NotFoundError(f"{assignment!r} is no parameter; write name=value")
        values[key.lstrip("$")] = value
    query = saved[name]
    try:
        bound = query.bind(values)
    except KeyError as error:
        raise NotFoundError(str(error.args[0])) from None
    return database.sql(query.sql, bound or None)


def list_queries() -> None:
    """Print the saved queries with their parameters."""
    for query in tokenlake_sql.queries().values():
        click.echo(f"{query.name:<20}{query.title}")
        for parameter in query.parameters:
            click.echo(f"{'':<20}  {parameter.name}={parameter.default or '...'}  {parameter.meaning}")


def interact(shell: Shell, views: Iterable[str]) -> None:
    """Feed a shell with typed lines, with history and completion where Python has readline."""
    with history(views):
        while not shell.done:
            try:
                line = input("        -> " if shell.pending else "tokenlake> ")
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo("^C")
                shell.pending = ""
                continue
            shell.feed(line)


@contextlib.contextmanager
def history(views: Iterable[str]) -> Iterator[None]:
    try:
        import readline
    except ImportError:  # Python may be built without it
        yield
        return
    file = Path(click.get_app_dir("tokenlake")) / "sql_history"
    words = [
        *views,
        *(macro.partition("(")[0] for macro in _MACROS),
        *tokenlake_sql.queries(),
        ".tables",
        ".queries",
        ".run",
    ]
    with contextlib.suppress(OSError):  # no history yet
        readline.read_history_file(file)
    readline.set_history_length(1000)
    readline.set_completer(lambda text, i: next(iter([w for w in words if w.startswith(text)][i:]), None))
    readline.set_completer_delims(" \t\n(),;=")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a home that cannot be written keeps no history
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
            file.chmod(0o600)


def _is_whole(text: str) -> bool:
    """Whether a query is complete: it ends with a ; outside of strings and comments."""
    if not text.rstrip().endswith(";"):
        return False
    try:
        return bool(duckdb.extract_statements(text)) or text.strip() == ";"
    except duckdb.Error as error:
        return "unterminated" not in str(error)
