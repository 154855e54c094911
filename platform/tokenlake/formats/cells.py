"""The rows that people see, as text of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from tokenlake.formats import terminal, values
from tokenlake.formats.answer import Answer
from tokenlake.formats.layout import Layout

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

NULL = "null"
#: A longer list is shown by its first values.
_LONGEST_LIST, _FIRST = 8, 6
_SHORT_TYPES = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ", "TIME WITH TIME ZONE": "TIMETZ", '"NULL"': "NULL"}


@dataclass(frozen=True)
class ShownColumn:
    """A column that is shown.

    Attributes:
        name: its name.
        type: DuckDB's name of its type.
        cells: texts of its rows; None for null.
        right: whether it stands on the right, as numbers do.
        divisible: whether a part of a cell still says something, as of text; a part of a number does not.
    """

    name: str
    type: str
    cells: list[str | None]
    right: bool
    divisible: bool


@dataclass(frozen=True)
class Shown:
    """The first rows of an answer.

    Attributes:
        columns: all of its columns.
        rows: how many rows are shown.
        more: whether others follow.
    """

    columns: list[ShownColumn]
    rows: int
    more: bool

    @property
    def footer(self) -> str:
        """How many rows there are, as far as known."""
        rows = f"{self.rows} row{'' if self.rows == 1 else 's'}"
        return f"{rows} shown, more follow (.maxrows 0, or -o FILE, gives all)" if self.more else rows


def shown(answer: Answer, rows: int | None) -> Shown:
    """Read the first rows; one more is asked for, to know whether others follow.

    Args:
        answer: all rows.
        rows: most rows; None for all.
    """
    first = answer.head(None if rows is None else rows + 1)
    texts = first.rows([_expression(f"#{number}", kind) for number, kind in enumerate(answer.kinds, 1)])
    most = len(texts) if rows is None else min(rows, len(texts))
    columns_of = list(zip(*texts[:most], strict=True)) or [()] * len(answer.names)
    columns = [
        _column(name, kind, column) for name, kind, column in zip(answer.names, answer.kinds, columns_of, strict=True)
    ]
    return Shown(columns, most, more=len(texts) > most)


def plan(answer: Answer, file: IO[str], layout: Layout) -> None:
    """Write the answer of EXPLAIN: plain text, of whose lines the ends stay where they are cut to a width."""
    for (text,) in answer.rows(["#2::VARCHAR"]):
        for line in terminal.shown_in_lines((text or "").rstrip("\n")).split("\n"):
            file.write((line if layout.width is None else terminal.cut(line, layout.width)) + "\n")


def _column(name: str, kind: DuckDBPyType, texts: Sequence[str | None]) -> ShownColumn:
    type_name = _SHORT_TYPES.get(str(kind), str(kind))
    plain = values.kind_of(kind)
    cells = [text if text is None else terminal.shown(text) for text in texts]
    return ShownColumn(
        terminal.shown(name), terminal.shown(type_name), cells, plain in values.NUMBERS, plain not in values.INDIVISIBLE
    )


def _expression(x: str, kind: DuckDBPyType) -> str:
    name = values.kind_of(kind)
    if name not in values.NESTED:
        return f"{x}::VARCHAR"
    if name not in values.LISTS:
        return f"CASE WHEN {x} IS NOT NULL THEN {values.json_text(x, kind)} END"
    ((_, child),) = values.children_of(kind)
    items = f"CAST({x} AS {child}[])"
    some = f"{items}[1:{_FIRST}]"
    if values.kind_of(child) in {"float", "double"}:
        some = f"list_transform({some}, lambda v: round(v, 4))"
    start = values.joined(some, child)
    return (
        f"CASE WHEN len({items}) > {_LONGEST_LIST} THEN concat('[', {start}, ', ... ', len({items}), ' in all]') "
        f"WHEN {x} IS NOT NULL THEN {values.json_text(x, kind)} END"
    )
