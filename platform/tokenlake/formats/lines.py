"""One value a line, `name = value`: for rows that are too wide for a table."""

from __future__ import annotations

from typing import IO

from tokenlake.formats import terminal
from tokenlake.formats.answer import Answer
from tokenlake.formats.cells import NULL, plan, shown
from tokenlake.formats.layout import Layout


def write(answer: Answer, file: IO[str], layout: Layout) -> None:
    """Write the first rows, with an empty line behind each."""
    if answer.is_plan:
        plan(answer, file, layout)
        return
    table = shown(answer, layout.rows)
    names = max(terminal.width(column.name) for column in table.columns)
    for number in range(table.rows):
        for column in table.columns:
            text = column.cells[number]
            file.write(f"{terminal.pad(column.name, names, right=True)} = {NULL if text is None else text}\n")
        file.write("\n")
    file.write(table.footer + "\n")
