"""Where the prompt's answers go, and in which form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import click

from tokenlake.commands import _output
from tokenlake.errors import SchemaError, StorageError
from tokenlake.formats import Answer, Layout
from tokenlake.formats import write as write_answer

if TYPE_CHECKING:
    import duckdb

Show: TypeAlias = Callable[["duckdb.DuckDBPyRelation"], None]
#: Forms that a terminal shows.
MODES = tuple(form for form in _output.FORMATS if form != "parquet")


class Screen:
    """Shows answers as it was told.

    Args:
        show: shows an answer as long as nothing else was chosen.
        form: one of `MODES`, which `show` uses.

    Attributes:
        form: one of `MODES`.
        rows: most rows of a table for people; None for all.
        width: columns of the terminal; None: as it is; 0: endless.
    """

    def __init__(self, show: Show, form: str) -> None:
        self._show = show
        self._file: IO[str] | None = None
        self._once: Path | None = None
        self._chosen = False
        self.form = form
        self.rows: int | None = Layout().rows
        self.width: int | None = None

    def choose(self, form: str | None = None, rows: int | None = None, width: int | None = None) -> None:
        """Choose a form, the most rows (0: all), or the width (0: endless); None leaves it.

        Raises:
            SchemaError: no such form.
        """
        if form is not None and form not in MODES:
            raise SchemaError(f"{form!r} is no mode; there are {', '.join(MODES)}, and for files .once FILE.parquet")
        self.form = form or self.form
        self.rows = self.rows if rows is None else rows or None
        self.width = self.width if width is None else width
        self._chosen = True

    def once(self, file: Path) -> None:
        """Write the next answer to a file."""
        self._once = file

    def output(self, file: Path | None) -> None:
        """Write all further answers to a file, one after the other; None: to the screen again.

        Raises:
            SchemaError: a Parquet file, which holds one answer.
            StorageError: the file cannot be written.
        """
        if file is not None and self._form_of(file) == "parquet":
            raise SchemaError("a Parquet file holds one answer: use .once")
        self.close()
        try:
            self._file = None if file is None else file.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise StorageError(f"{file} cannot be written ({error.strerror or error})") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def show(self, relation: duckdb.DuckDBPyRelation, *, whole: bool = False) -> None:
        """Show an answer.

        Args:
            relation: the answer.
            whole: show all of its rows.
        """
        rows = None if whole else self.rows
        if self._once is not None:
            file, self._once = self._once, None
            self.write(relation, file)
        elif self._file is not None:
            write_answer(Answer.of(relation), self._form_of(Path(self._file.name)), self._file, Layout(rows, None))
            self._file.flush()
        elif self._chosen or whole:
            width = _output.width() if self.width is None else self.width or None
            _output.write(relation, self.form, None, Layout(rows, width))
        else:
            self._show(relation)

    @contextlib.contextmanager
    def uncut(self) -> Iterator[None]:
        """Show all rows of tables within the block."""
        rows, self.rows = self.rows, None
        try:
            yield
        finally:
            self.rows = rows

    def write(self, relation: duckdb.DuckDBPyRelation, file: Path) -> None:
        """Write a whole answer to a file, in the form of its suffix if that names one."""
        _output.write(relation, self._form_of(file), file, Layout(None, None))
        click.echo(f"written to {file}", err=True)

    def _form_of(self, file: Path) -> str:
        by_suffix = _output.format_of(None, file)
        return self.form if by_suffix == "table" else by_suffix
