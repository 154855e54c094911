"""Output of commands: JSON for programs (docs/cli.md), and tables without truncation for people."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import math
import os
import sys
from collections.abc import Collection
from typing import Any

import click
import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: Width of a console for files and pipes; wider than any table, so that no line is wrapped.
ENDLESS = 100_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document (docs/cli.md).")


def print_json(answer: object) -> None:
    """Print the JSON document of a command in UTF-8, whatever the terminal's encoding."""
    text = json.dumps(plain(answer), indent=2, ensure_ascii=False, allow_nan=False)
    # A path that is not valid UTF-8 has lone surrogates, which JSON writes as `\udcff`.
    click.echo(text.encode("utf-8", "backslashreplace"))


def plain(value: Any) -> Any:
    """Convert a value to JSON types.

    Dataclasses become objects; NumPy values become Python values; instants become ISO 8601 with microseconds, in UTC if
    they have a zone; decimals become integers if they have no fraction, else floats; NaN and infinities become null; all
    other values, such as days and paths, become strings.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case dt.datetime():
            utc = value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
            return utc if value.tzinfo else value.isoformat(timespec="microseconds")
        case decimal.Decimal():
            return int(value) if value.as_tuple().exponent == 0 else plain(float(value))
        case bytes():
            return value.decode("utf-8", "backslashreplace")
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)


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
