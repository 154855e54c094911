"""Files of the online store: immutable runs of rows, and the manifest that publishes them.

A run is an Arrow IPC file of one record batch. Its rows are in the order in which they were written; `hash` and `row`
are the index, sorted by hash. Keys and values are opaque bytes. See `docs/feast-online-store.md`.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError
from tokenlake.feast.online import wire
from tokenlake.storage import blocks
from tokenlake.storage import manifest as manifests
from tokenlake.storage.native_ops import hash_bytes
from tokenlake.times import EARLIEST

FORMAT = 1
MANIFEST = "manifest"
#: Bytes of one checksummed block.
BLOCK = 1 << 16
#: Approximate bytes of a row besides its key and values.
ROW_BYTES = 64
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class OnlineRows:
    """Rows of one feature view, oldest write first.

    Attributes:
        keys: (n,) large_binary, entity keys as Feast serializes them.
        event: (n,) int64 microseconds UTC; created: likewise, `EARLIEST` for a missing time.
        values: feature -> (n,) large_binary: wire bytes of a Feast `Value`, null where the row does not set it.
    """

    keys: pa.LargeBinaryArray
    event: NDArray[np.int64]
    created: NDArray[np.int64]
    values: dict[str, pa.LargeBinaryArray]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """(n,) a hash of each key."""
        return hashes(self.keys)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(n,) the rows by ascending hash."""
        return np.argsort(self.hashes)

    @property
    def distinct(self) -> bool:
        """Whether all keys differ, which is certain if all hashes differ."""
        ordered = self.hashes[self.order]
        return not (ordered[1:] == ordered[:-1]).any() or len(self.keys.unique()) == len(self)

    @property
    def weight(self) -> int:
        """Bytes that a merge has to copy."""
        sizes: list[int] = [column.nbytes for column in (self.keys, *self.values.values())]
        return sum(sizes) + ROW_BYTES * len(self)

    def take(self, index: NDArray[np.int64]) -> OnlineRows:
        """Select rows, in the order of the index."""
        places = pa.array(index)
        values = {name: column.take(places) for name, column in self.values.items()}
        return OnlineRows(self.keys.take(places), self.event[index], self.created[index], values)


def concat(parts: list[OnlineRows]) -> OnlineRows:
    """Concatenate parts; a feature that a part lacks is null there."""
    if len(parts) == 1:
        return parts[0]
    names = list(dict.fromkeys(name for part in parts for name in part.values))

    def column(part: OnlineRows, name: str) -> pa.Array:
        return part.values[name] if name in part.values else pa.nulls(len(part), pa.large_binary())

    return OnlineRows(
        pa.concat_arrays([part.keys for part in parts]),
        np.concatenate([part.event for part in parts]),
        np.concatenate([part.created for part in parts]),
        {name: pa.concat_arrays([column(part, name) for part in parts]) for name in names},
    )


def hashes(keys: pa.LargeBinaryArray) -> NDArray[np.uint64]:
    """(n,) a hash of each key: see `hash_bytes`."""
    return hash_bytes(np.frombuffer(keys.buffers()[2] or b"", np.uint8), wire.ends_of(keys))


@dataclass(frozen=True)
class RunFile:
    """The manifest's entry of a run.

    Attributes:
        name: file name within `runs/`.
        size: bytes; rows: rows.
        regions: first and last byte (exclusive) of the keys' data and of each feature's data; the rest is the *frame*.
        frame: XXH3-64 of the frame, hex.
    """

    name: str
    size: int
    rows: int
    regions: tuple[blocks.Region, ...]
    frame: str

    @property
    def weight(self) -> int:
        """Bytes that a merge has to copy."""
        return sum(stop - start for start, stop in self.regions) + ROW_BYTES * self.rows


def write_run(path: Path, rows: OnlineRows) -> RunFile:
    """Write rows as a new file, durably; each column's data starts at the beginning of its buffer."""
    names = list(rows.values)
    data = [_compact(rows.keys), *(_compact(column) for column in rows.values.values())]
    sums = [_sums(memoryview(column.buffers()[2] or b"")) for column in data]
    meta = json.dumps({"block": BLOCK, "sums": [blocks.sums_to_hex(s) for s in sums]}).encode()
    struct = pa.StructArray.from_arrays(data[1:], names=names) if names else pa.array([{}] * len(rows), pa.struct([]))
    created = pa.array(rows.created, mask=rows.created == EARLIEST).view(_TIME)
    columns = {
        "hash": pa.array(rows.hashes[rows.order]),
        "row": pa.array(rows.order.astype(np.uint32)),
        "event_timestamp": pa.array(rows.event).view(_TIME),
        "created_timestamp": created,
        "key": data[0],
        "values": struct,
    }
    blocks.write_batch(path, pa.record_batch(columns).replace_schema_metadata({blocks.META: meta}))
    return _describe(path, len(rows))


def _compact(column: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    """A copy of the column whose buffers hold only its own bytes."""
    if column.offset or (len(column) and wire.ends_of(column)[0]):
        column = pa.concat_arrays([column, pa.array([], column.type)])
    mask, ends, data = column.buffers()
    size = int(wire.ends_of(column)[-1])
    data = data.slice(0, size) if data is not None else pa.py_buffer(b"")
    return pa.Array.from_buffers(column.type, len(column), [mask, ends, data])


def _sums(data: memoryview) -> NDArray[np.uint64]:
    starts = range(0, len(data), BLOCK)
    return np.fromiter((xxhash.xxh3_64_intdigest(data[a : a + BLOCK]) for a in starts), np.uint64, len(starts))


def _describe(path: Path, rows: int) -> RunFile:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        regions = _regions(mapped)
        return RunFile(path.name, len(mapped), rows, regions, blocks.frame_sum(mapped, regions))


def _regions(mapped: mmap.mmap) -> tuple[blocks.Region, ...]:
    buffer = pa.py_buffer(mapped)
    places = [(b.address - buffer.address, b.size) if b is not None and b.size else (0, 0) for b in _data(buffer)]
    return tuple((at, at + size) for at, size in places)


def _data(buffer: pa.Buffer) -> list[pa.Buffer | None]:
    batch = pa.ipc.open_file(buffer).get_batch(0)
    return [column.buffers()[2] for column in (batch["key"], *_children(batch))]


def _children(batch: pa.RecordBatch) -> list[pa.LargeBinaryArray]:
    return [batch["values"].field(i) for i in range(batch["values"].type.num_fields)]


class MappedRun:
    """A memory-mapped run; its frame is verified when it is opened, keys and values at their first read.

    Attributes:
        file: its entry in the manifest; path: path of the file.
        hashes: (n,) uint64, ascending; order: (n,) uint32, the row of each.
        event: (n,) int64; created: (n,) int64.
        features: the names of the features.

    Raises:
        FileNotFoundError: the file is gone.
        CorruptionError: its size or the checksum of its frame does not match.
    """

    def __init__(self, path: Path, file: RunFile) -> None:
        self.file, self.path = file, path
        self._map = blocks.map_file(path, file.size, _REMEDY)
        self._view = memoryview(self._map)
        if blocks.frame_sum(self._map, file.regions) != file.frame:
            raise CorruptionError(f"{path}: the checksum of its index does not match; {_REMEDY}")
        batch = pa.ipc.open_file(pa.py_buffer(self._map)).get_batch(0)
        self._batch = batch
        self.hashes = batch["hash"].to_numpy()
        self.order = batch["row"].to_numpy()
        self.event = batch["event_timestamp"].view(pa.int64()).to_numpy()
        self.created = batch["created_timestamp"].view(pa.int64()).fill_null(EARLIEST).to_numpy()
        self.features = [field.name for field in batch["values"].type]
        columns = [batch["key"], *_children(batch)]
        meta = json.loads(batch.schema.metadata[blocks.META])
        self._columns = [
            _Column(self, column, region, blocks.sums_from_hex(sums))
            for column, region, sums in zip(columns, file.regions, meta["sums"], strict=True)
        ]
        self._places = {name: i for i, name in enumerate(self.features, 1)}

    def find(self, hashed: NDArray[np.uint64], keys: list[bytes]) -> list[list[int]]:
        """The rows of each key."""
        starts = np.searchsorted(self.hashes, hashed).tolist()
        found: list[list[int]] = []
        key_of, count = self._columns[0].get, len(self.hashes)
        for at, digest, key in zip(starts, hashed.tolist(), keys, strict=True):
            own: list[int] = []
            while at < count and self.hashes[at] == digest:
                row = int(self.order[at])
                if bytes(key_of(row) or b"") == key:
                    own.append(row)
                at += 1
            found.append(own)
        return found

    def value(self, feature: str, row: int) -> memoryview | None:
        """A row's value of a feature; None if the row does not set it."""
        place = self._places.get(feature)
        return None if place is None else self._columns[place].get(row)

    def rows(self) -> OnlineRows:
        """All rows, verified."""
        self.check()
        values = dict(zip(self.features, _children(self._batch), strict=True))
        return OnlineRows(self._batch["key"], self.event, self.created, values)

    def check(self) -> None:
        """Verify every block that was not read yet.

        Raises:
            CorruptionError: a checksum does not match.
        """
        for column in self._columns:
            column.check(0, column.size)

    def bytes_at(self, start: int, stop: int) -> memoryview:
        """Bytes of the file from `start` to `stop`."""
        return self._view[start:stop]


class _Column:
    """Bytes of one column; each block is verified at its first read."""

    def __init__(
        self, run: MappedRun, column: pa.LargeBinaryArray, region: blocks.Region, sums: NDArray[np.uint64]
    ) -> None:
        self._run, self._start, self.size = run, region[0], region[1] - region[0]
        self._ends = wire.ends_of(column)
        self._valid = None if not column.null_count else column.is_valid().to_numpy(zero_copy_only=False)
        self._sums = sums.tolist()
        self._good = bytearray(len(self._sums))

    def get(self, row: int) -> memoryview | None:
        if self._valid is not None and not self._valid[row]:
            return None
        start, stop = int(self._ends[row]), int(self._ends[row + 1])
        self.check(start, stop)
        return self._run.bytes_at(self._start + start, self._start + stop)

    def check(self, start: int, stop: int) -> None:
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            if not self._good[block]:
                at = self._start + block * BLOCK
                data = self._run.bytes_at(at, min(at + BLOCK, self._start + self.size))
                if xxhash.xxh3_64_intdigest(data) != self._sums[block]:
                    raise CorruptionError(
                        f"{self._run.path}: the checksum of bytes {at} to {at + len(data) - 1} does not match; {_REMEDY}"
                    )
                self._good[block] = 1


_REMEDY = "restore the file, or remove the view's folder and materialize it again"


@dataclass(frozen=True)
class TableManifest:
    """One published state.

    Attributes:
        generation: number of publications so far.
        runs: oldest first.
    """

    generation: int = 0
    runs: tuple[RunFile, ...] = ()

    def publish(self, folder: Path) -> None:
        """Replace the manifest in `folder` by this one, atomically."""
        body = {"format": FORMAT, "generation": self.generation, "runs": [asdict(run) for run in self.runs]}
        manifests.publish(folder / MANIFEST, body)


def load(folder: Path) -> TableManifest | None:
    """Read a view's manifest; None if nothing was published.

    Raises:
        CorruptionError: its checksum does not match.
    """
    try:
        body = manifests.read(folder / MANIFEST, FORMAT, _REMEDY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return TableManifest(
        body["generation"],
        tuple(RunFile(**{**run, "regions": tuple(map(tuple, run["regions"]))}) for run in body["runs"]),
    )
