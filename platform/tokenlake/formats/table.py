"""A table for people, as wide as the terminal: names and types above, numbers on the right, nulls dim."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO

from tokenlake.formats import terminal
from tokenlake.formats.answer import Answer
from tokenlake.formats.cells import NULL, Shown, plan, shown
from tokenlake.formats.fit import fit
from tokenlake.formats.layout import Layout

_DIM, _END = "\x1b[2m", "\x1b[0m"


def write(answer: Answer, file: IO[str], layout: Layout) -> None:
    """Write the first rows as a table, with a footer that says whether more follow."""
    if answer.is_plan:
        plan(answer, file, layout)
        return
    answer_shown = shown(answer, layout.rows)
    fitted = fit(answer_shown, layout.width)
    dim = _dim if file.isatty() and "NO_COLOR" not in os.environ else str
    for line in _lines(fitted.shown, fitted.widths, dim):
        file.write(line + "\n")
    file.write(dim(answer_shown.footer) + "\n")
    if fitted.hidden:
        total = len(answer_shown.columns)
        hint = ".mode line or .maxwidth 0 shows all"
        file.write(dim(f"… {fitted.hidden} columns of {total} not shown; {hint}") + "\n")


def _dim(text: str) -> str:
    return f"{_DIM}{text}{_END}"


def _lines(table: Shown, widths: list[int], dim: Callable[[str], str]) -> list[str]:
    columns = list(zip(table.columns, widths, strict=True))
    names = [terminal.pad(column.name, cells, right=column.right) for column, cells in columns]
    types = [dim(terminal.pad(column.type, cells, right=column.right)) for column, cells in columns]
    lines = [_rule("┏┳┓", "━", widths), _row("┃", names), _row("┃", types), _rule("┡╇┩", "━", widths)]
    for number in range(table.rows):
        cells = [_cell(column.cells[number], width, dim, right=column.right) for column, width in columns]
        lines.append(_row("│", cells))
    return [*lines, _rule("└┴┘", "─", widths)]


def _cell(text: str | None, width: int, dim: Callable[[str], str], *, right: bool) -> str:
    if text is None:
        return dim(terminal.pad(NULL, width, right=right))
    return terminal.pad(text, width, right=right)


def _rule(corners: str, line: str, widths: list[int]) -> str:
    return corners[0] + corners[1].join(line * (width + 2) for width in widths) + corners[2]


def _row(line: str, cells: list[str]) -> str:
    return f"{line} " + f" {line} ".join(cells) + f" {line}"
