"""Answers as HTML tables in a notebook."""

from __future__ import annotations

import io
import sys
from typing import Any
from weakref import WeakSet

import duckdb

#: Answers of lakes; other relations of DuckDB are shown as DuckDB shows them.
_ANSWERS: WeakSet[duckdb.DuckDBPyRelation] = WeakSet()


def show_as_html(relation: duckdb.DuckDBPyRelation) -> None:
    """Have IPython show a relation as a table of its first rows; nothing happens outside of IPython.

    Args:
        relation: an answer that may be displayed later.
    """
    shell = _shell()
    if shell is None:
        return
    _ANSWERS.add(relation)
    shell.display_formatter.formatters["text/html"].for_type(duckdb.DuckDBPyRelation, _html)


def _shell() -> Any:
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()


def _html(relation: duckdb.DuckDBPyRelation) -> str | None:
    if relation not in _ANSWERS:
        own: str | None = getattr(relation, "_repr_html_")()  # noqa: B009  DuckDB's stubs do not name it
        return own
    from tokenlake.formats import Answer, write  # only where an answer is displayed

    out = io.StringIO()
    write(Answer.of(relation), "html", out)
    return out.getvalue()
