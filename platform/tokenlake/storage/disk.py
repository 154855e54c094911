"""What changes the disk, one call each: every write, sync, rename and removal that must survive a crash goes through here.

So a test can stop the world at each of them, or let the disk refuse it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, however many calls it takes."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view[: 1 << 26]) :]


def create(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a new file, durably but for its name.

    Raises:
        FileExistsError: there is one.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for data in pieces:
            write(fd, data)
        sync(fd)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """Bring a file's data to the disk."""
    os.fdatasync(fd)


def sync_file(path: Path) -> None:
    """Bring the data of a file that another library wrote to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name, atomically; a file, or an empty folder, of that name is replaced."""
    source.replace(target)


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders change names, atomically; False where the system or the file system cannot.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    if _swap is None:
        return False
    if _swap(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def truncate(fd: int, size: int) -> None:
    """Cut a file to a size."""
    os.ftruncate(fd, size)


def unlink(paths: Iterable[Path]) -> None:
    """Remove files; one that is gone already is fine."""
    for path in paths:
        path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that it holds, as far as it goes; what is gone already is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}
_AT_FDCWD, _EXCHANGE = -100, 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS


def _swapper() -> Callable[[bytes, bytes], int] | None:
    """The system's call that exchanges two names; Python has none."""
    lib: Any = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin" and hasattr(lib, "renamex_np"):
        return lambda one, other: int(lib.renamex_np(one, other, ctypes.c_uint(_EXCHANGE)))
    if hasattr(lib, "renameat2"):
        return lambda one, other: int(lib.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, ctypes.c_uint(_EXCHANGE)))
    return None


_swap = _swapper()
