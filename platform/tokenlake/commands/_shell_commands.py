r"""Commands of the prompt: `.tables`, `.schema` and so on."""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tokenlake.commands import _own_queries
from tokenlake.commands._answer_files import may_replace
from tokenlake.commands._messages import fitted, printable
from tokenlake.commands._shell_screen import MODES
from tokenlake.errors import NotFoundError, SchemaError

if TYPE_CHECKING:
    from tokenlake.commands._shell import Shell
    from tokenlake.lake.database import Object

#: Other names of commands, of the `duckdb` shell and of psql, in lower case.
ALIASES = {
    "exit": ".quit",
    "quit": ".quit",
    "help": ".help",
    ".exit": ".quit",
    "\\q": ".quit",
    "\\?": ".help",
    "\\h": ".help",
    "\\d": ".schema",
    "\\dt": ".tables",
    "\\i": ".read",
}
_ENDLESS = 1000


@dataclass(frozen=True)
class Command:
    """A command of the prompt.

    Attributes:
        act: does it.
        arguments: how its arguments are written.
        about: one line of help.
        least: least number of arguments.
        most: greatest number of arguments.
        takes: what an argument names, for completion.
    """

    act: Callable[..., None]
    arguments: str
    about: str
    least: int
    most: int
    takes: Literal["", "object", "query", "mode", "switch", "command", "file"] = ""


def _tables(shell: Shell, pattern: str = "*") -> None:
    found = [each for each in shell.database.objects() if fnmatch.fnmatchcase(each.name.lower(), _glob(pattern))]
    if not found:
        raise NotFoundError(f"no view or macro is like {pattern!r}; .tables lists all")
    _show(
        shell,
        {
            "name": [each.name for each in found],
            "kind": [each.kind for each in found],
            "holds": [_first_sentence(each.doc) for each in found],
        },
    )


def _glob(pattern: str) -> str:
    """A pattern of SQL's LIKE or of file names as one of file names; a plain word stands for what contains it."""
    if "%" in pattern:
        pattern = pattern.replace("%", "*").replace("_", "?")
    return (pattern if set(pattern) & set("*?[") else f"*{pattern}*").lower()


def _first_sentence(doc: str) -> str:
    return doc.partition(". ")[0].rstrip(".")


def _schema(shell: Shell, name: str | None = None) -> None:
    objects = shell.database.objects()
    if name is None:
        _show(shell, {"name": [each.signature for each in objects], "holds": [each.doc for each in objects]})
        return
    for found in _objects(objects, name):
        click.echo(fitted(f"{found.kind} {found.signature}\n{found.doc}".strip(), sys.stdout))
        if found.kind != "macro":
            _columns(shell, found.name)


def _columns(shell: Shell, name: str) -> None:
    columns = shell.database.columns(name)
    _show(
        shell,
        {
            "column": [each.name for each in columns],
            "type": [each.type for each in columns],
            "in tokenlake.yaml": [each.origin for each in columns],
        },
    )


def _objects(objects: Sequence[Object], name: str) -> list[Object]:
    """What has a name: a view, a macro, or both."""
    wanted = name.strip('"').partition("(")[0].lower()
    found = [each for each in objects if each.name.lower() == wanted]
    if not found:
        near = difflib.get_close_matches(wanted, [each.name for each in objects], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise NotFoundError(f"no view or macro {name!r}; {hint}.tables lists them")
    return found


def _show(shell: Shell, columns: Mapping[str, Sequence[str]]) -> None:
    """Show rows of the prompt's own as if they were an answer."""
    names = ", ".join(f'unnest(${i}::VARCHAR[]) AS "{name}"' for i, name in enumerate(columns, 1))
    with shell.screen.uncut():
        shell.screen.show(
            shell.database.cursor().sql(f"SELECT {names}", params=[list(each) for each in columns.values()])
        )


def _queries(shell: Shell) -> None:
    _own_queries.print_queries(_own_queries.saved_queries(shell.database.lake.root).values())


def _run(shell: Shell, name: str, *assignments: str) -> None:
    shell.answer(*_own_queries.bound(shell.database.lake.root, name, assignments))


def _save(shell: Shell, name: str, *title: str) -> None:
    if shell.last is None:
        raise NotFoundError("nothing was asked yet that could be saved; ask it, then .save NAME")
    question, values = shell.last
    file = _own_queries.path_of(shell.database.lake.root, name)
    if file.exists():
        may_replace(file)
    _own_queries.save(file, " ".join(title) or name, question, values or {})
    click.echo(f"saved as {name}: .run {name}, or tokenlake sql {shell.database.lake.root} -q {name}", err=True)


def _param(shell: Shell, name: str = "", *value: str) -> None:
    name = name.lstrip("$")
    if value:
        shell.values[name] = " ".join(value)
    elif not name:
        for each, given in shell.values.items():
            click.echo(printable(f"${each} = {given}"))
    elif shell.values.pop(name, None) is None:
        raise NotFoundError(f"${name} has no value; .param {name} VALUE gives it one")


def _mode(shell: Shell, form: str) -> None:
    shell.screen.choose(form=form.lower())


def _maxrows(shell: Shell, count: str) -> None:
    shell.screen.choose(rows=_number(count))


def _maxwidth(shell: Shell, count: str) -> None:
    shell.screen.choose(width=_number(count))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise SchemaError(f"{text!r} is no number; write 0 or more")
    return int(text)


def _once(shell: Shell, file: str) -> None:
    shell.screen.once(shell.writable(file))


def _output(shell: Shell, file: str | None = None) -> None:
    shell.screen.output(None if file is None else shell.writable(file))


def _timer(shell: Shell, switch: str) -> None:
    if switch not in {"on", "off"}:
        raise SchemaError(f"{switch!r} is neither on nor off")
    shell.timed = switch == "on"


def _read(shell: Shell, file: str) -> None:
    if not Path(file).expanduser().is_file():
        raise NotFoundError(f"no file {file}")
    shell.read(file)


def _last(shell: Shell, file: str | None = None) -> None:
    if shell.last is None:
        raise NotFoundError("nothing was asked yet")
    path = None if file is None else shell.writable(file)
    click.secho("asked again, for all of its rows", dim=True, err=True)
    if path is None:
        shell.answer(*shell.last, whole=True)
    else:
        shell.answer_to(path, *shell.last)


def _quit(shell: Shell) -> None:
    shell.done = True


def _help(_: Shell, name: str | None = None) -> None:
    if name is None:
        click.echo("A question ends with ; and may take several lines. Ctrl-C drops it, Ctrl-D leaves,")
        click.echo("Tab completes. Commands:")
    elif (known := f".{name.lstrip('.')}") not in COMMANDS:
        raise NotFoundError(f"no command {name!r}; .help lists them")
    for each, command in COMMANDS.items():
        if name is None or each == known:
            click.echo(fitted(f"  {each + ' ' + command.arguments:<22}{command.about}", sys.stdout, hanging=24))


COMMANDS: Mapping[str, Command] = {
    ".tables": Command(_tables, "[PATTERN]", "views and macros; all, or those like ev%, *_before", 0, 1, "object"),
    ".schema": Command(_schema, "[NAME]", "what a view holds, column by column; how a macro is called", 0, 1, "object"),
    ".queries": Command(_queries, "", "saved queries", 0, 0),
    ".run": Command(_run, "NAME [a=b ...]", "ask a saved query", 1, _ENDLESS, "query"),
    ".save": Command(_save, "NAME [TITLE]", "save the last question in the lake's folder queries", 1, _ENDLESS),
    ".param": Command(_param, "[NAME [VALUE]]", "the value of $NAME in questions; alone: list, or forget", 0, _ENDLESS),
    ".mode": Command(_mode, "FORM", ", ".join(MODES), 1, 1, "mode"),
    ".maxrows": Command(_maxrows, "N", "rows of a table for people; 0: all", 1, 1),
    ".maxwidth": Command(_maxwidth, "N", "columns of a table for people; 0: endless", 1, 1),
    ".last": Command(_last, "[FILE]", "ask the last question again, for all of its rows", 0, 1, "file"),
    ".once": Command(_once, "FILE", "write the next answer to a file, whole; the suffix is its form", 1, 1, "file"),
    ".output": Command(_output, "[FILE]", "write all answers to a file; alone: to the screen again", 0, 1, "file"),
    ".read": Command(_read, "FILE", "do what stands in a file", 1, 1, "file"),
    ".timer": Command(_timer, "on|off", "tell how long each question takes", 1, 1, "switch"),
    ".help": Command(_help, "[COMMAND]", "this", 0, 1, "command"),
    ".quit": Command(_quit, "", "leave; so do exit, quit, \\q", 0, 0),
}
