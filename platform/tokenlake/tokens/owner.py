"""Which folder writes a store's streams: a copy of it would name the same ones, and publish what it never held.

A folder is told from its copies by the inode numbers of itself and of its `segments/`: they stay when it is renamed, and
when owners and rights are changed, and differ in everything that is made of its files.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from tokenlake.errors import ConfigError
from tokenlake.storage.redis.connection import Connection


class Owner:
    """The note in Redis of the folder that writes a store's streams."""

    def __init__(self, redis: Connection, key: str, folder: Path) -> None:
        self._redis = redis
        self._key = key
        self._folder = folder
        self._claimed = False

    @property
    def other(self) -> str | None:
        """The folder that writes them, if it is not this one."""
        data: bytes | None = self._redis.run(lambda client: client.get(self._key))
        return None if data is None else self._other(json.loads(data))

    def claim(self, *, again: bool = False) -> None:
        """Write the note where there is none; see that it is of this folder.

        Raises:
            ConfigError: it is of another one.
        """
        if self._claimed and not again:
            return
        self._redis.require_durable()
        mine = self._mine()

        def ask(client: Any) -> bytes:
            with client.pipeline() as pipe:
                pipe.set(self._key, json.dumps(mine), nx=True)
                pipe.get(self._key)
                answer: bytes = pipe.execute()[1]
                return answer

        noted = json.loads(self._redis.run(ask))
        if (other := self._other(noted)) is not None:
            raise ConfigError(
                f"{self._folder} is a copy of the store at {other}, or was brought here from another disk, and the rows "
                f"appended to that one lie in {self._redis.url} under the same name: two stores would lose each other's. "
                f"`tokenlake.TokenStore.open({str(self._folder)!r}).fork()` copies them to a name of its own; until then it "
                f"can only be read"
            )
        if noted != mine:  # renamed
            self._redis.run(lambda client: client.set(self._key, json.dumps(mine)))
        self._claimed = True

    def forget(self) -> None:
        """Remove the note."""
        self._redis.run(lambda client: client.unlink(self._key))

    def _mine(self) -> dict[str, Any]:
        inodes = [path.stat().st_ino for path in (self._folder, self._folder / "segments")]
        return {"folder": str(self._folder.resolve()), "host": socket.gethostname(), "inodes": inodes}

    def _other(self, noted: dict[str, Any]) -> str | None:
        if noted["inodes"] == self._mine()["inodes"]:
            return None
        return f"{noted['folder']} on {noted['host']}"
