"""The realtime tail: rows appended since their day was last written, in a log and in memory.

Each row has a sequence number for life. When a day is written, its tail rows with the same (user, timestamp) go: the
others are carried to a new log, and the old one is sealed with the new one's number. A reader that keeps an older
snapshot follows the seal, and takes only the numbers that it has not seen.
"""

from __future__ import annotations

import struct
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError
from tokenlake.tokens import files, log
from tokenlake.tokens.schema import Rows, StoreSchema

_ROWS, _SEAL, _START = 1, 2, 3
_NUMBER = struct.Struct("<Q")
#: Rows of one frame when a log is carried over.
_CARRY = 1 << 16
_NONE = np.empty(0, np.int64)


def log_path(folder: Path, number: int) -> Path:
    """File of a tail log."""
    return folder / "tail" / f"{number:08d}.log"


class Tail:
    """What one handle knows of the tail: every row that its snapshot may see.

    Attributes:
        first: number of the log that it began with; number: of the one that it reads.
        count: rows.
        users: (count,) int64; columns: name -> (count, ...), in order of arrival.
        buffers: the columns, with room behind the rows.
    """

    @classmethod
    def open(cls, folder: Path, schema: StoreSchema, number: int, known: Tail | None = None) -> Tail:
        """Open the log of a snapshot; a `known` tail that holds just that is used on.

        Raises:
            FileNotFoundError: the log is gone, with the snapshot that named it.
        """
        if known is not None and known.first == known.number == number:
            return known
        return cls(folder, schema, number)

    def __init__(self, folder: Path, schema: StoreSchema, number: int) -> None:
        self._folder = folder
        self._schema = schema
        self._lock = Lock()
        self._log = log.LogReader(log_path(folder, number))
        self.first = number
        self.number = number
        self.sealed = False
        self._successor = number
        self.next = 0
        self._seen = 0
        self.count = 0
        self._users = np.empty(0, np.int64)
        self._sequence = np.empty(0, np.int64)
        self.buffers = schema.empty(0)
        self._index: dict[int, NDArray[np.int64]] = {}

    @property
    def users(self) -> NDArray[np.int64]:
        """The user of each row."""
        return self._users[: self.count]

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of each row."""
        return {name: column[: self.count] for name, column in self.buffers.items()}

    def poll(self, *, follow: bool = True) -> None:
        """Read what was appended since; `follow` a seal into the next log.

        Raises:
            CorruptionError: a frame's bytes are not what was written.
        """
        if not self.sealed and not self._log.grown:
            return
        with self._lock:
            while True:
                fresh: list[tuple[NDArray[np.int64], Rows]] = []
                self._read(fresh)
                if fresh:
                    self._add(fresh)
                if not self.sealed or not follow:
                    return
                self._follow()

    def find(
        self, users: NDArray[np.int64], since: NDArray[np.int64] | None, before: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        """For each query the row numbers of its user with since <= timestamp < before, by (timestamp, arrival)."""
        index, times = self._index, self.buffers["timestamp"]
        found = [index.get(user, _NONE) for user in users.tolist()]
        for i, rows in enumerate(found):
            if len(rows):
                own = times[rows]
                first = own.searchsorted(since[i]) if since is not None else 0
                found[i] = rows[first : own.searchsorted(before[i])]
        return found

    def append(self, rows: Rows) -> None:
        """Add rows to the log, durably; the caller holds the log's lock and has polled."""
        sequence = np.arange(self.next, self.next + len(rows), dtype=np.int64)
        log.append(self._log.path, self._log.at, log.frame(_ROWS, _pack(sequence, rows)))
        self.poll(follow=False)

    def carry(self, keep: NDArray[np.bool_]) -> int:
        """Write the next log with only the rows to keep; the caller publishes its number and then calls `seal`."""
        number = self.number + 1
        path = log_path(self._folder, number)
        files.unlink([path])
        sink = files.Sink(path)
        sink.write(log.frame(_START, _NUMBER.pack(self.next)))
        index = np.flatnonzero(keep)
        for start in range(0, len(index), _CARRY):
            part = index[start : start + _CARRY]
            sink.write(log.frame(_ROWS, _pack(self._sequence[part], Rows(self.users, self.columns).take(part))))
        sink.close()
        files.sync_folder(path.parent)
        return number

    def seal(self, successor: int) -> None:
        """Point readers of this log to its successor, which is published; the caller holds the log's lock."""
        self.poll(follow=False)
        if not self.sealed:
            log.append(self._log.path, self._log.at, log.frame(_SEAL, _NUMBER.pack(successor)))

    def _read(self, fresh: list[tuple[NDArray[np.int64], Rows]]) -> None:
        for kind, payload in self._log.read():
            if kind == _ROWS:
                sequence, rows = _unpack(payload, self._schema)
                new = sequence >= self._seen
                if new.any():
                    fresh.append((sequence[new], rows if new.all() else rows.take(new)))
                    self._seen = int(sequence[-1]) + 1
                    self.next = max(self.next, self._seen)
            elif kind == _START:
                self.next = max(self.next, *_NUMBER.unpack(payload))
            elif kind == _SEAL:
                self.sealed = True
                (self._successor,) = _NUMBER.unpack(payload)
            else:
                raise CorruptionError(f"{self._log.path}: unknown kind of frame {kind}; written by a later version?")

    def _follow(self) -> None:
        # A reader that slept through several days' writes finds its successor gone, and goes on with the next one.
        later = sorted(int(p.stem) for p in (self._folder / "tail").glob("*.log") if int(p.stem) >= self._successor)
        self._log = log.LogReader(log_path(self._folder, later[0]))
        self.number, self.sealed = later[0], False

    def _add(self, fresh: list[tuple[NDArray[np.int64], Rows]]) -> None:
        start, stop = self.count, self.count + sum(len(rows) for _, rows in fresh)
        self._users = _grown(self._users, stop)
        self._sequence = _grown(self._sequence, stop)
        self.buffers = {name: _grown(column, stop) for name, column in self.buffers.items()}
        at = start
        for sequence, rows in fresh:
            end = at + len(rows)
            self._users[at:end], self._sequence[at:end] = rows.users, sequence
            for name, column in rows.columns.items():
                self.buffers[name][at:end] = column
            at = end
        times = self.buffers["timestamp"]
        order = start + np.lexsort((times[start:stop], self._users[start:stop]))
        cuts = np.flatnonzero(np.diff(self._users[order])) + 1
        for new in np.split(order, cuts):
            user = int(self._users[new[0]])
            if (old := self._index.get(user)) is not None:
                new = np.concatenate([old, new])
                if times[old[-1]] > times[new[len(old)]]:
                    new = new[np.argsort(times[new], kind="stable")]
            # A new array each time, so that a fetch in another thread keeps what it has.
            self._index[user] = new
        self.count = stop


def create_log(folder: Path, number: int) -> None:
    """Make an empty log."""
    path = log_path(folder, number)
    path.parent.mkdir(exist_ok=True)
    sink = files.Sink(path)
    sink.write(log.frame(_START, _NUMBER.pack(0)))
    sink.close()
    files.sync_folder(path.parent)


def seal_predecessor(folder: Path, schema: StoreSchema, number: int) -> None:
    """Do what a writer that was killed after its publication left undone; the caller holds the log's lock."""
    if log_path(folder, number - 1).exists():
        Tail(folder, schema, number - 1).seal(number)


def _grown(array: NDArray[Any], rows: int) -> NDArray[Any]:
    if rows <= len(array):
        return array
    bigger = np.empty((max(rows, 2 * len(array)), *array.shape[1:]), array.dtype)
    bigger[: len(array)] = array
    return bigger


def _pack(sequence: NDArray[np.int64], rows: Rows) -> bytes:
    columns = [sequence, rows.users, *rows.columns.values()]
    return b"".join(np.ascontiguousarray(column).tobytes() for column in columns)


def _unpack(payload: bytes, schema: StoreSchema) -> tuple[NDArray[np.int64], Rows]:
    count = len(payload) // (16 + schema.row_bytes)
    sequence = np.frombuffer(payload, np.int64, count)
    users = np.frombuffer(payload, np.int64, count, 8 * count)
    at, columns = 16 * count, {}
    for name, dtype in schema.columns.items():
        shape = schema.shape(name, count)
        columns[name] = np.frombuffer(payload, dtype, int(np.prod(shape)), at).reshape(shape)
        at += columns[name].nbytes
    return sequence, Rows(users, columns)
