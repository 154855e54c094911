"""Files and folders that appear whole or not at all, and replace others so: at every instant the old one or the new one.

What is being written lies beside its target as `.<name>-<32 hex digits>`, locked by its writer; the kernel releases the
lock when the writer ends, however it ends. So any number of processes may write one path (the last one wins), and each
removes what killed ones left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenlake.storage import disk


def write(path: Path, data: bytes | str) -> None:
    """Write a file whole, atomically and durably; text as UTF-8."""
    with file(path) as part, part.open("wb") as out:
        disk.write(out.fileno(), data.encode() if isinstance(data, str) else data)


@contextmanager
def file(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file that becomes `path` when the block ends well, durably; else nothing is left of it.

    The block writes into that file, and closes it.
    """
    with _beside(path, is_folder=False) as part:
        yield part
        disk.sync_file(part)
        disk.rename(part, path)
        disk.sync_folder(path.parent)


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Yield the path of an empty folder that becomes `path` when the block ends well, durably; else nothing is left of it.

    A folder of that name is replaced at once: who opens `path` finds the old one or the new one. Where the file system
    cannot exchange two names (NFS, for one), there is none for an instant; and if the writer is killed in it, the next
    one puts the old folder back. The folders above it are made when missing.

    Raises:
        NotADirectoryError: a file has that name; it is somebody's, and stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is to be written", str(path))
    with _beside(path, is_folder=True) as part:
        yield part
        _sync_tree(part)
        _put(part, path)
        disk.sync_folder(path.parent)


def swap(path: Path, data: bytes) -> None:
    """Write a small file whole, atomically and durably, by way of `<name>.new`; the caller is its one writer."""
    part = path.with_name(f"{path.name}.new")
    disk.unlink([part])
    disk.create(part, [data])
    disk.rename(part, path)
    disk.sync_folder(path.parent)


@contextmanager
def _beside(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """A new file or folder beside a path, locked; removed in the end, whatever it is by then."""
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
        os.close(fd)  # before it was locked, another process took it for a killed one's


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


def _lock(fd: int) -> bool | None:
    """Lock what is open; False: another process has it; None: this file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _clean(path: Path) -> None:
    """Remove what killed writers of a path left beside it; put back what one had set aside."""
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
            with contextlib.suppress(OSError):  # its writer lives, and has put the new one there
                disk.rename(aside, path)
        if path.exists():  # seen after the old one was: so it is a later one
            _discard(aside, path)


def _when_set_aside(aside: Path) -> float:
    try:
        return aside.stat().st_ctime
    except FileNotFoundError:  # its writer lives, and has just put it away
        return 0.0


def _discard(aside: Path, path: Path) -> None:
    """Remove what was set aside, under another name: nobody must put back what is half removed."""
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


#: Where two names cannot be exchanged, the old folder gets this at the end of its successor's temporary name.
_ASIDE = ".old"


def _put(part: Path, path: Path) -> None:
    """Let a folder take a path; what was there before, if anything, lies at `part` then."""
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
