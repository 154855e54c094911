"""A table of HTML, for notebooks."""

from __future__ import annotations

import html
from typing import IO

from tokenlake.formats.answer import Answer
from tokenlake.formats.cells import NULL, ShownColumn, shown
from tokenlake.formats.layout import Layout

_RIGHT = ' style="text-align: right"'


def write(answer: Answer, file: IO[str], layout: Layout) -> None:
    """Write the first rows; types are titles of the names, and nothing from data is markup."""
    table = shown(answer, layout.rows)
    file.write("<table>\n<thead><tr>" + "".join(map(_head, table.columns)) + "</tr></thead>\n<tbody>\n")
    for number in range(table.rows):
        file.write("<tr>" + "".join(_cell(column, number) for column in table.columns) + "</tr>\n")
    file.write(f"</tbody>\n</table>\n<p>{html.escape(table.footer)}</p>\n")


def _head(column: ShownColumn) -> str:
    return f'<th title="{html.escape(column.type)}"{_RIGHT if column.right else ""}>{html.escape(column.name)}</th>'


def _cell(column: ShownColumn, number: int) -> str:
    text = column.cells[number]
    inner = f'<span style="opacity: 0.5">{NULL}</span>' if text is None else html.escape(text)
    return f"<td{_RIGHT if column.right else ''}>{inner}</td>"
