"""The prompt's terminal: typed lines, their history, and completion."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands._shell_completion import DELIMITERS, candidates

if TYPE_CHECKING:
    from tokenlake.commands._shell import Shell

_KEPT = 1000
#: Stands for the end of a line within an entry of the history file, which has one entry a line.
_NEWLINE = "\x01"


def interact(shell: Shell) -> None:
    """Feed a shell with typed lines until its user leaves."""
    with contextlib.closing(shell.screen):
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
def history() -> Iterator[Callable[[str], None]]:
    """Recall the questions of earlier sessions, where Python has readline.

    Yields:
        A function that adds a question, or a command, to the history, whatever number of lines it has.
    """
    try:
        import readline
    except ImportError:  # Python may be built without it
        yield lambda _: None
        return
    file = Path(click.get_app_dir("tokenlake")) / "sql_history"
    readline.set_auto_history(False)  # it would make an entry of each line
    for entry in _entries(file):
        readline.add_history(entry)

    def remember(entry: str) -> None:
        count = readline.get_current_history_length()
        if entry and (count == 0 or readline.get_history_item(count) != entry):
            readline.add_history(entry)
            _append(file, entry)

    try:
        yield remember
    finally:
        readline.set_auto_history(True)


def completion(shell: Shell) -> None:
    """Have Tab complete words, where Python has readline."""
    try:
        import readline
    except ImportError:
        return
    found: list[str] = []

    def complete(word: str, number: int) -> str | None:
        if number == 0:
            found.clear()
            with contextlib.suppress(Exception):  # Tab says nothing of a lake that cannot be read: the question will
                found.extend(candidates(shell, readline.get_line_buffer(), readline.get_begidx(), word))
        return found[number] if number < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(DELIMITERS)
    for setting in ("tab: complete", "set completion-ignore-case on", "set show-all-if-ambiguous on"):
        readline.parse_and_bind(setting)


def _entries(file: Path) -> list[str]:
    """Entries of the history file, oldest first; a file that grew too long is cut."""
    try:
        lines = file.read_text("utf-8", "replace").removesuffix("\n").split("\n")
        if len(lines) > 2 * _KEPT:
            lines = lines[-_KEPT:]
            file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    except OSError:  # no history yet
        return []
    return [line.replace(_NEWLINE, "\n") for line in lines if line]


def _append(file: Path, entry: str) -> None:
    """Add an entry to the history file, which its user alone may read."""
    with contextlib.suppress(OSError):  # a home that cannot be written keeps no history
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(entry.replace("\n", _NEWLINE) + "\n")
