"""Append-only logs of checksummed records: a store's realtime tail, its string ids, logged fetches.

A record is a header of 32 bytes (magic, kind, payload length, XXH3-64 of the payload, XXH3-64 of the header's first 24
bytes) and its payload. An incomplete record at the end of a file was never acknowledged: readers ignore it, and the
next writer truncates it. A complete record whose checksum does not match is corruption.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import xxhash

from tokenlake.errors import CorruptionError
from tokenlake.storage import disk

_HEAD = struct.Struct("<4sIQQ")
_SUM = struct.Struct("<Q")
HEADER = _HEAD.size + _SUM.size
MAGIC = b"TLF1"


def pack(kind: int, payload: bytes) -> bytes:
    """The bytes of one record."""
    head = _HEAD.pack(MAGIC, kind, len(payload), xxhash.xxh3_64_intdigest(payload))
    return head + _SUM.pack(xxhash.xxh3_64_intdigest(head)) + payload


def unpack(data: bytes) -> tuple[list[tuple[int, bytes]], int, bool]:
    """Parse the complete records at the start of some bytes: kinds and payloads, their size, and whether all are valid.

    An incomplete record is ignored; an invalid record ends the list.
    """
    found: list[tuple[int, bytes]] = []
    at = 0
    while (head := data[at : at + HEADER]) and len(head) == HEADER and any(head):
        magic, kind, size, digest = _HEAD.unpack_from(head)
        if magic != MAGIC or _SUM.unpack_from(head, _HEAD.size)[0] != xxhash.xxh3_64_intdigest(head[: _HEAD.size]):
            return found, at, False
        payload = data[at + HEADER : at + HEADER + size]
        if len(payload) < size:
            break
        if xxhash.xxh3_64_intdigest(payload) != digest:
            return found, at, False
        found.append((kind, payload))
        at += HEADER + size
    return found, at, True


class LogReader:
    """Reads the records of a growing file; keeps it open, so that it stays readable after it is deleted.

    Attributes:
        path: the file.
        position: byte at which the next record starts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when Python exits, `os` may be gone already
        if (fd := getattr(self, "_fd", None)) is not None:
            close(fd)

    @property
    def has_more(self) -> bool:
        """Whether the file has new bytes, perhaps an incomplete record."""
        return os.fstat(self._fd).st_size > self.position

    def advance(self, data: bytes) -> None:
        """Skip a record that this process has just written."""
        self.position += len(data)

    def read(self) -> list[tuple[int, bytes]]:
        """Read the new complete records: kind and payload.

        Raises:
            CorruptionError: a record's checksum does not match.
        """
        found, size, sound = unpack(self._bytes(os.fstat(self._fd).st_size - self.position))
        if not sound:
            raise CorruptionError(
                f"{self.path}: the checksum of the record at byte {self.position + size} does not match; "
                f"restore the file, or rebuild the store from its table"
            )
        self.position += size
        return found

    def _bytes(self, size: int) -> bytes:
        pieces = []
        at = self.position
        while size > 0 and (piece := os.pread(self._fd, min(size, 1 << 26), at)):
            pieces.append(piece)
            at += len(piece)
            size -= len(piece)
        return b"".join(pieces)


def append(path: Path, at: int, data: bytes) -> None:
    """Write records durably at byte `at`, the end of the last complete record; the caller holds the log's lock.

    If the write fails, the file is restored.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        if os.fstat(fd).st_size != at:
            disk.truncate(fd, at)
        try:
            disk.write(fd, data)
            disk.sync(fd)
        except OSError:
            disk.truncate(fd, at)
            raise
    finally:
        os.close(fd)
