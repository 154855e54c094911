"""Immutable Arrow files with checksums: written once, memory-mapped, each block verified at its first read.

All bytes except the column data (schema, offsets, index) are the file's *frame*. The frame has one checksum, which is in
the manifest and is verified when the file is opened. The checksums of the data, one per block, are in the schema's
metadata.
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

#: Key of the schema's metadata that holds the checksums of the blocks.
META = b"tokenlake"
#: First and last byte (exclusive) of a part of a file.
Region = tuple[int, int]


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """Write a record batch as a new Arrow IPC file, durably; the file is removed if the write fails."""
    sink = _Sink(path)
    done = False
    try:
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), batch.schema) as writer:
            writer.write_batch(batch)
        done = True
    finally:
        sink.close(keep=done)


def map_file(path: str | Path, size: int, remedy: str) -> mmap.mmap:
    """Memory-map a file; the map stays readable after the file is deleted.

    Raises:
        FileNotFoundError: the file is missing.
        CorruptionError: the file's size is not the one in its manifest.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if (found := os.fstat(fd).st_size) != size:
            raise CorruptionError(f"{path}: {found} bytes, the manifest says {size}; {remedy}")
        return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)


def frame_sum(data: mmap.mmap, regions: Iterable[Region]) -> str:
    """XXH3-64 of all bytes outside of some regions, as hex."""
    digest, at = xxhash.xxh3_64(), 0
    with memoryview(data) as view:
        for start, stop in sorted(regions):
            digest.update(view[at:start])
            at = max(at, stop)
        digest.update(view[at:])
    return digest.hexdigest()


def sums_to_hex(sums: NDArray[np.uint64]) -> str:
    """Checksums as the hex text of a file's metadata."""
    return sums.astype(">u8").tobytes().hex()


def sums_from_hex(text: str) -> NDArray[np.uint64]:
    """The inverse of `sums_to_hex`."""
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)


class _Sink:
    """A write-only file object for Arrow's writers; its data is on the disk when `close` returns.

    The kernel starts to write bytes to the disk while the next ones are written, which makes the final sync a third
    shorter.
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
                # Its result does not matter, since `close` syncs the file.
                _start_writing(self._fd, ctypes.c_int64(self._at), ctypes.c_int64(_PIECE), _SYNC_FILE_RANGE_WRITE)
            self._at += len(piece)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._at

    def flush(self) -> None:
        """Does nothing: there is no buffer."""

    def writable(self) -> bool:
        """Always True."""
        return True

    def close(self, *, keep: bool = True) -> None:
        """Sync and close the file; with `keep=False`, close and remove it."""
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
#: Available on Linux only.
_start_writing = getattr(ctypes.CDLL(None), "sync_file_range", None)
