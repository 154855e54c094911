"""The prompt of `tokenlake sql` without its terminal: lines in, answers out."""

from __future__ import annotations

import difflib
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands import _answer_files
from tokenlake.commands._messages import fitted, message_of
from tokenlake.commands._questions import Question, cut, parameters, text_of
from tokenlake.commands._shell_commands import ALIASES, COMMANDS
from tokenlake.commands._shell_screen import Screen, Show
from tokenlake.commands._waiting import interruptible
from tokenlake.errors import NotFoundError, SchemaError

if TYPE_CHECKING:
    from tokenlake.lake.database import Database

#: How many files may read each other.
_DEEPEST = 10


class Shell:
    """Reads lines, asks questions, and shows their answers; no error of a question ends it.

    Args:
        database: the database to query.
        show: shows an answer, until another form or a file is chosen.
        form: the form that `show` uses.
        remember: called with each whole question or command before it is done, for the history.

    Attributes:
        database: the database to query.
        screen: where answers go.
        pending: lines of an incomplete question.
        done: whether the user has left the shell.
        values: values of `$name` parameters.
        last: the last question that had an answer.
        timed: whether times are told.
    """

    def __init__(
        self,
        database: Database,
        show: Show,
        *,
        form: str = "table",
        remember: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.database = database
        self.screen = Screen(show, form)
        self.pending = ""
        self.done = False
        self.values: dict[str, str] = {}
        self.last: Question | None = None
        self.timed = False
        self._remember = remember
        self._depth = 0

    def feed(self, line: str) -> None:
        """Handle one line: a command, or a part of a question; each question that it ends is asked."""
        if not self.pending and (command := _command_in(line)) is not None:
            self._remember(line.strip())
            self._guard(lambda: self._do(command))
        else:
            self._guard(lambda: self._take(line))

    def answer(self, question: str, values: Mapping[str, str | None] | None, *, whole: bool = False) -> None:
        """Ask a question and show its answer; Ctrl-C ends it."""
        self._interruptible(lambda: self._answer(question, values, whole=whole))

    def answer_to(self, file: Path, question: str, values: Mapping[str, str | None] | None) -> None:
        """Ask a question and write its answer to a file."""

        def ask() -> None:
            relation = self.database.sql(question, values)
            if relation is not None:
                self.screen.write(relation, file)

        self._interruptible(ask)

    def writable(self, name: str) -> Path:
        """The path of a file that an answer may be written to; it may ask before it replaces one.

        Raises:
            ForbiddenError: it lies in a lake.
        """
        return _answer_files.checked(Path(name).expanduser(), self.database.lake)

    def read(self, name: str) -> None:
        """Do the lines of a file as if they were typed; the last question needs no `;`.

        Raises:
            SchemaError: it is no UTF-8, or reads itself.
        """
        if self._depth == _DEEPEST:
            raise SchemaError(f"{name} is read by a file that it reads itself; end the circle")
        self._depth += 1
        remember, self._remember = self._remember, lambda _: None
        try:
            for line in text_of(Path(name).expanduser()).split("\n"):
                self.feed(line)
            if self.pending:
                self.feed("\n;")
            if self.pending:
                raise SchemaError(f"{name} ends within a text or a comment; its last question was not asked")
        finally:
            self._depth -= 1
            self._remember, self.pending = remember, ""

    def _take(self, line: str) -> None:
        text = f"{self.pending}\n{line}" if self.pending else line
        if ";" not in line:  # it ends no question, so the others need not be read again
            self.pending = text if (text.strip() and cut(line)[1]) or self.pending else ""
            return
        self.pending = ""  # whatever goes wrong with them, the questions are over
        questions, rest = cut(text)
        if questions:
            self._remember(text.removesuffix(rest).strip())
        for question in questions:
            self.answer(question, parameters(self.database, question, self.values, ".param {} VALUE"))
        self.pending = rest.lstrip()

    def _answer(self, question: str, values: Mapping[str, str | None] | None, *, whole: bool) -> None:
        relation = self.database.sql(question, values)
        if relation is None:
            if sys.stdout.isatty():
                click.echo("ok")
            return
        self.last = question, values
        self.screen.show(relation, whole=whole)

    def _do(self, line: str) -> None:
        name, *arguments = shlex.split(line)
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise NotFoundError(f"no command {name!r}; {hint}.help lists them")
        command = COMMANDS[name]
        if not command.least <= len(arguments) <= command.most:
            raise SchemaError(f"write {name} {command.arguments}".rstrip() + f": {command.about}")
        command.act(self, *arguments)

    def _interruptible(self, act: Callable[[], None]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            interruptible(self.database, act)
        finally:
            if self.timed:
                told = f"{time.perf_counter() - wall:.3f} s (CPU {time.process_time() - cpu:.3f} s)"
                click.secho(told, dim=True, err=True)

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except KeyboardInterrupt:
            if self._depth:  # it ends the file that is read, too
                raise
            click.secho("interrupted", fg="yellow", err=True)
        except Exception as error:
            click.secho(fitted(message_of(error), sys.stderr), fg="red", err=True)


def _command_in(line: str) -> str | None:
    r"""The command in a line, with the name that it has here; None if it begins a question.

    A `;` at the end is forgiven; `exit`, `quit` and `help`, and psql's `\q`, `\d` and `\?`, are commands too.
    """
    text = line.strip().rstrip("; \t")
    name, _, arguments = text.partition(" ")
    if (known := ALIASES.get(name.lower())) is not None and (name[:1] == "\\" or not arguments):
        return f"{known} {arguments}".strip()
    return text if text[:1] in {".", "\\"} and not text[1:2].isdigit() and text != "." else None
