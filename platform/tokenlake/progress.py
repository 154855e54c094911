"""The protocol of progress callbacks, for ingest, jobs, reports and data sets."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by long operations after each step.

    Args:
        what: name of the operation, such as a version or "reading"; each is counted separately.
        done: amount done so far.
        total: amount in total.
    """

    def __call__(self, what: str, done: int, total: int, /) -> None: ...  # noqa: D102  # told by the class
