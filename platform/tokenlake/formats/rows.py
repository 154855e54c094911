"""Rows that DuckDB wrote as text, as blocks of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenlake.formats.answer import Answer

if TYPE_CHECKING:
    import pyarrow as pa


def texts(answer: Answer, expression: str) -> Iterator[str]:
    """The text of each batch of rows.

    Args:
        answer: the rows.
        expression: SQL that writes one row, with its separator.
    """
    for batch in answer.project([f"{expression} AS row"]):
        if batch.num_rows:
            yield _text(batch.column(0))


def _text(column: pa.Array) -> str:
    """The texts of a column without nulls, one behind the other: that is how Arrow holds them."""
    import pyarrow as pa

    column = column.cast(pa.large_string())
    _, offsets, data = column.buffers()
    if offsets is None or data is None:
        return ""
    where = memoryview(offsets).cast("q")
    begin, end = where[column.offset], where[column.offset + len(column)]
    return str(memoryview(data)[begin:end], "utf-8")
