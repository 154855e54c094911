"""How long work tells how far it is: one protocol for ingest, jobs, reports and data sets."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by long work, after each step of it.

    Args:
        what: what is being done, such as a version's name or "reading"; each has a count of its own.
        done: how much of it is done.
        total: how much there is.
    """

    def __call__(self, what: str, done: int, total: int, /) -> None: ...  # noqa: D102  # told by the class
