"""Messages of errors for a terminal."""

from __future__ import annotations

import shutil
from textwrap import TextWrapper
from typing import IO

import click

from tokenlake.formats.terminal import shown_in_lines


def printable(text: str) -> str:
    r"""A text in which control characters are written out, as in `\x1b`; lines stay.

    >>> printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    return shown_in_lines(text.expandtabs(4))


def fitted(text: str, file: IO[str], hanging: int = 0) -> str:
    """A printable text whose lines end between two words, where they are too long for a terminal.

    Args:
        text: lines.
        file: where it is printed; lines for files and pipes stay.
        hanging: blanks before what follows a broken line.
    """
    text = printable(text)
    if not file.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, 40)
    fill = TextWrapper(width, subsequent_indent=" " * hanging, break_long_words=False, break_on_hyphens=False).fill
    return "\n".join(line if len(line) <= width else fill(line) for line in text.split("\n"))


def message_of(error: BaseException) -> str:
    """What an error of a question says to its asker, printable."""
    import duckdb

    from tokenlake.errors import TokenlakeError
    from tokenlake.lake.sql.limits import explained

    match error:
        case RecursionError():
            text = "the question is nested too deeply; ask it in parts"
        case MemoryError():
            text = "the answer does not fit into memory; ask for less of it, or write it to a file"
        case click.ClickException():
            text = error.format_message()
        case click.Abort():
            text = "nothing was done"
        case duckdb.Error():
            text = explained(error)
        case TokenlakeError():
            text = str(error)
        case OSError():
            place = f"{error.filename}: " if error.filename is not None else ""
            text = f"{place}{error.strerror or error}"
        case _:
            text = f"{type(error).__name__}: {error}"
    return printable(text.strip() or type(error).__name__)
