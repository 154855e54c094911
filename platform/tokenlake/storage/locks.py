"""Locks between processes: a file each, released by the kernel when its holder ends, even by `kill -9`."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from tokenlake.errors import LockedError, StorageError


@contextlib.contextmanager
def hold(path: Path, what: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock while the block runs.

    A second `hold` of the same path waits or fails, whoever asks: another process, thread, or the same one.

    Args:
        path: the lock's file; its folder is made when missing. The file stays after release.
        what: what is being done, for the message that others get, such as `"ingest"`.
        timeout: seconds to wait for another holder; 0 fails at once.

    Raises:
        LockedError: another still holds it; the message says who, since when and for what.
        StorageError: the lock's file cannot be made.
    """
    note = path.with_name(path.name + ".holder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not a singleton: filelock would hand the same process its own lock again.
        lock = filelock.FileLock(path, is_singleton=False)
        lock.acquire(timeout=timeout, poll_interval=0.02)
    except filelock.Timeout as error:
        waited = f" after waiting {timeout:g} s" if timeout else ""
        raise LockedError(
            f"{what}: {path.name} is held{waited} by {_holder(note)}; try again when it is done"
        ) from error
    except OSError as error:
        raise StorageError(f"{what}: the lock {path} cannot be made ({error.strerror or error})") from error
    try:
        with contextlib.suppress(OSError):  # the note only serves the message; the lock is held all the same
            note.write_text(json.dumps(_me(what)), encoding="utf-8")
        yield
    finally:
        lock.release()


def _me(what: str) -> dict[str, str | int]:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "what": what, "since": now}


def _holder(note: Path) -> str:
    try:
        who = json.loads(note.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} ({who['what']}, since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has not written its note yet, or is writing it now
