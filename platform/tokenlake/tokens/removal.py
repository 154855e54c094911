"""Remove a store, however often it takes.

1. The manifest gets another name: from this instant there is no store, and what is left still says where its logs lie.
2. The logs go, then the files, that manifest last, and the folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tokenlake.errors import NotFoundError
from tokenlake.storage import disk
from tokenlake.tokens import ids
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.handle import locked, refusals, tail_locked
from tokenlake.tokens.places import Place, place_of

LOCKS = ("write.lock", "write.lock.holder", "tail.lock")


def remove(folder: Path) -> None:
    """Remove a store, or what an earlier removal left of it.

    Raises:
        NotFoundError: there is none.
        LockedError: another process writes.
        ServiceError: its Redis does not answer.
    """
    there, going = folder / manifests.NAME, folder / manifests.REMOVED
    if not (there.exists() or going.exists()):
        raise NotFoundError(f"{folder} holds no token store to remove")
    with locked(folder, "remove"):
        if there.exists():
            manifest = manifests.load(folder)
            place = place_of(folder, manifest)
            mine = place.owned  # asks a Redis, so that one that is away is met before anything is done
            with _no_appends(folder, place):
                disk.rename(there, going)
                disk.sync_folder(folder)
        elif going.exists():
            manifest = manifests.load(folder, manifests.REMOVED)
            place = place_of(folder, manifest)
            mine = (folder / "segments").is_dir() and place.owned  # they go after the logs
        else:
            raise NotFoundError(f"{folder} holds no token store to remove")
        if mine:
            place.erase(manifest.log)
        for name in ("tail", "segments"):
            _empty(folder / name)
        for name in (ids.NAME, f"{ids.NAME}.new", f"{manifests.NAME}.new", *LOCKS, going.name):
            disk.unlink([folder / name])
        with contextlib.suppress(OSError):  # somebody put another file there
            folder.rmdir()


@contextlib.contextmanager
def _no_appends(folder: Path, place: Place) -> Iterator[None]:
    """A writer of a shared tail looks for the manifest before each try, and adds to no log that is gone."""
    if place.shared:
        with refusals():
            yield
    else:
        with tail_locked(folder):
            yield


def _empty(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            disk.unlink([path])
        folder.rmdir()
