"""A file that stays the same one from its first opening to its last, and what to do where it does not.

A file that is *replaced* (another is renamed to its name) stays as it was for those who hold it open. One that is
written in place does not: its size or time of change tells, and whoever reads it begins anew.
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

#: Files of one source that are held open; of more, each is opened when it is read, and known by its identity.
HELD = 64
_TRIES = 5
#: Seconds: within this a file that somebody is writing grows.
_MOMENT = 0.02


class FileHandle:
    """One file of a local disk or of another file system.

    Args:
        path: where it is.
        filesystem: None for the local one.
        keep: hold it open from the first use on.
    """

    def __init__(self, path: str, filesystem: pafs.FileSystem | None = None, *, keep: bool = True) -> None:
        self.path = path
        self._remote = None if isinstance(filesystem, pafs.LocalFileSystem) else filesystem
        self._keep = keep
        self._handle: pa.NativeFile | None = None
        self._identity: tuple[int, ...] | None = None

    @property
    def local(self) -> bool:
        """Whether it lies on a local disk."""
        return self._remote is None

    def open(self) -> pa.NativeFile:
        """A handle for reading at any place, from any thread; not to be closed by the caller.

        Raises:
            ChangedError: it is another file than before.
            OSError: it cannot be opened.
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
            ChangedError: it did.
        """
        if self._identity is not None:
            with self._gone():
                self._same(self._stat(self._handle))

    @contextlib.contextmanager
    def reading(self, kind: str) -> Iterator[None]:
        """Tell what is wrong with the file, or that it is being written.

        Raises:
            DamagedSourceError: what lies there is no `kind`.
            ChangedError: somebody is writing it.
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
        """Before a file is called damaged: is it still being written, or another one by now?"""
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
    """What `attempt` gives, begun anew where a file was written meanwhile.

    Args:
        attempt: opens its files itself, and checks them when it has read them.

    Raises:
        ChangedError: every time.
    """
    for number in range(1, _TRIES):
        try:
            return attempt()
        except ChangedError:
            time.sleep(_MOMENT * number)
    return attempt()
