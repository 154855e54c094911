"""Segments: immutable Arrow IPC files, memory-mapped.

A segment is one record batch with one record per user: `user: int64, rows: list<struct<timestamp, token, ...>>`. Users
are sorted by `hash64(user)`, a user's rows by (timestamp, input order). The list's offsets are the user index, and the
struct's children the jagged columns. `docs/store.md` describes the rest.
"""

from __future__ import annotations

import json
import mmap
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError
from tokenlake.storage import blocks, disk, native_ops
from tokenlake.tokens.manifest import SegmentFile, SortedRun
from tokenlake.tokens.schema import StoreSchema, TokenRows

#: About this many bytes of rows share a checksum.
BLOCK_BYTES = 1 << 17
#: About this many rows, or bytes, go into one file: they bound the memory that writing takes.
SEGMENT_ROWS = 1 << 20
SEGMENT_BYTES = 1 << 28
#: States of a block in this process: not read yet, its checksum is right, a fetch asks to check it.
UNTOUCHED, GOOD, REQUESTED = 0, 1, 2


def write_segment(path: Path, schema: StoreSchema, rows: TokenRows) -> SegmentFile:
    """Write rows that are sorted by (hash64(user), timestamp) as a new file, durably.

    Args:
        path: a file name that no manifest names yet.
        schema: columns of the store.
        rows: at least one row.
    """
    starts = np.flatnonzero(np.r_[True, rows.users[1:] != rows.users[:-1]])
    offsets = np.r_[starts, len(rows)].astype(np.int32)
    users = rows.users[starts]
    struct = pa.StructArray.from_arrays(
        [_to_arrow(schema, name, rows.columns[name]) for name in schema.columns],
        fields=list(schema.arrow.field("rows").type.value_type),
    )
    lists = pa.ListArray.from_arrays(pa.array(offsets), struct, type=schema.arrow.field("rows").type)
    size = block_rows(schema)
    sums = block_sums(rows.columns, size, range(-(-len(rows) // size)))
    meta = json.dumps({"block_rows": size, "sums": blocks.sums_to_hex(sums)}).encode()
    schema_ = schema.arrow.with_metadata({blocks.META: meta})
    blocks.write_batch(path, pa.record_batch([pa.array(users), lists], schema=schema_))
    return _describe(path, schema, len(rows), len(users))


def block_rows(schema: StoreSchema) -> int:
    """Rows that share a checksum: a power of two, about `BLOCK_BYTES`."""
    return 1 << max(6, (BLOCK_BYTES // schema.row_bytes).bit_length() - 1)


def block_sums(columns: dict[str, NDArray[Any]], size: int, numbers: Any) -> NDArray[np.uint64]:
    """XXH3-64 of each block of `size` rows: its bytes of every column, in column order."""
    views = [(_bytes(column), size * column.strides[0]) for column in columns.values()]
    sums = np.empty(len(numbers), np.uint64)
    for i, block in enumerate(numbers):
        digest = xxhash.xxh3_64()
        for view, step in views:
            digest.update(view[block * step : (block + 1) * step])
        sums[i] = digest.intdigest()
    return sums


def _bytes(column: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(column).reshape(-1).view(np.uint8).data


def _to_arrow(schema: StoreSchema, name: str, column: NDArray[Any]) -> pa.Array:
    kind = schema.arrow_type(name)
    plain = column.view(np.uint8) if column.dtype == np.bool_ else column
    if name == "token":
        return pa.FixedSizeListArray.from_arrays(pa.array(plain.reshape(-1)), type=kind)
    return pa.array(plain).view(kind) if name == "timestamp" else pa.array(plain)


def _describe(path: Path, schema: StoreSchema, rows: int, users: int) -> SegmentFile:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        whole = xxhash.xxh3_64_hexdigest(mapped)
        data = _data_region(mapped, schema)
        return SegmentFile(path.name, len(mapped), rows, users, data, blocks.frame_sum(mapped, [data]), whole)


def _data_region(mapped: mmap.mmap, schema: StoreSchema) -> blocks.Region:
    buffer = pa.py_buffer(mapped)
    struct = pa.ipc.open_file(buffer).get_batch(0).column("rows").values
    leaves = [_leaf(struct, name) for name in schema.columns]
    return min(b.address for b in leaves) - buffer.address, max(b.address + b.size for b in leaves) - buffer.address


def _leaf(struct: pa.StructArray, name: str) -> pa.Buffer:
    return struct.field(name).buffers()[-1]


def bits_for(schema: StoreSchema, rows: int) -> int:
    """How many bits of the hash split so many rows into files of bounded size."""
    files_ = max(rows / SEGMENT_ROWS, rows * schema.row_bytes / SEGMENT_BYTES)
    return min(16, max(0, int(np.ceil(np.log2(max(files_, 1))))))


def write_sorted_run(folder: Path, schema: StoreSchema, name: str, rows: TokenRows) -> SortedRun | None:
    """Sort rows by (hash64(user), timestamp, input order) and write them; None for no rows."""
    if not len(rows):
        return None
    order = native_ops.sort_order(rows.users, rows.timestamps)
    bits = bits_for(schema, len(rows))

    def hash_at(position: int) -> int:
        return int(native_ops.hash64(rows.users[order[position : position + 1]])[0])

    edges = [bucket << (64 - bits) for bucket in range(1, 1 << bits)]
    cuts = [0, *(bisect_left(range(len(order)), edge, key=hash_at) for edge in edges), len(order)]
    return write_buckets(folder, schema, name, bits, (rows.take(order[a:b]) for a, b in pairwise(cuts)))


def write_buckets(folder: Path, schema: StoreSchema, name: str, bits: int, buckets: Iterator[TokenRows]) -> SortedRun:
    """Write one file for each bucket that has rows, durably."""
    segments = [
        write_segment(folder / f"{name}-{bucket:05d}.arrow", schema, rows) if len(rows) else None
        for bucket, rows in enumerate(buckets)
    ]
    disk.sync_folder(folder)
    return SortedRun(bits, tuple(segments))


class Segment:
    """A segment file, mapped when made (so that it stays readable after its name is gone) and parsed at first use.

    Attributes:
        file: what the manifest says of it.
        path: where it was.
        users: (users,) int64, sorted by `hash64`.
        offsets: (users + 1,) int32: the rows of each user.
        columns: name -> (rows,) or (rows, dim), memory-mapped, read-only.
        block_rows: rows that share a checksum.
        sums: (blocks,) uint64, the checksums.
        block_states: (blocks,) uint8, what this process knows of each block.
        directory: see `query_native.hash_directory`; None before the first use.
    """

    users: NDArray[np.int64]
    offsets: NDArray[np.int32]
    columns: dict[str, NDArray[Any]]
    block_rows: int
    sums: NDArray[np.uint64]
    block_states: NDArray[np.uint8]

    def __init__(self, path: str, schema: StoreSchema, file: SegmentFile) -> None:
        self.file = file
        self.path = path
        self._schema = schema
        self._map = blocks.map_file(path, file.size, "rebuild the store")
        self.loaded = False
        self.directory: NDArray[np.int32] | None = None
        self._lock = Lock()

    def load(self) -> Segment:
        """Check everything but the row columns and find these; only the first call does anything.

        Raises:
            CorruptionError: those bytes are not what was written.
        """
        if not self.loaded:
            with self._lock:
                if not self.loaded:
                    self._load()
                    self.loaded = True
        return self

    def _load(self) -> None:
        if blocks.frame_sum(self._map, [self.file.data]) != self.file.frame:
            raise CorruptionError(f"{self.path}: the checksum of its index does not match; rebuild the store")
        batch = pa.ipc.open_file(pa.py_buffer(self._map)).get_batch(0)
        lists = batch.column("rows")
        meta = json.loads(batch.schema.metadata[blocks.META])
        self.users = np.frombuffer(batch.column("user").buffers()[1], np.int64, self.file.users)
        self.offsets = np.frombuffer(lists.buffers()[1], np.int32, self.file.users + 1)
        self.columns = {name: self._column(lists.values, name) for name in self._schema.columns}
        self.block_rows = int(meta["block_rows"])
        self.sums = blocks.sums_from_hex(meta["sums"])
        self.block_states = np.zeros(len(self.sums), np.uint8)

    def _column(self, struct: pa.StructArray, name: str) -> NDArray[Any]:
        rows, dtype = self.file.rows, self._schema.columns[name]
        shape = self._schema.shape(name, rows)
        return np.frombuffer(_leaf(struct, name), dtype, int(np.prod(shape))).reshape(shape)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """(users,) uint64: `hash64(users)`, ascending."""
        return native_ops.hash64(self.users)

    def check(self, numbers: NDArray[np.int64]) -> None:
        """Check the checksums of those blocks that this process has not checked yet.

        Raises:
            CorruptionError: bytes of a block are not what was written.
        """
        new = numbers[self.block_states[numbers] != GOOD]
        if not len(new):
            return
        sums = block_sums(self.columns, self.block_rows, new.tolist())
        if (bad := sums != self.sums[new]).any():
            first = int(new[bad][0]) * self.block_rows
            raise CorruptionError(
                f"{self.path}: the checksum of rows {first} to {first + self.block_rows - 1} does not match; "
                f"rebuild the store from its table"
            )
        self.block_states[new] = GOOD

    def check_whole(self) -> None:
        """Check every byte of the file.

        Raises:
            CorruptionError: they are not what was written.
        """
        if xxhash.xxh3_64_hexdigest(self._map) != self.file.whole:
            raise CorruptionError(f"{self.path}: the checksum of the file does not match; rebuild the store")
