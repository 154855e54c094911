"""Let a writer die at a chosen write, sync, rename or removal of `tokenlake.storage.disk`.

In a process of its own (`python -m tests....crash`): one that has run other tests holds libraries that no forked child
survives.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from tokenlake.storage import disk

KILLED = 9
OPERATIONS = ("write", "sync", "sync_folder", "rename", "exchange", "truncate", "unlink", "remove")
#: Tells that an operation is due to be the last one.
Due = Callable[[], bool]


def arm(point: int) -> Due:
    """Let the process die at the given operation; a write dies with half of its bytes on the disk."""
    count = 0

    def due() -> bool:
        nonlocal count
        count += 1
        return count == point

    def wrap(name: str) -> None:
        plain = getattr(disk, name)

        def operation(*given: object) -> object:
            if due():
                if name == "write":
                    fd, data = given
                    view = memoryview(data).cast("B")  # type: ignore[arg-type]  # bytes or a view of them
                    os.write(fd, view[: len(view) // 2])  # type: ignore[arg-type]  # a descriptor
                os._exit(KILLED)
            return plain(*given)

        setattr(disk, name, operation)

    for name in OPERATIONS:
        wrap(name)
    return due


def die(
    write: Callable[[Callable[[], None]], None], point: int, arm: Callable[[int], object] = arm
) -> tuple[bool, int]:
    """Run something in a child that dies at `point`: whether it did, and how often it acknowledged."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        try:
            arm(point)
            write(lambda: _acknowledge(tell))
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        acknowledged = len(pipe.read())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, KILLED):
        raise SystemExit(f"point {point}: the writer failed with {status}")
    return status == KILLED, acknowledged


def _acknowledge(tell: int) -> None:
    os.write(tell, b".")
