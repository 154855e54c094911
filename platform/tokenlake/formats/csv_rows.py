r"""CSV (RFC 4180 with `\n`): null is nothing and empty text is `""`, as DuckDB writes them."""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING

from tokenlake.formats import terminal, values
from tokenlake.formats.answer import Answer
from tokenlake.formats.layout import Layout
from tokenlake.formats.rows import texts

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

_NEEDS_QUOTES = re.compile(r'[,"\n\r]|^\s|\s$|^$')


def write(answer: Answer, file: IO[str], layout: Layout) -> None:
    """Write a header and all rows; on a terminal, control characters within values are shown, not sent."""
    safe = terminal.shown_in_lines if file.isatty() else str
    file.write(safe(",".join(_quoted(name) for name in answer.names) + "\n"))
    cells = [_cell(f"#{number}", kind) for number, kind in enumerate(answer.kinds, 1)]
    row = ", ',', ".join(cells)
    for text in texts(answer, f"concat({row}, chr(10))"):
        file.write(safe(text))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if _NEEDS_QUOTES.search(name) else name


def _cell(x: str, kind: DuckDBPyType) -> str:
    text = values.csv_text(x, kind)
    if values.kind_of(kind) in values.INDIVISIBLE:
        return text
    return (
        f"""CASE WHEN regexp_matches({text}, '[,"\\n\\r]|^\\s|\\s$|^$') """
        f"""THEN '"' || replace({text}, '"', '""') || '"' ELSE {text} END"""
    )
