"""Where the logs of a store's tail lie: files beside its segments, or streams of a Redis that many writers share.

A place keeps logs by number. A log is a sequence of frames (log.py), and a position in it is where its next frame goes:
a byte of a file, an entry of a stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from tokenlake.errors import CorruptionError
from tokenlake.storage import disk, records
from tokenlake.tokens.manifest import Manifest

#: Kinds of frames: rows, the log's end, its beginning, and what keeps appends out and lets them in again.
ROWS, SEAL, START, FENCE, LIFT = 1, 2, 3, 4, 5


class Reader(Protocol):
    """The frames of one log, as far as they were not read yet.

    Attributes:
        at: position behind the frames that were read.
    """

    at: int

    @property
    def grown(self) -> bool:
        """Whether it is worth to read."""

    def read(self) -> list[tuple[int, bytes]]:
        """The new frames: kind and payload.

        Raises:
            FileNotFoundError: the log is gone; never of a file, which stays readable without its name.
            CorruptionError: a frame's bytes are not what was written.
        """

    def passed(self, data: bytes) -> None:
        """Go past a frame that was just written at `at`."""


class Place(Protocol):
    """The logs of one store.

    Attributes:
        shared: appends need no lock, since `append` compares; a publication fences its log instead.
    """

    shared: bool

    def __str__(self) -> str:
        """Where it is, for people; without secrets."""

    def name(self, number: int) -> str:
        """What a log is called there, for messages."""

    def claim(self, *, again: bool = False) -> None:
        """See that it is this folder that writes these logs, and not one that it was copied from; the first one does.

        Args:
            again: look though it was seen before.

        Raises:
            ConfigError: another folder does; nothing was written.
        """

    @property
    def owned(self) -> bool:
        """Whether `claim` would go through."""

    def reader(self, number: int) -> Reader:
        """Read a log from its start.

        Raises:
            FileNotFoundError: there is none of that number.
        """

    def append(self, number: int, at: int, data: bytes) -> bool:
        """Write one frame at position `at`, durably; False: something else is there already, or the log is gone.

        A place that is not shared is written under the store's tail lock, by whoever has read all of the log.
        """

    def write(self, number: int, frames: Iterable[bytes]) -> None:
        """Make a log of just these frames, durably."""

    def later(self, number: int) -> int:
        """The first log of this number or a later one that is published.

        Raises:
            CorruptionError: there is none.
        """

    def lost(self, number: int) -> CorruptionError:
        """That a published log is not there."""

    def sweep(self, newest: int) -> None:
        """Remove every log but the newest and the two before it."""

    def erase(self, newest: int) -> None:
        """Remove every log, for good; what is gone already is fine."""

    def keep(self, number: int, folder: Path) -> None:
        """Make a log stay readable as a file of another store's folder, however this one goes on.

        Raises:
            FileNotFoundError: it is gone.
        """


class LogFiles:
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
        """Its path."""
        return str(self.path(number))

    def numbers(self) -> list[int]:
        """Every log there is."""
        return sorted(int(path.stem) for path in self._folder.glob("*.log"))

    def claim(self, *, again: bool = False) -> None:
        """A copied folder has copied files."""

    def reader(self, number: int) -> records.LogReader:
        """Open the file."""
        return records.LogReader(self.path(number))

    def append(self, number: int, at: int, data: bytes) -> bool:
        """Write behind the last whole frame."""
        records.append(self.path(number), at, data)
        return True

    def write(self, number: int, frames: Iterable[bytes]) -> None:
        """Write the file and sync it."""
        self._folder.mkdir(exist_ok=True)
        disk.unlink([self.path(number)])
        disk.create(self.path(number), frames)
        disk.sync_folder(self._folder)

    def later(self, number: int) -> int:
        """Look for the files: those that are not published yet come after one that is."""
        found = [n for n in self.numbers() if n >= number]
        if not found:
            raise self.lost(number)
        return found[0]

    def lost(self, number: int) -> CorruptionError:
        """That a file is gone."""
        return CorruptionError(f"{self.name(number)}: this file of the store is missing; rebuild the store")

    def sweep(self, newest: int) -> None:
        """Remove the files."""
        disk.unlink(self.path(n) for n in self.numbers() if not newest - 2 <= n <= newest)

    def erase(self, newest: int) -> None:
        """Remove the files."""
        disk.unlink(self.path(n) for n in self.numbers())

    def keep(self, number: int, folder: Path) -> None:
        """Link it, which costs no bytes until this store lets go of it."""
        target = LogFiles(folder).path(number)
        if not target.exists():
            target.hardlink_to(self.path(number))


def place_of(folder: Path, manifest: Manifest) -> Place:
    """Where the tail of a store lies.

    Raises:
        MissingExtraError: it lies in Redis, whose package is not installed.
        ConfigError: its address cannot be used.
    """
    if manifest.tail is None:
        return LogFiles(folder)
    from tokenlake.tokens.streams import Streams

    return Streams(folder, manifest.tail)
