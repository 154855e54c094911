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
from tokenlake.tokens.segment import REQUESTED, Segment
from tokenlake.tokens.snapshot import Snapshot
from tokenlake.tokens.tail import Tail

_LOAD, _CHECK, _NO_MEMORY = 1, 2, 4
#: Fewer queries, or bytes, than these are not worth a second thread.
_MANY_QUERIES = 512
_MANY_BYTES = 1 << 20
#: An output of so many bytes finds no room in a processor's caches.
LARGE_BYTES = 1 << 25

_SEGMENT = np.dtype(
    [(name, np.uintp) for name in ("users", "offsets", "directory", "times", "block_states")]
    + [(name, np.int64) for name in ("directory_bits", "block_shift")]
)
_SLICE = np.dtype([(name, np.int64) for name in ("start", "stop", "bits", "first")])


def _struct(name: str, fields: str) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": [(field, ctypes.c_int64) for field in fields.split()]})


# Pointers and counts are 64 bits each: see the structs of the same names in native.c.
_Find = _struct(
    "_Find",
    "segments slices n_slices wanted present n users since before length tail_offsets tail_rows tail_times "
    "ranges n_ranges offsets",
)
_Column = _struct("_Column", "out width bases tail known tail_known known_out")
_Gather = _struct("_Gather", "find columns n_columns as_of large")


class NativeSnapshot:
    """A snapshot as native.c sees it; files are filled in when a query first meets them."""

    def __init__(self, snapshot: Snapshot, schema: StoreSchema) -> None:
        self.files: list[Segment | None] = []
        first: dict[int, int] = {}
        rows = []
        for mapped_slice in snapshot.slices:
            key = id(mapped_slice.segments)
            if key not in first:
                first[key] = len(self.files)
                self.files += mapped_slice.segments
            rows.append((mapped_slice.start, mapped_slice.stop, mapped_slice.bits, first[key]))
        self._bits = {number: mapped_slice.bits for mapped_slice in snapshot.slices for number in range(
            first[id(mapped_slice.segments)], first[id(mapped_slice.segments)] + len(mapped_slice.segments))}  # fmt: skip
        count = len(self.files)
        self.slices = np.array(rows, _SLICE)
        self.segments = np.zeros(count, _SEGMENT)
        self._present = {number: segment for number, segment in enumerate(self.files) if segment is not None}
        self.present = np.array([s is not None for s in self.files], np.uint8)
        self.bases = {name: np.zeros(count, np.uintp) for name in schema.columns}
        self._lock = Lock()
        self._directories: dict[int, NDArray[np.int32]] = {}
        self.pointers = (address(self.segments), address(self.slices), len(rows))
        self.present_pointer = address(self.present)
        self.base_pointers = {name: address(column) for name, column in self.bases.items()}

    def load(self, numbers: NDArray[np.int64]) -> None:
        """Load files and fill them in."""
        with self._lock:
            for number in numbers.tolist():
                if not self.segments[number]["users"]:
                    self._load(number)

    def _load(self, number: int) -> None:
        segment = self._present[number].load()
        directory_bits = max(1, (len(segment.users) >> 2).bit_length())
        if segment.directory is None:
            segment.directory = hash_directory(segment, self._bits[number], directory_bits)
        directory = self._directories[number] = segment.directory
        for name, column in segment.columns.items():
            self.bases[name][number] = address(column)
        arrays = (segment.offsets, directory, segment.columns["timestamp"], segment.block_states)
        row = self.segments[number : number + 1]
        row["directory_bits"], row["block_shift"] = directory_bits, segment.block_rows.bit_length() - 1
        row["offsets"], row["directory"], row["times"], row["block_states"] = map(address, arrays)
        row["users"] = address(segment.users)  # last: it says that the row is complete

    def check(self, numbers: NDArray[np.int64]) -> None:
        """Check the blocks that queries want."""
        for number in numbers.tolist():
            segment = self._present[number]
            segment.check(np.flatnonzero(segment.block_states == REQUESTED))


def hash_directory(segment: Segment, bits: int, directory_bits: int) -> NDArray[np.int32]:
    """A directory of a segment's users by hash: entry i is the first user whose hash, without the bits that chose the segment, starts with i."""
    cells = (segment.hashes << np.uint64(bits)) >> np.uint64(64 - directory_bits)
    del segment.hashes  # as large as the users, and not needed again
    return np.searchsorted(cells, np.arange((1 << directory_bits) + 1, dtype=np.uint64)).astype(np.int32)


class NativeRanges:
    """The runs that answer a queries, and what must outlive the calls that read them."""

    def __init__(self, lib: ctypes.CDLL, snapshot: NativeSnapshot, tail: Tail | None, queries: RangeQueries) -> None:
        n = len(queries)
        offsets, rows = _find_in_tail(tail, queries)
        buffers = tail.buffers if tail is not None and rows is not None else None  # after the rows, which they hold
        slots = n * (len(snapshot.slices) + 1) + 2 * (len(rows) if rows is not None else 0)
        self.offsets = np.empty(n + 1, np.int64)
        self.tail_pointers = buffers.pointers if buffers else None
        self._ranges = np.empty(3 * slots + n, np.int32)  # run_t of every slot, then the number of runs of each query
        ranges = address(self._ranges)
        requested = np.zeros(len(snapshot.files), np.uint8)
        self._keep = (snapshot, queries, offsets, rows, buffers)
        self.struct = _Find(
            *snapshot.pointers,
            address(requested),
            snapshot.present_pointer,
            n,
            address(queries.users),
            address(queries.since) if queries.since is not None else 0,
            address(queries.before),
            queries.length,
            address(offsets) if offsets is not None else 0,
            address(rows) if rows is not None else 0,
            self.tail_pointers["timestamp"] if self.tail_pointers else 0,
            ranges,
            ranges + 12 * slots,
            address(self.offsets),
        )
        self.pointer = ctypes.addressof(self.struct)
        threads = THREADS if n >= _MANY_QUERIES else 1
        while status := lib.tl_find(self.pointer, threads):
            if status & _NO_MEMORY:
                raise MemoryError("no memory to merge the tail")
            snapshot.load(np.flatnonzero(requested & _LOAD))
            snapshot.check(np.flatnonzero(requested & _CHECK))
            requested[:] = 0
            if not status & _LOAD:
                break  # what was checked is good, and so was the search

    @property
    def total(self) -> int:
        """Rows of all queries."""
        return int(self.offsets[-1])


def _find_in_tail(
    tail: Tail | None, queries: RangeQueries
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """The tail's rows of each query: offsets, and row numbers by time."""
    if tail is None or not tail.count:
        return None, None
    parts = tail.find(queries.users, queries.since, queries.before)
    offsets = np.array([0, *accumulate(map(len, parts))])
    if not offsets[-1]:
        return None, None
    return offsets, parts[0] if len(parts) == 1 else np.concatenate(parts)


def read(
    lib: ctypes.CDLL,
    schema: StoreSchema,
    snapshot: NativeSnapshot,
    tail: Tail | None,
    queries: RangeQueries,
    as_of: NDArray[np.int64],
    out: TokenBatch | None,
) -> TokenBatch:
    """Answer a queries: as `find` and `gather` do.

    Raises:
        CorruptionError: a segment's bytes are not what was written.
    """
    ranges = NativeRanges(lib, snapshot, tail, queries)
    batch = out if out is not None else TokenBatch.empty(schema)
    columns = batch.reserve(schema, ranges.offsets)
    from_tail = ranges.tail_pointers
    column_structs = (_Column * len(columns))()
    size = 0
    for i, (name, column) in enumerate(columns.items()):
        base = from_tail[name] if from_tail else 0
        if (label := schema.labels.get(name)) is not None:
            known = schema.known_columns[label]
            tail_known = from_tail[known] if from_tail else 0
            mask = (snapshot.base_pointers[known], tail_known, address(batch.known[label]))
        else:
            mask = (0, 0, 0)
        column_structs[i] = (address(column), column.strides[0], snapshot.base_pointers[name], base, *mask)
        size += column.nbytes
    request = _Gather(
        ranges.pointer, ctypes.addressof(column_structs), len(columns), address(as_of), size >= LARGE_BYTES
    )
    lib.tl_gather(ctypes.addressof(request), THREADS if size >= _MANY_BYTES else 1)
    return batch
