"""Single disk operations: every write, sync, rename and removal that must survive a crash is a call of this module.

So a test can simulate a crash, or a failing disk, at each of them.
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
    """Write all of `data`, in as many system calls as needed."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view[: 1 << 26]) :]


def create(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a new file; its data is durable, its name is not until the folder is synced.

    Raises:
        FileExistsError: the file exists.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for data in pieces:
            write(fd, data)
        sync(fd)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """Flush a file's data to the disk (fsync)."""
    os.fdatasync(fd)


def sync_file(path: Path) -> None:
    """Flush the data of a closed file, which another library wrote, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Flush a folder's directory entries to the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder atomically; an existing file or empty folder at `target` is replaced."""
    source.replace(target)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders atomically; False where the system or the file system cannot.

    Raises:
        FileNotFoundError: one of them does not exist.
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
    """Truncate a file to `size` bytes."""
    os.ftruncate(fd, size)


def unlink(paths: Iterable[Path]) -> None:
    """Remove files; missing ones are ignored."""
    for path in paths:
        path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, as far as possible; missing ones are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}
_AT_FDCWD, _EXCHANGE = -100, 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS


def _swapper() -> Callable[[bytes, bytes], int] | None:
    """The system call that exchanges two names, which Python's `os` lacks; None where the system has none."""
    lib: Any = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin" and hasattr(lib, "renamex_np"):
        return lambda one, other: int(lib.renamex_np(one, other, ctypes.c_uint(_EXCHANGE)))
    if hasattr(lib, "renameat2"):
        return lambda one, other: int(lib.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, ctypes.c_uint(_EXCHANGE)))
    return None


_swap = _swapper()
