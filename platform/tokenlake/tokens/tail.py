"""The realtime tail: rows appended since their day was last written, in a log and in memory.

Each row has a sequence number for life. When a day is written, its tail rows with the same (user, timestamp) go: the
others are written to a new log, and the old one is sealed with the new one's number. A reader that keeps an older
snapshot follows the seal, and takes only the numbers that it has not seen.

Where no lock keeps appends out (wal_redis.py), a publication fences the log: nobody appends behind a fence, until it is
removed, or the log is sealed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError
from tokenlake.storage import records
from tokenlake.storage.native import address
from tokenlake.tokens.manifest import StoreManifest
from tokenlake.tokens.schema import StoreSchema, TokenRows
from tokenlake.tokens.wal import FENCE, ROWS, SEAL, START, UNFENCE, DiskLogs, LogBackend

_NUMBER = struct.Struct("<Q")
#: Most rows and bytes of one record when the tail's rows are written to a new log.
_RECORD_ROWS = 1 << 16
_RECORD_BYTES = 64 << 20
_NONE = np.empty(0, np.int64)


class LogPosition(NamedTuple):
    """The end of a log when it was last read: an append there comes directly after everything that was read.

    Attributes:
        log: the log's number; position: where its next record goes; next_sequence: sequence number of the next row.
    """

    log: int
    position: int
    next_sequence: int


class Buffers(NamedTuple):
    """Columns with room behind the rows: name -> array, and name -> its address (kept, since NumPy takes a microsecond to give it)."""

    columns: dict[str, NDArray[Any]]
    pointers: dict[str, int]

    @classmethod
    def of(cls, columns: dict[str, NDArray[Any]]) -> Buffers:
        """Make buffers of these columns."""
        return cls(columns, {name: address(column) for name, column in columns.items()})


class Tail:
    """What one handle knows of the tail: every row that its snapshot may see.

    Attributes:
        backend: keeps the logs.
        first_log: number of the log that it began with; log_number: of the one that it reads now.
        sealed: that log has a successor; fenced: a publication keeps appends out of it.
        next_sequence: sequence number of the next row.
        count: rows.
        users: (count,) int64; columns: name -> (count, ...), in order of arrival.
        buffers: the columns, with room behind the rows; swapped whole, for fetches of other threads.
    """

    @classmethod
    def open(cls, backend: LogBackend, schema: StoreSchema, number: int, previous: Tail | None = None) -> Tail:
        """Open the log of a snapshot; a `previous` tail that holds just that log is used again.

        Raises:
            FileNotFoundError: the log is gone, with the snapshot that named it.
        """
        if previous is not None and previous.first_log == previous.log_number == number:
            return previous
        return cls(backend, schema, number)

    def __init__(self, backend: LogBackend, schema: StoreSchema, number: int) -> None:
        self.backend = backend
        self._schema = schema
        self._lock = Lock()
        self._log = backend.reader(number)
        self.first_log = number
        self.log_number = number
        self.sealed = False
        self.fenced = False
        self._successor = number
        self.next_sequence = 0
        self._next_unseen = 0
        self.count = 0
        self._users = np.empty(0, np.int64)
        self._sequence = np.empty(0, np.int64)
        self.buffers = Buffers.of(schema.empty(0))
        self._index: dict[int, NDArray[np.int64]] = {}

    @property
    def users(self) -> NDArray[np.int64]:
        """The user of each row."""
        return self._users[: self.count]

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of each row."""
        return {name: column[: self.count] for name, column in self.buffers.columns.items()}

    def poll(self, *, follow: bool = True) -> None:
        """Read what was appended since; `follow` a seal into the next log.

        Raises:
            CorruptionError: a record's bytes are not what was written.
        """
        if not self.sealed and not self._log.has_more:
            return
        with self._lock:
            while True:
                try:
                    self._apply(self._log.read())
                except FileNotFoundError:
                    # Removed since this handle last read it; the next log holds the rows of it that are still in the tail.
                    self.sealed, self._successor = True, self.log_number + 1
                if not self.sealed or not follow:
                    return
                self._follow_seal()

    def find(
        self, users: NDArray[np.int64], since: NDArray[np.int64] | None, before: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        """For each query the row numbers of its user with since <= timestamp < before, by (timestamp, arrival)."""
        found = [self._index.get(user, _NONE) for user in users.tolist()]
        times = self.buffers.columns["timestamp"]  # after the row numbers: another thread's append may add both
        for i, rows in enumerate(found):
            if len(rows):
                own = times[rows]
                first = own.searchsorted(since[i]) if since is not None else 0
                found[i] = rows[first : own.searchsorted(before[i])]
        return found

    def position(self) -> LogPosition | None:
        """The end of the log as far as it was read; None: the log is fenced or sealed, or nothing was read yet."""
        with self._lock:
            if self.sealed or self.fenced or not self._log.position:
                return None
            return LogPosition(self.log_number, self._log.position, self.next_sequence)

    def append(self, rows: TokenRows, position: LogPosition) -> bool:
        """Append rows at a position, durably; False: another writer appended there first, so read on and try again.

        Where the backend is not shared, the caller holds the tail's lock and has polled.
        """
        sequence = np.arange(position.next_sequence, position.next_sequence + len(rows), dtype=np.int64)
        return self._append_record(position, ROWS, _pack(sequence, rows))

    def fence(self) -> None:
        """Keep appends out of the log from here on, all of which was read then; the caller is the one writer.

        A fence that a killed writer left gets another: what it had sent last may still be on its way, and must not
        remove this one.
        """
        while not self.sealed and not self._append_at_end(FENCE, b""):
            self.poll(follow=False)

    def unfence(self) -> None:
        """Remove the fence, if there is one, so that appends go on; the caller is the one writer, and publishes nothing."""
        while self.fenced and not self.sealed and not self._append_at_end(UNFENCE, b""):
            self.poll(follow=False)

    def seal(self, successor: int) -> None:
        """Point readers of this log to its successor, which is published; the caller keeps appends out meanwhile."""
        self.poll(follow=False)
        while not self.sealed and not self._append_at_end(SEAL, _NUMBER.pack(successor)):
            self.poll(follow=False)

    def rewrite(self, keep: NDArray[np.bool_]) -> int:
        """Write the next log with only the rows to keep; the caller publishes its number and then calls `seal`."""
        self.backend.write(self.log_number + 1, self._packed_rows(np.flatnonzero(keep)))
        return self.log_number + 1

    def copy(self, backend: LogBackend, keep: NDArray[np.bool_]) -> None:
        """Write the rows to keep as the log of the first one's number in another backend."""
        backend.write(self.first_log, self._packed_rows(np.flatnonzero(keep)))

    def _packed_rows(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        yield records.pack(START, _NUMBER.pack(self.next_sequence))
        step = max(1, min(_RECORD_ROWS, _RECORD_BYTES // (16 + self._schema.row_bytes)))
        for start in range(0, len(index), step):
            part = index[start : start + step]
            yield records.pack(ROWS, _pack(self._sequence[part], TokenRows(self.users, self.columns).take(part)))

    def _append_at_end(self, kind: int, payload: bytes) -> bool:
        return self._append_record(LogPosition(self.log_number, self._log.position, self.next_sequence), kind, payload)

    def _append_record(self, position: LogPosition, kind: int, payload: bytes) -> bool:
        data = records.pack(kind, payload)
        if not self.backend.append(position.log, position.position, data):
            return False
        with self._lock:
            if (self.log_number, self._log.position) == (
                position.log,
                position.position,
            ):  # else another thread has read it meanwhile
                self._log.advance(data)
                self._apply([(kind, payload)])
        return True

    def _apply(self, fresh_records: list[tuple[int, bytes]]) -> None:
        fresh: list[tuple[NDArray[np.int64], TokenRows]] = []
        for kind, payload in fresh_records:
            if kind == ROWS:
                sequence, rows = _unpack(payload, self._schema)
                new = sequence >= self._next_unseen
                if new.any():
                    fresh.append((sequence[new], rows if new.all() else rows.take(new)))
                    self._next_unseen = int(sequence[-1]) + 1
                    self.next_sequence = max(self.next_sequence, self._next_unseen)
            elif kind == START:
                self.next_sequence = max(self.next_sequence, *_NUMBER.unpack(payload))
            elif kind == SEAL:
                self.sealed = True
                (self._successor,) = _NUMBER.unpack(payload)
            elif kind in (FENCE, UNFENCE):
                self.fenced = kind == FENCE
            else:
                raise CorruptionError(
                    f"{self.backend.name(self.log_number)}: unknown kind of record {kind}; written by a later version?"
                )
        if fresh:
            self._add(fresh)

    def _follow_seal(self) -> None:
        # A reader that did not read while several days were written finds the successor removed, and goes on with the next log.
        while True:
            number = self.backend.next_published(self._successor)
            try:
                self._log = self.backend.reader(number)
            except FileNotFoundError:
                self._successor = number + 1
                continue
            self.log_number, self.sealed, self.fenced = number, False, False
            return

    def _add(self, fresh: list[tuple[NDArray[np.int64], TokenRows]]) -> None:
        start, stop = self.count, self.count + sum(len(rows) for _, rows in fresh)
        self._users = _grown(self._users, stop)
        self._sequence = _grown(self._sequence, stop)
        columns = {name: _grown(column, stop) for name, column in self.buffers.columns.items()}
        if columns["timestamp"] is not self.buffers.columns["timestamp"]:
            self.buffers = Buffers.of(columns)
        at = start
        for sequence, rows in fresh:
            end = at + len(rows)
            self._users[at:end], self._sequence[at:end] = rows.users, sequence
            for name, column in rows.columns.items():
                columns[name][at:end] = column
            at = end
        times = columns["timestamp"]
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


def backend_of(folder: Path, manifest: StoreManifest) -> LogBackend:
    """Where the tail of a store lies.

    Raises:
        MissingExtraError: it lies in Redis, whose package is not installed.
        ConfigError: its address cannot be used.
    """
    if manifest.tail is None:
        return DiskLogs(folder)
    from tokenlake.tokens.wal_redis import RedisLogs

    return RedisLogs(folder, manifest.tail)


def create_log(backend: LogBackend) -> None:
    """Make the empty first log of a store."""
    backend.collect_garbage(1)  # of a folder that held one whose making was cut short
    backend.write(1, [records.pack(START, _NUMBER.pack(0))])


def seal_log(backend: LogBackend, number: int, successor: int) -> None:
    """Seal the log of a writer that was killed between publishing its manifest and sealing; no append goes there any more."""
    try:
        reader = backend.reader(number)
        while all(kind != SEAL for kind, _ in reader.read()):
            if backend.append(number, reader.position, records.pack(SEAL, _NUMBER.pack(successor))):
                return
    except FileNotFoundError:
        return  # removed as garbage, long after it was sealed


def _grown(array: NDArray[Any], rows: int) -> NDArray[Any]:
    if rows <= len(array):
        return array
    bigger = np.empty((max(rows, 2 * len(array)), *array.shape[1:]), array.dtype)
    bigger[: len(array)] = array
    return bigger


def _pack(sequence: NDArray[np.int64], rows: TokenRows) -> bytes:
    columns = [sequence, rows.users, *rows.columns.values()]
    return b"".join(np.ascontiguousarray(column).tobytes() for column in columns)


def _unpack(payload: bytes, schema: StoreSchema) -> tuple[NDArray[np.int64], TokenRows]:
    count = len(payload) // (16 + schema.row_bytes)
    sequence = np.frombuffer(payload, np.int64, count)
    users = np.frombuffer(payload, np.int64, count, 8 * count)
    at, columns = 16 * count, {}
    for name, dtype in schema.columns.items():
        shape = schema.shape(name, count)
        columns[name] = np.frombuffer(payload, dtype, int(np.prod(shape)), at).reshape(shape)
        at += columns[name].nbytes
    return sequence, TokenRows(users, columns)
