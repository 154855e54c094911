"""Logged fetches: what was asked, of which state, and a checksum of each answer, so that it can be asked again.

A log is a folder on the store's disk. `<generation>-<time>-<process>.fetches` holds the fetches of one process, as
frames (log.py). `generations/<generation>/` is a store of its own: hard links to the segments and tail logs of that
state, which cost no bytes until the store itself lets go of them, and stay whatever it merges, drops or writes again.
Logs that lie in Redis are copied as far as they were read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tokenlake.errors import ConfigError, SchemaError, storage_error
from tokenlake.storage import records
from tokenlake.storage.loops import mix
from tokenlake.tokens import ids
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.inputs import as_instants, check_queries
from tokenlake.tokens.places import LogFiles
from tokenlake.tokens.schema import Rows
from tokenlake.tokens.store import Available, TokenStore
from tokenlake.tokens.tail import Tail
from tokenlake.tokens.view import View

FETCH, FETCH_AT = 1, 2
#: A file of a log is closed at this size, and this many are kept of a folder, so that a log is bounded.
FILE_BYTES = 64 << 20
FILES = 16


class LoggedStore(TokenStore):
    """A `TokenStore` that logs its fetches; `TokenStore.open(path, log=folder)` makes one.

    A fetch is logged before it returns, not synced: a machine that loses power may lose the last ones.
    """

    def __init__(self, path: Path, folder: Path, *, keep_bytes: bool = False) -> None:
        super().__init__(path)
        self._folder = folder
        self._keep_bytes = keep_bytes
        self._logging = RLock()
        self._file = folder
        self._fd: int | None = None
        self._pinned: View | None = None
        self._linked = 0
        self._kept = (0, 0)
        with self._logging:
            self._pin()

    def __reduce__(self) -> tuple[Callable[..., TokenStore], tuple[Any, ...]]:
        return _reopen, (self.path, self._folder, self._keep_bytes)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when Python exits, `os` may be gone already
        if (fd := getattr(self, "_fd", None)) is not None:
            close(fd)

    def fetch(
        self,
        users: object,
        *,
        before: object,
        length: int = 256,
        available: Available = "realtime",
        out: TokenBatch | None = None,
    ) -> TokenBatch:
        """As `TokenStore.fetch`, and logged."""
        with self._logging:  # what the tail held is what it holds when the answer is there
            if self._pinned is not self._view:
                self._pin()
            batch = super().fetch(users, before=before, length=length, available=available, out=out)
            asked = check_queries(users, before, "before")
            self._write(FETCH, asked, {"length": int(length), "available": available}, [], batch)
        return batch

    def fetch_at(self, users: object, timestamps: object, *, as_of: object = None) -> TokenBatch:
        """As `TokenStore.fetch_at`, and logged."""
        with self._logging:
            if self._pinned is not self._view:
                self._pin()
            batch = super().fetch_at(users, timestamps, as_of=as_of)
            asked = check_queries(users, timestamps, "timestamps")
            masked, moment = as_of is None, np.zeros(len(batch), np.int64)
            if not masked:
                moment[:] = as_instants(as_of, "as_of").reshape(-1)
            self._write(FETCH_AT, asked, {"masked": masked}, [moment], batch)
        return batch

    def append(self, *args: Any, **columns: Any) -> int:
        """As `TokenStore.append`."""
        with self._logging:
            return super().append(*args, **columns)

    def refresh(self) -> bool:
        """As `TokenStore.refresh`."""
        with self._logging:
            return super().refresh()

    def _pin(self) -> None:
        """Begin a file for the state that this handle sees, and keep that state."""
        while True:
            generation = self.generation
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            place = self._folder / "generations" / f"{generation:08d}"
            self._file = self._folder / f"{generation:08d}-{time.time_ns()}-{os.getpid()}.fetches"
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
                self._link(place)
            except FileNotFoundError:
                # A writer replaced this state, and removed its files, since it was opened: the next one is kept.
                super().refresh()
                if self.generation == generation:
                    raise
                continue
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise ConfigError(
                        f"{self._folder} lies on another disk than {self.path}; the log keeps old states by hard links: "
                        f"choose a folder on the store's disk"
                    ) from error
                raise storage_error(error) from error
            self._pinned, self._linked, self._kept = self._view, self._view.tail.first, (0, 0)
            _bound(self._folder)
            return

    def _link(self, place: Path) -> None:
        for name in ("segments", "tail"):
            (place / name).mkdir(parents=True, exist_ok=True)
        for file in self._view.snapshot.manifest.segment_files():
            _link(self.path / "segments" / file.name, place / "segments" / file.name)
        self._view.tail.place.keep(self._view.tail.first, place)
        if (self.path / ids.NAME).exists():
            _link(self.path / ids.NAME, place / ids.NAME)
        if not (place / manifests.NAME).exists():
            replace(self._view.snapshot.manifest, tail=None).publish(place)  # last: it says that the rest is there

    def _write(
        self,
        kind: int,
        asked: tuple[NDArray[Any], NDArray[np.int64]],
        how: dict[str, Any],
        more: list[NDArray[np.int64]],
        batch: TokenBatch,
    ) -> None:
        place = self._folder / "generations" / f"{self.generation:08d}"
        tail = self._view.tail
        try:
            if self._kept != (tail.number, tail.next) and not self._keep(place):
                return
            if not (place / ids.NAME).exists() and (self.path / ids.NAME).exists():
                _link(self.path / ids.NAME, place / ids.NAME)
            how = how | {"tail": tail.next, "whole": self._keep_bytes}
            data = records.pack(kind, _pack(*asked, how, more, batch))
            if self._fd is None or os.fstat(self._fd).st_size + len(data) > FILE_BYTES:
                generation = self.generation
                self._pin()
                if self.generation != generation:
                    return  # the state of this answer is gone from the log and the store: there is nothing to ask again
            assert self._fd is not None  # _pin opened one
            os.write(self._fd, data)
        except OSError as error:
            raise storage_error(error) from error

    def _keep(self, place: Path) -> bool:
        """Keep the tail's logs as far as this handle read them; False: they are gone, and so a new state is pinned."""
        tail = self._view.tail
        for number in range(self._linked, tail.number + 1):
            try:
                tail.place.keep(number, place)
            except FileNotFoundError:
                if not tail.place.shared:
                    continue  # swept away before this handle came to it
                super().refresh()
                self._pin()
                return False
        self._linked, self._kept = tail.number, (tail.number, tail.next)
        return True


def parts(batch: TokenBatch) -> dict[str, NDArray[Any]]:
    """A batch's arrays by name."""
    scales = {} if batch.scales is None else {"scales": batch.scales}
    known = {f"known {name}": column for name, column in batch.known.items()}
    return {"timestamps": batch.timestamps, "values": batch.values, **scales, **batch.side, **known}


def checksums(batch: TokenBatch) -> NDArray[np.uint64]:
    """(queries, arrays) XXH3-64 of the bytes of each query in each array of `parts`."""
    bounds = batch.offsets.tolist()
    digest = xxhash.xxh3_64_intdigest
    views = [np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in parts(batch).values()]
    widths = [a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in parts(batch).values()]
    sums = [
        [digest(view[start * width : stop * width].data) for view, width in zip(views, widths, strict=True)]
        for start, stop in pairwise(bounds)
    ]
    return np.array(sums, np.uint64).reshape(len(batch), len(views))


def row_sums(array: NDArray[Any]) -> NDArray[np.uint32]:
    """(rows,) a sum of each row's bytes, of all rows at once; it shows where a query differs, which its checksum proves.

    Multilinear: each word of 8 bytes times an odd number of its own, added modulo 2^64; the upper half.
    """
    width = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    words = np.zeros((len(array), -(-width // 8) * 8), np.uint8)
    words[:, :width] = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(len(array), width)
    factors = mix(np.arange(1, words.shape[1] // 8 + 1)) | np.uint64(1)
    found: NDArray[np.uint64] = (words.view("<u8") * factors).sum(axis=1, dtype=np.uint64)
    return (found >> np.uint64(32)).astype(np.uint32)


def at(folder: Path, following: int) -> TokenStore:
    """A kept state as it was when the tail's next row would have had this number."""
    store = TokenStore.open(folder)
    view = store._view  # the same room: the store has no public way to look back
    tail = _TailThen(folder, store.schema, view.tail.first, following)
    store._view = View(view.snapshot, tail, view.watch)  # as above
    return store


class _TailThen(Tail):
    """The tail as it was: rows of all kept logs, up to a number."""

    def __init__(self, folder: Path, schema: Any, number: int, following: int) -> None:
        self._following = following
        kept = LogFiles(folder)
        super().__init__(kept, schema, number)
        self._take(self._log.read())
        for later in (n for n in kept.numbers() if n > number):
            self._take(kept.reader(later).read())

    def _add(self, fresh: list[tuple[NDArray[np.int64], Rows]]) -> None:
        then = [(sequence < self._following, sequence, rows) for sequence, rows in fresh]
        if held := [(sequence[old], rows.take(old)) for old, sequence, rows in then if old.any()]:
            super()._add(held)

    def poll(self, *, follow: bool = True) -> None:
        """It does not grow."""


def _reopen(path: Path, folder: Path, keep_bytes: bool) -> TokenStore:  # noqa: FBT001  # called by pickle, by place
    return LoggedStore(path, folder, keep_bytes=keep_bytes)


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        target.hardlink_to(source)


def _bound(folder: Path) -> None:
    """Remove the oldest files, and states that no file names any more."""
    found = sorted(folder.glob("*.fetches"), key=lambda path: int(path.name.split("-")[1]))
    for path in found[:-FILES]:
        path.unlink(missing_ok=True)
    named = {path.name.split("-")[0] for path in folder.glob("*.fetches")}
    for place in (folder / "generations").iterdir():
        if place.name not in named:
            shutil.rmtree(place, ignore_errors=True)


def _pack(
    keys: NDArray[Any],
    times: NDArray[np.int64],
    how: dict[str, Any],
    more: list[NDArray[np.int64]],
    batch: TokenBatch,
) -> bytes:
    strings = keys.tolist() if keys.dtype == object else None
    arrays = {name: [a.dtype.str, list(a.shape)] for name, a in parts(batch).items()}
    head = how | {"queries": len(keys), "users": strings, "arrays": arrays}
    text = json.dumps(head, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
    body = [] if strings is not None else [keys.tobytes()]
    body += [times.tobytes(), *(each.tobytes() for each in more), checksums(batch).tobytes(), batch.offsets.tobytes()]
    body += [row_sums(array).tobytes() for array in parts(batch).values()]
    if how["whole"]:
        body += [np.ascontiguousarray(array).tobytes() for array in parts(batch).values()]
    return text + b"".join(body)


class Logged:
    """One logged fetch.

    Attributes:
        users, times, how: what was asked; times are those before which, or at which by `fetch_at`.
        moment: (queries,) of `fetch_at`: labels as known then; None for a fetch, or where every label was masked.
        tail: number that the tail's next row would have had.
        names: arrays of the answer; sums: (queries, arrays) their checksums.
        offsets: of the answer; rows: `row_sums` of each array; arrays: the answer itself, None unless the log keeps bytes.
    """

    def __init__(self, kind: int, payload: bytes) -> None:
        text, _, body = payload.partition(b"\n")
        head = json.loads(text)
        self.kind, n, self.tail = kind, head["queries"], head["tail"]
        self.how = {name: head[name] for name in ("length", "available") if name in head}
        self.names = list(head["arrays"])
        self._body, self._at = body, 0
        strings = head["users"]
        self.users = self._take("<i8", (n,)) if strings is None else np.array(strings, object)
        self.times = self._take("<i8", (n,))
        moment = self._take("<i8", (n,)) if kind == FETCH_AT else None
        self.moment = None if head.get("masked") else moment
        self.sums = self._take("<u8", (n, len(self.names)))
        self.offsets: NDArray[np.int64] = self._take("<i8", (n + 1,))
        self.rows = {name: self._take("<u4", (int(self.offsets[-1]),)) for name in self.names}
        self.arrays: dict[str, NDArray[Any]] | None = None
        if head["whole"]:
            self.arrays = {name: self._take(dtype, tuple(shape)) for name, (dtype, shape) in head["arrays"].items()}

    def ask(self, store: TokenStore) -> TokenBatch:
        """The answer of a store to the same question."""
        if self.kind == FETCH_AT:
            return store.fetch_at(self.users, self.times, as_of=self.moment)
        return store.fetch(self.users, before=self.times, **self.how)

    def _take(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        count = int(np.prod(shape))
        if self._at + count * np.dtype(dtype).itemsize > len(self._body):
            raise SchemaError("a logged fetch is shorter than it says; was it written by another version?")
        found = np.frombuffer(self._body, dtype, count, self._at).reshape(shape)
        self._at += found.nbytes
        return found
