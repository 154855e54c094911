"""The write-ahead log of a store, which is its tail: appended rows, durable before the append returns.

A backend keeps logs by number: files beside the segments (here), or streams of a Redis that many writers share
(wal_redis.py). A log is a sequence of records (storage/records.py), and a position in it is where its next record goes:
a byte of a file, an entry of a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from tokenlake.errors import CorruptionError
from tokenlake.storage import disk, records

#: Kinds of records: rows, the log's end, its beginning, and a fence that keeps appends out, and its removal.
ROWS, SEAL, START, FENCE, UNFENCE = 1, 2, 3, 4, 5


class WalReader(Protocol):
    """The records of one log, as far as they were not read yet.

    Attributes:
        at: position behind the records that were read.
    """

    position: int

    @property
    def has_more(self) -> bool:
        """Whether there may be records that were not read yet."""

    def read(self) -> list[tuple[int, bytes]]:
        """The new records: kind and payload.

        Raises:
            FileNotFoundError: the log is gone; never of a file, which stays readable without its name.
            CorruptionError: a record's bytes are not what was written.
        """

    def advance(self, data: bytes) -> None:
        """Move behind a record that was just written at `position`."""


class LogBackend(Protocol):
    """The logs of one store.

    Attributes:
        shared: appends need no lock, since `append` compares; a publication fences its log instead.
    """

    shared: bool

    def __str__(self) -> str:
        """Where the logs lie, for messages; without passwords."""

    def name(self, number: int) -> str:
        """The log's name in the backend, for messages."""

    def claim(self, *, again: bool = False) -> None:
        """Claim these logs for this folder. The first folder to claim them owns them; a copy of that folder is refused.

        Args:
            again: ask the backend even if this object has claimed them before.

        Raises:
            ConfigError: another folder does; nothing was written.
        """

    @property
    def owned(self) -> bool:
        """Whether `claim` would succeed."""

    def reader(self, number: int) -> WalReader:
        """Read a log from its start.

        Raises:
            FileNotFoundError: there is none of that number.
        """

    def append(self, number: int, at: int, data: bytes) -> bool:
        """Write one record at position `at`, durably; False: something else is there already, or the log is gone.

        One that is not shared is written under the store's tail lock, by a writer that has read all of the log.
        """

    def write(self, number: int, packed: Iterable[bytes]) -> None:
        """Make a log of just these records, durably."""

    def next_published(self, number: int) -> int:
        """The first log of this number or a later one that is published.

        Raises:
            CorruptionError: there is none.
        """

    def missing_error(self, number: int) -> CorruptionError:
        """The error for a published log that is missing."""

    def collect_garbage(self, newest: int) -> None:
        """Remove every log but the newest and the two before it."""

    def remove_all(self, newest: int) -> None:
        """Remove every log; logs that are gone already are no error."""

    def mirror(self, number: int, folder: Path) -> None:
        """Make a log stay readable as a file of another store's folder, however this one goes on.

        Raises:
            FileNotFoundError: it is gone.
        """


class DiskLogs:
    """Logs as files of the store's folder, `tail/00000007.log`."""

    shared = False
    owned = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tail"

    def __str__(self) -> str:
        """The disk."""
        return "disk"

    def path(self, number: int) -> Path:
        """File of a log."""
        return self._folder / f"{number:08d}.log"

    def name(self, number: int) -> str:
        """The file's path."""
        return str(self.path(number))

    def numbers(self) -> list[int]:
        """Every log there is."""
        return sorted(int(path.stem) for path in self._folder.glob("*.log"))

    def claim(self, *, again: bool = False) -> None:
        """Do nothing: a copied folder has its own copies of the files."""

    def reader(self, number: int) -> records.LogReader:
        """Open the file."""
        return records.LogReader(self.path(number))

    def append(self, number: int, at: int, data: bytes) -> bool:
        """Write behind the last whole record."""
        records.append(self.path(number), at, data)
        return True

    def write(self, number: int, packed: Iterable[bytes]) -> None:
        """Write the file and sync it."""
        self._folder.mkdir(exist_ok=True)
        disk.unlink([self.path(number)])
        disk.create(self.path(number), packed)
        disk.sync_folder(self._folder)

    def next_published(self, number: int) -> int:
        """Look for the files: those that are not published yet come after one that is."""
        found = [n for n in self.numbers() if n >= number]
        if not found:
            raise self.missing_error(number)
        return found[0]

    def missing_error(self, number: int) -> CorruptionError:
        """The error for a missing file."""
        return CorruptionError(f"{self.name(number)}: this file of the store is missing; rebuild the store")

    def collect_garbage(self, newest: int) -> None:
        """Remove the files."""
        disk.unlink(self.path(n) for n in self.numbers() if not newest - 2 <= n <= newest)

    def remove_all(self, newest: int) -> None:
        """Remove the files."""
        disk.unlink(self.path(n) for n in self.numbers())

    def mirror(self, number: int, folder: Path) -> None:
        """Make a hard link, which takes no space until this store removes the log."""
        target = DiskLogs(folder).path(number)
        if not target.exists():
            target.hardlink_to(self.path(number))


class MirroredLog:
    """A copy of one log, kept up to date in another folder.

    Attributes:
        folder: the store that keeps it; number: the log's.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self._path = DiskLogs(folder).path(number)
        self._reader: records.LogReader | None = None
        self._count = 0
        self._sealed = False

    def extend(self, read: Callable[[int], list[tuple[int, bytes]]]) -> None:
        """Add what the copy does not hold yet.

        Args:
            read: gives the records behind the first so many.

        Raises:
            FileNotFoundError: the log is gone, and the copy does not hold its end.
        """
        with FileLock(self.folder / "tail.lock"):
            self._read_copy()
            if self._sealed:
                return
            if fresh := read(self._count):
                at = 0 if self._reader is None else self._reader.position
                records.append(self._path, at, b"".join(records.pack(kind, payload) for kind, payload in fresh))

    def _read_copy(self) -> None:
        """Count what this and other processes have copied."""
        if self._reader is None or not self._path.exists():
            self._reader = records.LogReader(self._path) if self._path.exists() else None
            self._count = 0
        if self._reader is not None:
            found = self._reader.read()
            self._count += len(found)
            self._sealed = self._sealed or any(kind == SEAL for kind, _ in found)
