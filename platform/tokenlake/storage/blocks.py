"""Immutable Arrow files under checksums: written once, memory-mapped, each block checked when it is first touched.

What is no data of a column (schema, offsets, index) is the file's *frame*: it has one checksum, which the manifest holds
and which is checked before the first read. The data's checksums, a block each, lie in the schema's metadata.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError
from tokenlake.storage import disk

#: Key of the schema's metadata under which a file tells of its blocks.
META = b"tokenlake"
#: First and last byte (exclusive) of a run of a file's bytes.
Region = tuple[int, int]


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """Write a record batch as a new Arrow IPC file, durably; nothing is left of one that fails."""
    sink = _Sink(path)
    done = False
    try:
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), batch.schema) as writer:
            writer.write_batch(batch)
        done = True
    finally:
        sink.close(keep=done)


def map_file(path: str | Path, size: int, remedy: str) -> mmap.mmap:
    """Map a file, which stays readable after its name is gone.

    Raises:
        FileNotFoundError: it is missing.
        CorruptionError: it is not of the size that its manifest says.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if (found := os.fstat(fd).st_size) != size:
            raise CorruptionError(f"{path}: {found} bytes, the manifest says {size}; {remedy}")
        return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)


def frame_sum(data: mmap.mmap, regions: Iterable[Region]) -> str:
    """XXH3-64 of the bytes outside of some regions, hex."""
    digest, at = xxhash.xxh3_64(), 0
    with memoryview(data) as view:
        for start, stop in sorted(regions):
            digest.update(view[at:start])
            at = max(at, stop)
        digest.update(view[at:])
    return digest.hexdigest()


def sums_to_hex(sums: NDArray[np.uint64]) -> str:
    """Checksums as a file's metadata holds them."""
    return sums.astype(">u8").tobytes().hex()


def sums_from_hex(text: str) -> NDArray[np.uint64]:
    """The checksums again."""
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)


class _Sink:
    """A file to write once, as Arrow's writers expect one; on the disk when `close` returns.

    Bytes are on their way to the disk while the next ones are written: a third less waiting at the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._at = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Append bytes or an Arrow buffer."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            disk.write(self._fd, piece)
            if len(piece) == _PIECE and _start_writing is not None:
                # Whatever it answers, `close` syncs the file.
                _start_writing(self._fd, ctypes.c_int64(self._at), ctypes.c_int64(_PIECE), _SYNC_FILE_RANGE_WRITE)
            self._at += len(piece)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._at

    def flush(self) -> None:
        """Nothing is buffered here."""

    def writable(self) -> bool:
        """Always."""
        return True

    def close(self, *, keep: bool = True) -> None:
        """Sync and close; or, when it is not to be kept, close and remove."""
        if self.closed:
            return
        self.closed = True
        try:
            if keep:
                disk.sync(self._fd)
        finally:
            os.close(self._fd)
        if not keep:
            disk.unlink([self._path])


_PIECE = 1 << 22
_SYNC_FILE_RANGE_WRITE = 2
#: Linux alone has it.
_start_writing = getattr(ctypes.CDLL(None), "sync_file_range", None)
