"""Atomic writes of files and folders: a reader sees the complete old one or the complete new one.

Data is written beside its target as `.<name>-<32 hex digits>`, locked by its writer; the kernel releases the lock when
the writer ends, even if it is killed. So any number of processes may write one path (the last one wins), and each
removes temporary files of killed writers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenlake.storage import disk


def write(path: Path, data: bytes | str) -> None:
    """Write a file atomically and durably; text as UTF-8."""
    with file(path) as part, part.open("wb") as out:
        disk.write(out.fileno(), data.encode() if isinstance(data, str) else data)


@contextmanager
def file(path: Path) -> Iterator[Path]:
    """Yield the path of an empty temporary file, which durably replaces `path` if the block succeeds, else is removed.

    The block writes into that file, and closes it.
    """
    with _beside(path, is_folder=False) as part:
        yield part
        disk.sync_file(part)
        disk.rename(part, path)
        disk.sync_folder(path.parent)


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Yield the path of an empty temporary folder, which durably replaces `path` if the block succeeds, else is removed.

    An existing folder is replaced atomically: `path` is the old one or the new one. On a file system that cannot
    exchange two names (such as NFS), `path` is missing for an instant; if the writer is killed then, the next writer
    restores the old folder. Parent folders are created when missing.

    Raises:
        NotADirectoryError: `path` is a file; it is not changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_file(path):
        raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is to be written", str(path))
    with _beside(path, is_folder=True) as part:
        yield part
        _sync_tree(part)
        _put(part, path)
        disk.sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a folder, so that it is there whole or not at all, with what killed writers and removers of it have left."""
    _clean(path)
    if path.exists():
        part = _temporary(path)
        disk.rename(path, part)
        disk.remove(part)


def swap(path: Path, data: bytes) -> None:
    """Write a small file atomically and durably, by way of `<name>.new`; the caller must be its only writer."""
    part = path.with_name(f"{path.name}.new")
    disk.unlink([part])
    disk.create(part, [data])
    disk.rename(part, path)
    disk.sync_folder(path.parent)


def _is_file(path: Path) -> bool:
    """Whether anything but a folder stands there; asked once, since another writer may put a folder aside meanwhile."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def _beside(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield a new locked file or folder beside a path; whatever has its name at the end is removed."""
    _clean(path)
    part, fd = _make(path, is_folder=is_folder)
    try:
        yield part
    finally:
        disk.remove(part)
        os.close(fd)


def _make(path: Path, *, is_folder: bool) -> tuple[Path, int]:
    while True:
        part = _temporary(path)
        if is_folder:
            part.mkdir()
        try:
            fd = os.open(part, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            if not path.parent.exists():
                raise
            continue  # as below
        if _lock(fd) is not False and part.exists():
            return part, fd
        os.close(fd)  # before it was locked, another process took it for one of a killed writer


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


def _lock(fd: int) -> bool | None:
    """Lock an open file; False: another process holds the lock; None: the file system does not support locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _clean(path: Path) -> None:
    """Remove temporary files of killed writers of a path; restore the old folder that one of them had moved aside."""
    for part in _left(path, ""):
        with contextlib.suppress(OSError):  # another process was faster
            fd = os.open(part, os.O_RDONLY)
            try:
                if _lock(fd):
                    disk.remove(part)
            finally:
                os.close(fd)
    for aside in sorted(_left(path, _ASIDE), key=_when_set_aside, reverse=True):
        if not path.exists():
            with contextlib.suppress(OSError):  # its writer is alive, and has put the new one there
                disk.rename(aside, path)
        if path.exists():  # checked after the old one was seen: so it is a later one
            _discard(aside, path)


def _when_set_aside(aside: Path) -> float:
    try:
        return aside.stat().st_ctime
    except FileNotFoundError:  # its writer is alive, and has just moved it
        return 0.0


def _discard(aside: Path, path: Path) -> None:
    """Rename a folder that was moved aside, then remove it: a half removed folder must not be restored."""
    part = _temporary(path)
    with contextlib.suppress(FileNotFoundError):
        disk.rename(aside, part)
        disk.remove(part)


def _left(path: Path, end: str) -> list[Path]:
    mark = re.compile(rf"\.{re.escape(path.name)}-[0-9a-f]{{32}}{re.escape(end)}")
    return [part for part in path.parent.iterdir() if mark.fullmatch(part.name)]


def _sync_tree(part: Path) -> None:
    for root, _, names in os.walk(part, topdown=False):
        for name in names:
            disk.sync_file(Path(root, name))
        disk.sync_folder(Path(root))


#: Suffix of the old folder, after its successor's temporary name, where the system cannot exchange two names.
_ASIDE = ".old"


def _put(part: Path, path: Path) -> None:
    """Move the folder `part` to `path`; a folder that was at `path` is at `part` afterwards."""
    aside = part.with_name(part.name + _ASIDE)
    while True:
        with contextlib.suppress(FileNotFoundError):  # nothing to replace
            if disk.exchange(part, path):
                return
            disk.rename(path, aside)
        try:
            disk.rename(part, path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # another process has put one there meanwhile
                _discard(aside, path)
                continue
            with contextlib.suppress(OSError):  # if not now, then the next writer does
                disk.rename(aside, path)
            raise
        with contextlib.suppress(OSError):  # nothing was set aside; or the next writer removes it
            disk.rename(aside, part)
        return
