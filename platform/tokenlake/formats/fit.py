"""Fit a table to a width: long text is cut in its middle first, then columns of the middle are left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenlake.formats import terminal
from tokenlake.formats.cells import NULL, Shown, ShownColumn

#: Text is cut no shorter than this, while there is another way.
_SHORTEST = 12
#: A longer name of a type, as of an ENUM, makes no column wider.
_LONGEST_TYPE = 16


@dataclass(frozen=True)
class Fitted:
    """A table that fits.

    Attributes:
        shown: its columns; one named `…` stands for those that are left out.
        widths: cells of each column.
        hidden: how many columns are left out.
    """

    shown: Shown
    widths: list[int]
    hidden: int


def fit(table: Shown, width: int | None) -> Fitted:
    """Cut cells and leave out columns, as far as needed.

    Args:
        table: the table.
        width: cells of a line; None for any.
    """
    if width is None:
        return _cut(table.columns, None, table, 0)
    kept = _kept([_least(column) for column in table.columns], width)
    hidden = len(table.columns) - len(kept)
    columns = [table.columns[number] for number in kept]
    if hidden:
        dots = ShownColumn("…", "", ["…"] * table.rows, right=False, divisible=False)
        columns.insert((len(kept) + 1) // 2, dots)
    return _cut(columns, _cap(columns, width), table, hidden)


def _kept(widths: list[int], width: int) -> list[int]:
    """Numbers of the columns that fit at these widths: from both ends, the first before the last."""
    if _total(widths) <= width:
        return list(range(len(widths)))
    left, right = [0], list[int]()
    for step in range(1, len(widths)):
        side, number = (right, len(widths) - 1 - len(right)) if step % 2 else (left, len(left))
        taken = [widths[each] for each in (*left, *right, number)]
        if _total([*taken, 1]) > width:
            break
        side.append(number)
    return left + right[::-1]


def _cap(columns: list[ShownColumn], width: int) -> int:
    """The greatest width of text at which the table fits."""
    low, high = 1, max(map(_natural, columns))
    while low < high:
        middle = (low + high + 1) // 2
        if _total([_capped(column, middle) for column in columns]) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def _total(widths: list[int]) -> int:
    return sum(widths) + 3 * len(widths) + 1


def _least(column: ShownColumn) -> int:
    return _capped(column, _SHORTEST)


def _natural(column: ShownColumn) -> int:
    """The width at which nothing of a column is cut, but long names of types."""
    return max(_cells(column), terminal.width(column.name), min(len(column.type), _LONGEST_TYPE))


def _cells(column: ShownColumn) -> int:
    return max((terminal.width(NULL if text is None else text) for text in column.cells), default=0)


def _capped(column: ShownColumn, cap: int) -> int:
    least = 0 if column.divisible else _cells(column)
    return max(least, min(cap, _natural(column)))


def _cut(columns: list[ShownColumn], cap: int | None, table: Shown, hidden: int) -> Fitted:
    widths = [_natural(column) if cap is None else _capped(column, cap) for column in columns]
    cut = [
        replace(
            column,
            name=terminal.cut(column.name, width),
            type=column.type if len(column.type) <= width else column.type[: width - 1] + "…",
            cells=[text if text is None else terminal.cut(text, width) for text in column.cells],
        )
        for column, width in zip(columns, widths, strict=True)
    ]
    return Fitted(replace(table, columns=cut), widths, hidden)
