"""A store's write-ahead log in Redis, for many writers: one stream a log, one entry a record.

Entry n of a stream has the id `n-0`. Redis refuses an id that is not above the newest one, so that an `XADD` of the id
behind the entries that a writer has seen is an append and a comparison in one.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenlake.errors import ConfigError, CorruptionError, NotFoundError, SchemaError, StorageError
from tokenlake.storage import records
from tokenlake.storage.redis.connection import Connection
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.manifest import TailLocation
from tokenlake.tokens.wal import MirroredLog

#: Entries of one answer, so that a long log comes in several answers.
ENTRIES = 64
#: Redis takes no value above 512 MB.
LARGEST_APPEND = 256 << 20
#: Names of one command.
_NAMES = 512


def prefix(store: str) -> str:
    """What the keys of a store begin with; its name in braces, so that a cluster keeps them on one node."""
    return f"tokenlake:{{{store}}}"


class RedisLogs:
    """The logs of a store as the streams `tokenlake:{store}:tail:<number>`."""

    shared = True

    def __init__(self, folder: Path, location: TailLocation) -> None:
        self._folder = folder
        self._store = location.store
        self._prefix = prefix(location.store)
        self.redis = Connection(location.url, f"the tail of the store at {folder}")
        self._mirrored: MirroredLog | None = None
        self._ownership = Ownership(self.redis, f"{self._prefix}:owner", folder)

    def __str__(self) -> str:
        """The URL, which holds no password."""
        return self.redis.url

    def name(self, number: int) -> str:
        """The stream's key."""
        return f"{self._prefix}:tail:{number}"

    def claim(self, *, again: bool = False) -> None:
        """Claim the streams for this folder."""
        self._ownership.claim(again=again)

    @property
    def owned(self) -> bool:
        """Whether this folder owns the streams, or none does yet."""
        return self._ownership.other_folder is None

    def reader(self, number: int) -> StreamReader:
        """Read a stream from its start."""
        if not self.redis.run(lambda client: client.exists(self.name(number))):
            raise self.not_found_error(number)
        return StreamReader(self, number)

    def append(self, number: int, at: int, data: bytes) -> bool:
        """Add the entry behind `at`, unless there is one."""
        return self._add(number, at, data, make=False)

    def write(self, number: int, packed: Iterable[bytes]) -> None:
        """Make the stream anew."""
        self.redis.run(lambda client: client.unlink(self.name(number)))
        for at, data in enumerate(packed):
            if not self._add(number, at, data, make=at == 0):
                raise StorageError(f"{self.name(number)} of {self}: somebody else writes it too; do the same again")

    def next_published(self, number: int) -> int:
        """Look among the logs that the newest manifest and the two before it named."""

        def ask(client: Any) -> list[int]:
            with client.pipeline(transaction=False) as pipe:
                for candidate in candidates:
                    pipe.exists(self.name(candidate))
                return [n for n, there in zip(candidates, pipe.execute(), strict=True) if there]

        while True:
            manifest = manifests.load(self._folder)
            if manifest.tail is None or manifest.tail.store != self._store:
                raise NotFoundError(f"{self._folder} holds another store now, or one that was forked; open it again")
            newest = manifest.log
            candidates = range(max(number, newest - 2), newest + 1)
            if found := self.redis.run(ask):
                return found[0]
            if manifests.load(self._folder).log == newest:
                raise self.missing_error(newest)

    def collect_garbage(self, newest: int) -> None:
        """Remove the log that a killed writer did not publish, and old ones as far back as there are any."""
        self.redis.run(lambda client: client.unlink(self.name(newest + 1)))
        for stop in range(newest - 2, 1, -16):
            names = [self.name(n) for n in range(max(1, stop - 16), stop)]
            if not self.redis.run(lambda client, names=names: client.unlink(*names)):  # type: ignore[misc]  # bound here
                return

    def remove_all(self, newest: int) -> None:
        """Remove every stream that there may be, then the record of their owner."""
        for start in range(1, newest + 2, _NAMES):
            names = [self.name(n) for n in range(start, min(start + _NAMES, newest + 2))]
            self.redis.run(lambda client, names=names: client.unlink(*names))  # type: ignore[misc]  # bound here
        self._ownership.forget()

    def mirror(self, number: int, folder: Path) -> None:
        """Copy what is not copied yet."""
        if self._mirrored is None or (self._mirrored.folder, self._mirrored.number) != (folder, number):
            self._mirrored = MirroredLog(folder, number)
        self._mirrored.extend(lambda at: StreamReader(self, number, at).read())

    def not_found_error(self, number: int) -> FileNotFoundError:
        """The error for a log that is missing, which is right for one that was removed."""
        return FileNotFoundError(errno.ENOENT, f"no such stream in {self}", self.name(number))

    def missing_error(self, number: int) -> CorruptionError:
        """The error for a log that is missing or incomplete, and should not be."""
        if (other := self._ownership.other_folder) is not None:
            return CorruptionError(
                f"{self.name(number)}: {self} does not hold this stream any more, since {other} went on with it, of which "
                f"the store at {self._folder} is a copy; make a new copy, or rebuild the store"
            )
        return CorruptionError(
            f"{self.name(number)}: {self} has lost rows of this stream, which the store at {self._folder} needs; "
            f"restore Redis's data, or rebuild the store"
        )

    def _add(self, number: int, at: int, data: bytes, *, make: bool) -> bool:
        if len(data) > LARGEST_APPEND:
            raise SchemaError(
                f"{len(data):,} bytes of rows in one append; a tail in Redis takes {LARGEST_APPEND:,}: split them"
            )
        from redis import exceptions as refused

        # An answer that does not come leaves open whether the entry is there. The same entry is sent again: its id
        # lets it in only once, and its field `by` tells whether it is ours.
        entry = {b"f": data, b"by": os.urandom(16)}
        name = f"{at + 1}-0"

        def add(client: Any) -> bool:
            try:
                return client.xadd(self.name(number), entry, id=name, nomkstream=not make) is not None
            except refused.ResponseError as error:
                if "equal or smaller" in str(error):
                    return False
                raise

        def again(client: Any) -> bool:
            if add(client):
                return True
            found = client.xrange(self.name(number), name, name)
            return bool(found) and found[0][1].get(b"by") == entry[b"by"]

        self.redis.require_durable()
        return self.redis.run(add, again)


class StreamReader:
    """The entries of a stream; `position` counts those that were read."""

    def __init__(self, logs: RedisLogs, number: int, at: int = 0) -> None:
        self._logs = logs
        self._number = number
        self._key = logs.name(number)
        self.position = at

    @property
    def has_more(self) -> bool:
        """Whether the stream's length is another one; that of a stream that is gone is 0."""
        length: int = self._logs.redis.run(lambda client: client.xlen(self._key))
        return length != self.position or not length

    def advance(self, data: bytes) -> None:
        """Move behind an entry."""
        self.position += 1

    def read(self) -> list[tuple[int, bytes]]:
        """The new records."""
        found: list[tuple[int, bytes]] = []
        while True:
            at = self.position + len(found)
            length, entries = self._ask(at)
            if not length:
                raise self._logs.not_found_error(self._number)
            if length < at:
                raise self._logs.missing_error(self._number)
            for number, (name, fields) in enumerate(entries, start=at + 1):
                if name != b"%d-0" % number:
                    raise self._logs.missing_error(self._number)
                found.append(self._record(name, fields))
            if len(entries) < ENTRIES:
                self.position += len(found)
                return found

    def _ask(self, at: int) -> tuple[int, list[tuple[bytes, dict[bytes, bytes]]]]:
        """The stream's length, and its entries behind `at`."""

        def ask(client: Any) -> Any:
            with client.pipeline() as pipe:  # a transaction: the stream is whole, or gone
                pipe.xlen(self._key)
                pipe.xrange(self._key, min=f"({at}-0", count=ENTRIES)
                return pipe.execute()

        length, entries = self._logs.redis.run(ask)
        return length, entries

    def _record(self, name: bytes, fields: dict[bytes, bytes]) -> tuple[int, bytes]:
        data = fields.get(b"f", b"")
        found, size, _ = records.unpack(data)
        if len(found) != 1 or size != len(data):
            raise CorruptionError(
                f"{self._key}: the checksum of entry {name.decode()} does not match; restore the data of {self._logs}, "
                f"or rebuild the store from its table"
            )
        return found[0]


class Ownership:
    """The record in Redis of which folder owns a store's streams, that is, writes them.

    A copy of that folder would name the same streams, and publish what it never held. A folder is told from its copies by
    the inode numbers of itself and of its `segments/`: they stay when it is renamed, and when owners and rights are
    changed, and differ in everything that is made of its files.
    """

    def __init__(self, redis: Connection, key: str, folder: Path) -> None:
        self._redis = redis
        self._key = key
        self._folder = folder
        self._claimed = False

    @property
    def other_folder(self) -> str | None:
        """The folder that writes them, if it is not this one."""
        data: bytes | None = self._redis.run(lambda client: client.get(self._key))
        return None if data is None else self._other_than_this(json.loads(data))

    def claim(self, *, again: bool = False) -> None:
        """Write the note where there is none; see that it is of this folder.

        Raises:
            ConfigError: it is of another one.
        """
        if self._claimed and not again:
            return
        self._redis.require_durable()
        identity = self._identity()

        def ask(client: Any) -> bytes:
            with client.pipeline() as pipe:
                pipe.set(self._key, json.dumps(identity), nx=True)
                pipe.get(self._key)
                answer: bytes = pipe.execute()[1]
                return answer

        noted = json.loads(self._redis.run(ask))
        if (other := self._other_than_this(noted)) is not None:
            raise ConfigError(
                f"{self._folder} is a copy of the store at {other}, or was brought here from another disk, and the rows "
                f"appended to that one lie in {self._redis.url} under the same name: two stores would lose each other's. "
                f"`tokenlake.TokenStore.open({str(self._folder)!r}).fork()` copies them to a name of its own; until then it "
                f"can only be read"
            )
        if noted != identity:  # renamed
            self._redis.run(lambda client: client.set(self._key, json.dumps(identity)))
        self._claimed = True

    def forget(self) -> None:
        """Remove the note."""
        self._redis.run(lambda client: client.unlink(self._key))

    def _identity(self) -> dict[str, Any]:
        inodes = [path.stat().st_ino for path in (self._folder, self._folder / "segments")]
        return {"folder": str(self._folder.resolve()), "host": socket.gethostname(), "inodes": inodes}

    def _other_than_this(self, noted: dict[str, Any]) -> str | None:
        if noted["inodes"] == self._identity()["inodes"]:
            return None
        return f"{noted['folder']} on {noted['host']}"
