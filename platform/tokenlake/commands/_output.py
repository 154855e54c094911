"""Where answers of SQL go: the standard output, or a file that is written whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tokenlake.errors import SchemaError, StorageError
from tokenlake.formats import FORMATS, Answer, Layout
from tokenlake.formats import write as write_answer
from tokenlake.storage import atomic

if TYPE_CHECKING:
    import duckdb

__all__ = ["FORMATS", "format_of", "width", "write"]

_SUFFIXES = {each: each for each in ("csv", "json", "parquet", "html", "markdown")} | {"md": "markdown", "htm": "html"}


def format_of(given: str | None, output: Path | None) -> str:
    """The format: the given one, else by the file's suffix, else a table."""
    suffix = output.suffix.lower().lstrip(".") if output else ""
    return given or _SUFFIXES.get(suffix, "table")


def write(relation: duckdb.DuckDBPyRelation, form: str, output: Path | None, layout: Layout | None = None) -> None:
    """Write an answer to a file, or to the standard output.

    Args:
        relation: the question; it runs now.
        form: one of `FORMATS`.
        output: the file; None for the standard output.
        layout: what is printed for people; None for the first 50 rows, as wide as the terminal, and all rows of a file.

    Raises:
        SchemaError: the format is Parquet, and no file was given.
        StorageError: the file cannot be written; an existing one is not changed.
        duckdb.Error: the question fails.
    """
    if form == "parquet" and output is None:
        raise SchemaError("Parquet is for files: add -o FILE")
    answer = Answer.of(relation)
    if output is None:
        write_answer(answer, form, sys.stdout, layout or Layout(width=width()))
        sys.stdout.flush()
        return
    with _whole(output, binary=form == "parquet") as file:
        write_answer(answer, form, file, layout or Layout(rows=None))


def width() -> int | None:
    """Columns of the terminal; None for files and pipes, unless COLUMNS says otherwise."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if narrow else None


@contextmanager
def _whole(path: Path, *, binary: bool) -> Iterator[IO[Any]]:
    try:
        with (
            atomic.file(path) as part,
            part.open("wb") if binary else part.open("w", encoding="utf-8", newline="") as file,
        ):
            yield file
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from error
