"""A log that lies elsewhere, copied into a file as it grows, by however many processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from tokenlake.storage import records
from tokenlake.tokens.places import SEAL, LogFiles


class KeptLog:
    """The copy of one log.

    Attributes:
        folder: the store that keeps it; number: the log's.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self._path = LogFiles(folder).path(number)
        self._reader: records.LogReader | None = None
        self._held = 0
        self._whole = False

    def extend(self, read: Callable[[int], list[tuple[int, bytes]]]) -> None:
        """Add what the copy does not hold yet.

        Args:
            read: gives the frames behind the first so many.

        Raises:
            FileNotFoundError: the log is gone, and the copy does not hold its end.
        """
        with FileLock(self.folder / "tail.lock"):
            self._look()
            if self._whole:
                return
            if fresh := read(self._held):
                at = 0 if self._reader is None else self._reader.at
                records.append(self._path, at, b"".join(records.pack(kind, payload) for kind, payload in fresh))

    def _look(self) -> None:
        """Count what this and other processes have copied."""
        if self._reader is None or not self._path.exists():
            self._reader = records.LogReader(self._path) if self._path.exists() else None
            self._held = 0
        if self._reader is not None:
            found = self._reader.read()
            self._held += len(found)
            self._whole = self._whole or any(kind == SEAL for kind, _ in found)
