"""Every write, sync, rename and unlink of the store, so that a test can stop the world at each of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, however many calls it takes."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view[: 1 << 26]) :]


def sync(fd: int) -> None:
    """Bring a file's data to the disk."""
    os.fdatasync(fd)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Put a file in another's place, atomically."""
    source.replace(target)


def truncate(fd: int, size: int) -> None:
    """Cut a file to a size."""
    os.ftruncate(fd, size)


def unlink(paths: Iterable[Path]) -> None:
    """Remove files; one that is gone already is fine."""
    for path in paths:
        path.unlink(missing_ok=True)


class Sink:
    """A file to write once, as Arrow's writers expect one; on the disk when `close` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._at = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Append bytes or an Arrow buffer."""
        view = memoryview(data).cast("B")
        write(self._fd, view)
        self._at += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._at

    def flush(self) -> None:
        """Nothing is buffered here."""

    def writable(self) -> bool:
        """Always."""
        return True

    def close(self, *, keep: bool = True) -> None:
        """Sync and close; or, when it is not to be kept, close and remove."""
        if self.closed:
            return
        self.closed = True
        try:
            if keep:
                sync(self._fd)
        finally:
            os.close(self._fd)
        if not keep:
            unlink([self.path])


def replace(path: Path, data: bytes) -> None:
    """Write a small file whole, atomically and durably."""
    temporary = path.with_name(f"{path.name}.new")
    unlink([temporary])
    sink = Sink(temporary)
    sink.write(data)
    sink.close()
    rename(temporary, path)
    sync_folder(path.parent)
