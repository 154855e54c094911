"""File locks between processes; the kernel releases a lock when its holder ends, even by `kill -9`."""

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

    A second `hold` of the same path waits or fails, in another process, in another thread, and in the same thread.

    Args:
        path: the lock file; its folder is created when missing. The file stays after release.
        what: name of the operation, such as `"ingest"`; others see it in their error message.
        timeout: seconds to wait for another holder; 0 fails at once.

    Raises:
        LockedError: the lock is still held; the message names the holder, its operation, and since when.
        StorageError: the lock file cannot be created.
    """
    note = path.with_name(path.name + ".holder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not a singleton: filelock would let the same process take its own lock twice.
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
