"""Consistent reads of files that other processes may change meanwhile.

A file that is *replaced* (another one is renamed to its name) stays unchanged for a process that holds it open. A file
that is written in place changes; its size or modification time shows it, and the reader starts again.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from tokenlake.errors import ChangedError, DamagedSourceError

T = TypeVar("T")

#: Most files of one source that are held open; with more, each is opened when it is read, and its identity is checked.
HELD = 64
_TRIES = 5
#: Seconds within which a file that is being written grows.
_MOMENT = 0.02


class FileHandle:
    """One file of a local disk or of another file system.

    Args:
        path: path of the file.
        filesystem: None for the local one.
        keep: hold the file open after its first use.
    """

    def __init__(self, path: str, filesystem: pafs.FileSystem | None = None, *, keep: bool = True) -> None:
        self.path = path
        self._remote = None if isinstance(filesystem, pafs.LocalFileSystem) else filesystem
        self._keep = keep
        self._handle: pa.NativeFile | None = None
        self._identity: tuple[int, ...] | None = None

    @property
    def local(self) -> bool:
        """Whether the file is on a local disk."""
        return self._remote is None

    def open(self) -> pa.NativeFile:
        """A handle for reading at any position, from any thread; the caller must not close it.

        Raises:
            ChangedError: the path names another file than before.
            OSError: the file cannot be opened.
        """
        if self._handle is not None:
            return self._handle
        handle = pa.OSFile(self.path) if self._remote is None else self._remote.open_input_file(self.path)
        self._same(self._stat(handle))
        if self._keep:
            self._handle = handle
        return handle

    def check(self) -> None:
        """Check that the file did not change while it was read.

        Raises:
            ChangedError: the file changed.
        """
        if self._identity is not None:
            with self._gone():
                self._same(self._stat(self._handle))

    @contextlib.contextmanager
    def reading(self, kind: str) -> Iterator[None]:
        """Turn errors of the block into Tokenlake errors: the file is damaged, or it is being written.

        Raises:
            DamagedSourceError: the file is not a valid `kind`.
            ChangedError: another process is writing the file.
        """
        try:
            yield
        except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
            self._settled()
            said = str(error).strip().split("\n")[0].rstrip(".")
            raise DamagedSourceError(
                f"{self.path} cannot be read as {kind} ({said}); restore it from a copy, or write it anew"
            ) from error

    def _settled(self) -> None:
        """Raise `ChangedError` where a file that looks damaged is still being written, or was replaced."""
        before = self._identity
        with self._gone():
            if before is None:
                before = self._stat(None)
            time.sleep(_MOMENT)
            if self._stat(None) != before:
                raise self._changed()

    def _same(self, identity: tuple[int, ...]) -> None:
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise self._changed()

    def _stat(self, handle: pa.NativeFile | None) -> tuple[int, ...]:
        if self._remote is not None:
            info = self._remote.get_file_info(self.path)
            return (info.size or 0, info.mtime_ns or 0)
        found = Path(self.path).stat() if handle is None else os.fstat(handle.fileno())
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    @contextlib.contextmanager
    def _gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._changed() from error

    def _changed(self) -> ChangedError:
        return ChangedError(f"{self.path} was written while it was read; try again when its writer is done")


def steady(attempt: Callable[[], T]) -> T:
    """Return the result of `attempt`, which is called again where a file changed meanwhile.

    Args:
        attempt: opens its files itself, and checks them after reading.

    Raises:
        ChangedError: the files changed during every attempt.
    """
    for number in range(1, _TRIES):
        try:
            return attempt()
        except ChangedError:
            time.sleep(_MOMENT * number)
    return attempt()
