"""Garbage collection: remove a whole store, and orphaned streams, those of stores whose folders are gone.

A removal that was cut short is completed by the next one. Its steps:

1. The manifest gets another name: from this instant there is no store, and what is left still says where its logs lie.
2. The logs go, then the files, that manifest last, and the folder.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenlake.errors import ConfigError, CorruptionError, NotFoundError
from tokenlake.storage import disk
from tokenlake.storage.redis.connection import Connection
from tokenlake.tokens import ids
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.handle import locked, storage_errors, tail_locked
from tokenlake.tokens.tail import backend_of
from tokenlake.tokens.wal import LogBackend

LOCKS = ("write.lock", "write.lock.holder", "tail.lock")


def remove_store(folder: Path) -> None:
    """Remove a store, or what an earlier removal left of it.

    Raises:
        NotFoundError: there is none.
        LockedError: another process writes.
        ServiceError: its Redis does not answer.
    """
    manifest_file, removed_file = folder / manifests.NAME, folder / manifests.REMOVED
    if not (manifest_file.exists() or removed_file.exists()):
        raise NotFoundError(f"{folder} holds no token store to remove")
    with locked(folder, "remove"):
        if manifest_file.exists():
            manifest = manifests.load(folder)
            backend = backend_of(folder, manifest)
            owned = backend.owned  # asks a Redis, so that one that is away is met before anything is done
            with _exclude_appends(folder, backend):
                disk.rename(manifest_file, removed_file)
                disk.sync_folder(folder)
        elif removed_file.exists():
            manifest = manifests.load(folder, manifests.REMOVED)
            backend = backend_of(folder, manifest)
            owned = (folder / "segments").is_dir() and backend.owned  # they go after the logs
        else:
            raise NotFoundError(f"{folder} holds no token store to remove")
        if owned:
            backend.remove_all(manifest.log)
        for name in ("tail", "segments"):
            _empty(folder / name)
        for name in (ids.NAME, f"{ids.NAME}.new", f"{manifests.NAME}.new", *LOCKS, removed_file.name):
            disk.unlink([folder / name])
        with contextlib.suppress(OSError):  # somebody put another file there
            folder.rmdir()


@contextlib.contextmanager
def _exclude_appends(folder: Path, backend: LogBackend) -> Iterator[None]:
    """A writer of a shared tail looks for the manifest before each try, and adds to no log that is gone."""
    if backend.shared:
        with storage_errors():
            yield
    else:
        with tail_locked(folder):
            yield


def _empty(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            disk.unlink([path])
        folder.rmdir()


_KEY = re.compile(rb"tokenlake:\{(\w+)\}:(?:tail:\d+|owner|sync)")
StreamState = Literal["in use", "gone", "elsewhere", "unknown"]


@dataclass(frozen=True)
class StoreStreams:
    """What one store has in a Redis.

    Attributes:
        store: its name there; keys: of its streams and notes.
        folder, host: where it was when it was last written; None: it was made before that was noted.
        entries: of all its streams.
        idle: seconds since somebody read or wrote one of them; None: the server does not tell.
        state: `in use`: the folder is here and names it; `gone`: it should be here, and is not; `elsewhere`: another
            machine's, or another container's, where nobody can look from here; `unknown`: nothing is noted.
    """

    store: str
    keys: tuple[bytes, ...]
    folder: str | None
    host: str | None
    entries: int
    idle: int | None
    state: StreamState


def streams_in(url: str) -> list[StoreStreams]:
    """Everything that stores have in a Redis, by name.

    Raises:
        ConfigError: the address is none, or access is refused.
        ServiceError: it does not answer.
    """
    redis = Connection(url, "what stores keep there")
    keys: dict[str, list[bytes]] = {}
    for key in redis.run(lambda client: list(client.scan_iter(match="tokenlake:{*}:*", count=1000))):
        if found := _KEY.fullmatch(key):
            keys.setdefault(found[1].decode(), []).append(key)
    return [_streams_of(redis, store, sorted(keys[store])) for store in sorted(keys)]


def remove_streams(url: str, store: str) -> None:
    """Remove what a store has in a Redis, once its folder is gone.

    Raises:
        NotFoundError: it has nothing there.
        ConfigError: its folder is here and needs it.
    """
    streams = next((held for held in streams_in(url) if held.store == store), None)
    if streams is None:
        raise NotFoundError(f"{url} holds nothing of a store {store!r}")
    if streams.state == "in use":
        raise ConfigError(
            f"the store at {streams.folder} needs what {url} holds of it; `TokenStore.remove` removes both"
        )
    Connection(url, "what stores keep there").run(lambda client: client.unlink(*streams.keys))


def _streams_of(redis: Connection, store: str, keys: list[bytes]) -> StoreStreams:
    logs = [key for key in keys if b":tail:" in key]

    def ask(client: Any) -> tuple[bytes | None, list[int], list[Any]]:
        with client.pipeline(transaction=False) as pipe:
            for key in logs:  # first: to count them is to use them
                pipe.object("idletime", key)
            idle = pipe.execute(raise_on_error=False)
            for key in logs:
                pipe.xlen(key)
            return client.get(f"tokenlake:{{{store}}}:owner"), pipe.execute(), idle

    data, counts, idle = redis.run(ask)
    note = {"folder": None, "host": None} if data is None else json.loads(data)
    return StoreStreams(
        store,
        tuple(keys),
        note["folder"],
        note["host"],
        sum(counts),
        min((seconds for seconds in idle if isinstance(seconds, int)), default=None),
        _state(store, note["folder"], note["host"]),
    )


def _state(store: str, folder: str | None, host: str | None) -> StreamState:
    if folder is None:
        return "unknown"
    for name in (manifests.NAME, manifests.REMOVED):
        try:
            tail = manifests.load(Path(folder), name).tail
        except NotFoundError:
            continue
        except CorruptionError:
            return "in use"  # it may name this one
        if tail is not None and tail.store == store:
            return "in use"
    return "gone" if host == socket.gethostname() else "elsewhere"
