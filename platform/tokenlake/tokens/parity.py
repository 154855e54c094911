"""A log of fetches: the arguments, the state that was read and a checksum of each answer, so that `replay` can repeat them.

A log is a folder on the store's disk. `<generation>-<time>-<process>.fetches` holds the fetches of one process, as
records (storage/records.py). `generations/<generation>/` is a store of its own: hard links to the segments and tail logs
of that state, which cost no bytes until the store itself removes them, and stay whatever it merges, drops or writes
again. Logs that lie in Redis are copied as far as they were read.
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
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from tokenlake.errors import ConfigError, SchemaError, storage_error
from tokenlake.names import apart
from tokenlake.storage import disk, records
from tokenlake.storage.native_ops import hash64
from tokenlake.tokens import ids
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.view import StoreView

FETCH, FETCH_AT = 1, 2
#: A file of a log is closed at this size, and this many are kept of a folder, so that a log is bounded.
FILE_BYTES = 64 << 20
FILES = 16


class FetchRequest(NamedTuple):
    """The arguments of one fetch.

    Attributes:
        kind: `FETCH` or `FETCH_AT`.
        users: (queries,) ids; times: (queries,) the `before` of a fetch, or the `timestamps` of a fetch_at.
        options: the other arguments, as JSON can hold them.
        as_of: (queries,) of `FETCH_AT`: labels are shown as they were known then.
    """

    kind: int
    users: NDArray[Any]
    times: NDArray[np.int64]
    options: dict[str, Any]
    as_of: NDArray[np.int64] | None = None


class FetchLog:
    """The log of the fetches of one store's handle; `TokenStore.open(path, log=folder)` makes one.

    A fetch is logged before it returns, not synced: a machine that loses power may lose the last ones.

    Attributes:
        folder: the log's; keep_bytes: whether answers are logged whole.
    """

    def __init__(self, path: Path, folder: Path, *, keep_bytes: bool) -> None:
        self.folder = folder
        self.keep_bytes = keep_bytes
        self._path = path
        self._fd: int | None = None
        self._view: StoreView | None = None
        self._linked = 0
        self._mirrored = (0, 0)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when Python exits, `os` may be gone already
        if (fd := getattr(self, "_fd", None)) is not None:
            close(fd)

    def follow(self, view: StoreView) -> None:
        """Keep the state that the handle sees, and begin a file for its fetches; where that is done, do nothing.

        Raises:
            FileNotFoundError: a writer replaced this state, and removed its files, since it was opened.
            ConfigError: the log lies on another disk than the store.
        """
        if self._view is not view:
            self._begin(view)

    def write(self, request: FetchRequest, batch: TokenBatch) -> bool:
        """Log a fetch of the state that is followed, whose tail did not grow since.

        Returns:
            False: that state is gone, so there would be nothing to ask again.
        """
        view = self._view
        try:
            if view is None or not self._mirror_tail(view):
                return False
            data = records.pack(
                request.kind,
                _pack(request, request.options | {"tail": view.tail.next_sequence, "whole": self.keep_bytes}, batch),
            )
            if self._fd is None or os.fstat(self._fd).st_size + len(data) > FILE_BYTES:
                try:
                    fd = self._begin(view)
                except FileNotFoundError:
                    return False
            else:
                fd = self._fd
            disk.write(fd, data)
        except OSError as error:
            raise storage_error(error) from error
        return True

    def _begin(self, view: StoreView) -> int:
        """Begin a file for a state, and keep that state."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        generation = view.snapshot.manifest.generation
        file = self.folder / f"{generation:08d}-{time.time_ns()}-{os.getpid()}.fetches"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._fd = fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self._link(view)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise ConfigError(
                    f"{self.folder} lies on another disk than {self._path}; the log keeps old states by hard links: "
                    f"choose a folder on the store's disk"
                ) from error
            raise storage_error(error) from error
        self._view, self._linked, self._mirrored = view, view.tail.first_log, (0, 0)
        _remove_oldest(self.folder)
        return fd

    def _generation_folder(self, view: StoreView) -> Path:
        """Where a state is kept."""
        return self.folder / "generations" / f"{view.snapshot.manifest.generation:08d}"

    def _link(self, view: StoreView) -> None:
        place = self._generation_folder(view)
        for name in ("segments", "tail"):
            (place / name).mkdir(parents=True, exist_ok=True)
        for file in view.snapshot.manifest.segment_files():
            _link(self._path / "segments" / file.name, place / "segments" / file.name)
        view.tail.backend.mirror(view.tail.first_log, place)
        self._link_ids(place)
        if not (place / manifests.NAME).exists():
            replace(view.snapshot.manifest, tail=None).publish(place)  # last: it says that the rest is there

    def _link_ids(self, place: Path) -> None:
        if not (place / ids.NAME).exists() and (self._path / ids.NAME).exists():
            _link(self._path / ids.NAME, place / ids.NAME)

    def _mirror_tail(self, view: StoreView) -> bool:
        """Keep the ids, and the tail's logs as far as the handle read them; False: they are gone."""
        tail, place = view.tail, self._generation_folder(view)
        if self._mirrored != (tail.log_number, tail.next_sequence):
            for number in range(self._linked, tail.log_number + 1):
                try:
                    tail.backend.mirror(number, place)
                except FileNotFoundError:
                    if tail.backend.shared:
                        return False
                    continue  # removed as garbage before the handle read it
            self._linked, self._mirrored = tail.log_number, (tail.log_number, tail.next_sequence)
        self._link_ids(place)
        return True


def arrays_of(batch: TokenBatch) -> dict[str, NDArray[Any]]:
    """A batch's arrays by name."""
    scales = {} if batch.scales is None else {"scales": batch.scales}
    own = {"timestamps": batch.timestamps, "values": batch.values, **scales}
    names = apart([*batch.side, *(f"known {name}" for name in batch.known)], own)
    return own | dict(zip(names, [*batch.side.values(), *batch.known.values()], strict=True))


def checksums(batch: TokenBatch) -> NDArray[np.uint64]:
    """(queries, arrays) XXH3-64 of the bytes of each query in each array of `arrays_of`."""
    bounds = batch.offsets.tolist()
    digest = xxhash.xxh3_64_intdigest
    views = [np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays_of(batch).values()]
    widths = [a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in arrays_of(batch).values()]
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
    factors = hash64(np.arange(1, words.shape[1] // 8 + 1)) | np.uint64(1)
    found: NDArray[np.uint64] = (words.view("<u8") * factors).sum(axis=1, dtype=np.uint64)
    return (found >> np.uint64(32)).astype(np.uint32)


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        target.hardlink_to(source)


def _remove_oldest(folder: Path) -> None:
    """Remove the oldest files, and states that no file names any more."""
    found = sorted(folder.glob("*.fetches"), key=lambda path: int(path.name.split("-")[1]))
    for path in found[:-FILES]:
        path.unlink(missing_ok=True)
    named = {path.name.split("-")[0] for path in folder.glob("*.fetches")}
    for place in (folder / "generations").iterdir():
        if place.name not in named:
            shutil.rmtree(place, ignore_errors=True)


def _pack(request: FetchRequest, head_fields: dict[str, Any], batch: TokenBatch) -> bytes:
    strings = request.users.tolist() if request.users.dtype == object else None
    arrays = {name: [a.dtype.str, list(a.shape)] for name, a in arrays_of(batch).items()}
    head = head_fields | {"queries": len(request.users), "users": strings, "arrays": arrays}
    text = json.dumps(head, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
    body = [] if strings is not None else [request.users.tobytes()]
    body += [request.times.tobytes(), *([] if request.as_of is None else [request.as_of.tobytes()])]
    body += [checksums(batch).tobytes(), batch.offsets.tobytes()]
    body += [row_sums(array).tobytes() for array in arrays_of(batch).values()]
    if head_fields["whole"]:
        body += [np.ascontiguousarray(array).tobytes() for array in arrays_of(batch).values()]
    return text + b"".join(body)


class LoggedFetch:
    """One logged fetch.

    Attributes:
        users, times, options: the arguments, as in `FetchRequest`.
        as_of: (queries,) of `fetch_at`: labels are shown as they were known then; None for a fetch, or where every label was masked.
        next_sequence: sequence number that the tail's next row would have had.
        names: arrays of the answer; sums: (queries, arrays) their checksums.
        offsets: of the answer; row_checksums: `row_sums` of each array; arrays: the answer itself, None unless the log keeps bytes.
    """

    def __init__(self, kind: int, payload: bytes) -> None:
        text, _, body = payload.partition(b"\n")
        head = json.loads(text)
        self.kind, n, self.next_sequence = kind, head["queries"], head["tail"]
        self.options = {name: head[name] for name in ("length", "available") if name in head}
        self.names = list(head["arrays"])
        self._body, self._at = body, 0
        strings = head["users"]
        self.users = self._take("<i8", (n,)) if strings is None else np.array(strings, object)
        self.times = self._take("<i8", (n,))
        moment = self._take("<i8", (n,)) if kind == FETCH_AT else None
        self.as_of = None if head.get("masked") else moment
        self.sums = self._take("<u8", (n, len(self.names)))
        self.offsets: NDArray[np.int64] = self._take("<i8", (n + 1,))
        self.row_checksums = {name: self._take("<u4", (int(self.offsets[-1]),)) for name in self.names}
        self.arrays: dict[str, NDArray[Any]] | None = None
        if head["whole"]:
            self.arrays = {name: self._take(dtype, tuple(shape)) for name, (dtype, shape) in head["arrays"].items()}

    def _take(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        count = int(np.prod(shape))
        if self._at + count * np.dtype(dtype).itemsize > len(self._body):
            raise SchemaError("a logged fetch is shorter than it says; was it written by another version?")
        found = np.frombuffer(self._body, dtype, count, self._at).reshape(shape)
        self._at += found.nbytes
        return found
