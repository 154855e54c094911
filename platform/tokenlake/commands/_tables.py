"""Output of commands for people: tables without truncation."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: Width of a console for files and pipes; wider than any table, so that no line is wrapped.
ENDLESS = 100_000


class WholeTable(Table):
    """A table that is never truncated: if its columns do not fit side by side, each row is printed as a list of cells.

    Args:
        columns: names of the columns.
        title: title above the table.
        right: names of right-aligned columns.
        options: options of `rich.table.Table`.

    Text is printed literally: brackets are not markup.
    """

    def __init__(self, *columns: str, title: str | None = None, right: Collection[str] = (), **options: Any) -> None:
        super().__init__(title=None if title is None else escape(title), **options)
        for name in columns:
            self.add_column(escape(name), overflow="fold", justify="right" if name in right else "left")

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row of cells; a `rich.text.Text` may have a colour."""
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Print columns side by side if no word must be broken, else one row below the other."""
        needed = Measurement.get(console, options.update(width=ENDLESS), self).minimum
        if needed > options.max_width:
            yield from filter(None, (self.title, self._records(), self.caption))
            return
        if isinstance(self.title, str):
            self.min_width = min(console.measure(self.title).maximum, options.max_width)
        yield from super().__rich_console__(console, options)

    def _records(self) -> Table:
        """The table as two columns: name, and value of the cell."""
        records = Table.grid(padding=(0, 2))
        records.add_column(overflow="fold", style="bold")
        records.add_column(overflow="fold")
        for row in zip(*(column.cells for column in self.columns), strict=True):
            records.add_row()
            for column, cell in zip(self.columns, row, strict=True):
                records.add_row(column.header, cell)
        return records


def bare(title: str | None, *columns: str, **options: Any) -> WholeTable:
    """A table with a line under its header and no other lines, and a title on the left."""
    return WholeTable(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, **options)


def print_tables(*tables: Table) -> None:
    """Print tables as wide as the terminal; into a file or a pipe, as wide as needed."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if narrow else ENDLESS)
    for table in tables:
        console.print(table)
