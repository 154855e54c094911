"""What stores have in a Redis, and what is left there of folders that are gone."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenlake.errors import ConfigError, CorruptionError, NotFoundError
from tokenlake.storage.redis.connection import Connection
from tokenlake.tokens import manifest as manifests

_KEY = re.compile(rb"tokenlake:\{(\w+)\}:(?:tail:\d+|owner|sync)")
State = Literal["in use", "gone", "elsewhere", "unknown"]


@dataclass(frozen=True)
class Held:
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
    state: State


def look(url: str) -> list[Held]:
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
    return [_held(redis, store, sorted(keys[store])) for store in sorted(keys)]


def remove(url: str, store: str) -> None:
    """Remove what a store has in a Redis, once its folder is gone.

    Raises:
        NotFoundError: it has nothing there.
        ConfigError: its folder is here and needs it.
    """
    held = next((held for held in look(url) if held.store == store), None)
    if held is None:
        raise NotFoundError(f"{url} holds nothing of a store {store!r}")
    if held.state == "in use":
        raise ConfigError(f"the store at {held.folder} needs what {url} holds of it; `TokenStore.remove` removes both")
    Connection(url, "what stores keep there").run(lambda client: client.unlink(*held.keys))


def _held(redis: Connection, store: str, keys: list[bytes]) -> Held:
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
    return Held(
        store,
        tuple(keys),
        note["folder"],
        note["host"],
        sum(counts),
        min((seconds for seconds in idle if isinstance(seconds, int)), default=None),
        _state(store, note["folder"], note["host"]),
    )


def _state(store: str, folder: str | None, host: str | None) -> State:
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
