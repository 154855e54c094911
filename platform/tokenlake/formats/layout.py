"""How much of an answer people see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Bounds of what is printed for people (table, line, markdown, html); CSV, JSON and Parquet are always whole.

    Attributes:
        rows: most rows; None for all.
        width: columns of the terminal; None for as wide as needed, as in files and pipes.
    """

    rows: int | None = 50
    width: int | None = None
