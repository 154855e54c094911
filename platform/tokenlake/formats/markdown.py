"""A table of Markdown, for tickets and notes."""

from __future__ import annotations

import re
from typing import IO

from tokenlake.formats.answer import Answer
from tokenlake.formats.cells import NULL, shown
from tokenlake.formats.layout import Layout

_MARKS = re.compile(r"[\\`*_{}\[\]<>|~&#]")


def write(answer: Answer, file: IO[str], layout: Layout) -> None:
    """Write the first rows; what Markdown would read as a mark is escaped."""
    table = shown(answer, layout.rows)
    file.write(_row([_literal(column.name) for column in table.columns]))
    file.write(_row(["---:" if column.right else "---" for column in table.columns]))
    for number in range(table.rows):
        cells = [column.cells[number] for column in table.columns]
        file.write(_row([NULL if text is None else _literal(text) for text in cells]))
    if table.more:
        file.write(f"\n{table.footer}\n")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _literal(text: str) -> str:
    return _MARKS.sub(r"\\\g<0>", text)
