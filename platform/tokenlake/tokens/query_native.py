"""Answer queries by native.c: what query.py does in NumPy."""

from __future__ import annotations

import ctypes
from itertools import accumulate
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.storage.native import THREADS, address
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.query import RangeQueries
from tokenlake.tokens.schema import StoreSchema
from tokenlake.tokens.segment import WANTED, Segment
from tokenlake.tokens.snapshot import Snapshot
from tokenlake.tokens.tail import Tail

_LOAD, _CHECK, _NO_MEMORY = 1, 2, 4
#: Fewer queries, or bytes, than these are not worth a second thread.
_MANY_QUERIES = 512
_MANY_BYTES = 1 << 20
#: An output of so many bytes finds no room in a processor's caches.
_LARGE_BYTES = 1 << 25

_SEGMENT = np.dtype(
    [(name, np.uintp) for name in ("users", "offsets", "cells", "times", "checked")]
    + [(name, np.int64) for name in ("cell_bits", "block_shift")]
)
_PIECE = np.dtype([(name, np.int64) for name in ("start", "stop", "bits", "first")])


def _struct(name: str, fields: str) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": [(field, ctypes.c_int64) for field in fields.split()]})


# Pointers and counts are 64 bits each: see the structs of the same names in native.c.
_Find = _struct(
    "_Find",
    "segments pieces n_pieces wanted present n users since before length tail_offsets tail_rows tail_times "
    "runs n_runs offsets",
)
_Column = _struct("_Column", "out width bases tail known tail_known known_out")
_Gather = _struct("_Gather", "find columns n_columns moments large")


class NativeSnapshot:
    """A snapshot as native.c sees it; files are filled in when a query first meets them."""

    def __init__(self, snapshot: Snapshot, schema: StoreSchema) -> None:
        self.files: list[Segment | None] = []
        first: dict[int, int] = {}
        rows = []
        for piece in snapshot.slices:
            key = id(piece.segments)
            if key not in first:
                first[key] = len(self.files)
                self.files += piece.segments
            rows.append((piece.start, piece.stop, piece.bits, first[key]))
        self._bits = {number: piece.bits for piece in snapshot.slices for number in range(
            first[id(piece.segments)], first[id(piece.segments)] + len(piece.segments))}  # fmt: skip
        count = len(self.files)
        self.pieces = np.array(rows, _PIECE)
        self.segments = np.zeros(count, _SEGMENT)
        self._there = {number: segment for number, segment in enumerate(self.files) if segment is not None}
        self.present = np.array([s is not None for s in self.files], np.uint8)
        self.bases = {name: np.zeros(count, np.uintp) for name in schema.columns}
        self._lock = Lock()
        self._cells: dict[int, NDArray[np.int32]] = {}
        self.places = (address(self.segments), address(self.pieces), len(rows))
        self.present_place = address(self.present)
        self.base_places = {name: address(column) for name, column in self.bases.items()}

    def load(self, numbers: NDArray[np.int64]) -> None:
        """Load files and fill them in."""
        with self._lock:
            for number in numbers.tolist():
                if not self.segments[number]["users"]:
                    self._load(number)

    def _load(self, number: int) -> None:
        segment = self._there[number].load()
        cell_bits = max(1, (len(segment.users) >> 2).bit_length())
        if segment.cells is None:
            segment.cells = directory(segment, self._bits[number], cell_bits)
        cells = self._cells[number] = segment.cells
        for name, column in segment.columns.items():
            self.bases[name][number] = address(column)
        arrays = (segment.offsets, cells, segment.columns["timestamp"], segment.checked)
        row = self.segments[number : number + 1]
        row["cell_bits"], row["block_shift"] = cell_bits, segment.block_rows.bit_length() - 1
        row["offsets"], row["cells"], row["times"], row["checked"] = map(address, arrays)
        row["users"] = address(segment.users)  # last: it says that the row is complete

    def check(self, numbers: NDArray[np.int64]) -> None:
        """Check the blocks that queries want."""
        for number in numbers.tolist():
            segment = self._there[number]
            segment.check(np.flatnonzero(segment.checked == WANTED))


def directory(segment: Segment, bits: int, cell_bits: int) -> NDArray[np.int32]:
    """The first user of each cell: those whose hash, without the file's bits, starts with the cell's number."""
    cells = (segment.hashes << np.uint64(bits)) >> np.uint64(64 - cell_bits)
    del segment.hashes  # as large as the users, and not needed again
    return np.searchsorted(cells, np.arange((1 << cell_bits) + 1, dtype=np.uint64)).astype(np.int32)


class NativeRanges:
    """The runs that answer a window, and what must outlive the calls that read them."""

    def __init__(self, lib: ctypes.CDLL, table: NativeSnapshot, tail: Tail | None, window: RangeQueries) -> None:
        n = len(window)
        offsets, rows = _of_tail(tail, window)
        buffers = tail.buffers if tail is not None and rows is not None else None  # after the rows, which they hold
        slots = n * (len(table.pieces) + 1) + 2 * (len(rows) if rows is not None else 0)
        self.offsets = np.empty(n + 1, np.int64)
        self.tail_places = buffers.places if buffers else None
        self._runs = np.empty(3 * slots + n, np.int32)  # run_t of every slot, then the number of runs of each query
        runs = address(self._runs)
        wanted = np.zeros(len(table.files), np.uint8)
        self._keep = (table, window, offsets, rows, buffers)
        self.struct = _Find(
            *table.places,
            address(wanted),
            table.present_place,
            n,
            address(window.users),
            address(window.since) if window.since is not None else 0,
            address(window.before),
            window.length,
            address(offsets) if offsets is not None else 0,
            address(rows) if rows is not None else 0,
            self.tail_places["timestamp"] if self.tail_places else 0,
            runs,
            runs + 12 * slots,
            address(self.offsets),
        )
        self.place = ctypes.addressof(self.struct)
        threads = THREADS if n >= _MANY_QUERIES else 1
        while status := lib.tl_find(self.place, threads):
            if status & _NO_MEMORY:
                raise MemoryError("no memory to merge the tail")
            table.load(np.flatnonzero(wanted & _LOAD))
            table.check(np.flatnonzero(wanted & _CHECK))
            wanted[:] = 0
            if not status & _LOAD:
                break  # what was checked is good, and so was the search

    @property
    def total(self) -> int:
        """Rows of all queries."""
        return int(self.offsets[-1])


def _of_tail(tail: Tail | None, window: RangeQueries) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """The tail's rows of each query: offsets, and row numbers by time."""
    if tail is None or not tail.count:
        return None, None
    parts = tail.find(window.users, window.since, window.before)
    offsets = np.array([0, *accumulate(map(len, parts))])
    if not offsets[-1]:
        return None, None
    return offsets, parts[0] if len(parts) == 1 else np.concatenate(parts)


def read(
    lib: ctypes.CDLL,
    schema: StoreSchema,
    table: NativeSnapshot,
    tail: Tail | None,
    window: RangeQueries,
    moments: NDArray[np.int64],
    out: TokenBatch | None,
) -> TokenBatch:
    """Answer a window: as `find` and `gather` do.

    Raises:
        CorruptionError: a segment's bytes are not what was written.
    """
    found = NativeRanges(lib, table, tail, window)
    batch = out if out is not None else TokenBatch.empty(schema)
    columns = batch.reserve(schema, found.offsets)
    from_tail = found.tail_places
    told = (_Column * len(columns))()
    size = 0
    for i, (name, column) in enumerate(columns.items()):
        base = from_tail[name] if from_tail else 0
        if (label := schema.labels.get(name)) is not None:
            known = schema.known_columns[label]
            tail_known = from_tail[known] if from_tail else 0
            mask = (table.base_places[known], tail_known, address(batch.known[label]))
        else:
            mask = (0, 0, 0)
        told[i] = (address(column), column.strides[0], table.base_places[name], base, *mask)
        size += column.nbytes
    ask = _Gather(found.place, ctypes.addressof(told), len(columns), address(moments), size >= _LARGE_BYTES)
    lib.tl_gather(ctypes.addressof(ask), THREADS if size >= _MANY_BYTES else 1)
    return batch
