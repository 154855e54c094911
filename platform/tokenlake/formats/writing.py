"""One answer in one format."""

from __future__ import annotations

import importlib
import re
from typing import IO, Any

import duckdb

from tokenlake.errors import SchemaError
from tokenlake.formats.answer import Answer
from tokenlake.formats.layout import Layout

#: Modules of the formats, each imported when it is asked for.
_MODULES = {
    "table": "table",
    "line": "lines",
    "csv": "csv_rows",
    "json": "json_rows",
    "markdown": "markdown",
    "html": "html_table",
    "parquet": "parquet",
    "box": "table",
}
FORMATS: tuple[str, ...] = tuple(_MODULES)
_DEFAULT = Layout()
_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)


def write(answer: Answer, form: str, file: IO[Any], layout: Layout = _DEFAULT) -> None:
    """Write an answer.

    Args:
        answer: what to write; its question runs now.
        form: one of `FORMATS`; `box` is another name of `table`.
        file: an open file of text; of bytes for Parquet.
        layout: how much is printed for people.

    Raises:
        SchemaError: there is no such format, or a type is nested hundreds of levels deep.
        duckdb.Error: the question fails, also after its first rows; part of the answer may be written by then.
        OSError: the file cannot be written.
    """
    if form not in _MODULES:
        raise SchemaError(f"no format {form!r}; there are {', '.join(FORMATS)}")
    try:
        importlib.import_module(f"tokenlake.formats.{_MODULES[form]}").write(answer, file, layout)
    except duckdb.Error as error:
        raise type(error)(_LINE.sub(_of_question, str(error))) from error
    except RecursionError as error:
        raise SchemaError("a column's type is nested too deeply to be written; ask for its parts") from error


def _of_question(line: re.Match[str]) -> str:
    """The line that DuckDB names, counted in the question alone: two lines stand before it where it is a subquery."""
    return f"LINE {max(int(line[1]) - 2, 1)}:"
