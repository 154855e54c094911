"""Rows in Parquet files, read by row groups: only the columns and the groups that are needed, several at a time."""

from __future__ import annotations

import datetime as dt
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError, NotFoundError, SchemaError
from tokenlake.feast.offline.instants import as_nanos
from tokenlake.feast.offline.select import pick
from tokenlake.storage.native import THREADS

#: Rows of key columns that are decoded at a time.
_KEY_BATCH = 1 << 16
#: Bytes of other columns that are decoded at a time, about.
_BATCH_BYTES = 2 << 20
#: Bytes of a column that are read from a disk at a time.
_BUFFER = 1 << 20
#: Reads a batch of some rows: the number of the first one, and their columns.
Reader = Callable[[int, pa.RecordBatch], None]


@dataclass(frozen=True, eq=False)
class Group:
    """One row group of one file.

    Attributes:
        file: it.
        number: its place in the file.
        first: number of its first row among all rows of the source.
        rows: how many it has.
    """

    file: _File
    number: int
    first: int
    rows: int

    def bounds(self, column: str) -> tuple[Any, Any] | None:
        """Least and largest value of a column, where the file tells them."""
        if column in self.file.constants:
            value = self.file.constants[column].as_py()
            return None if value is None else (value, value)
        place = self.file.places.get(column)
        if place is None:
            return None
        found = self.file.metadata.row_group(self.number).column(place).statistics
        return (found.min, found.max) if found is not None and found.has_min_max else None

    def overlaps(self, column: str, first: int, last: int) -> bool:
        """Whether a time column may hold instants from `first` to `last`, in nanoseconds."""
        bounds = self.bounds(column)
        if bounds is None or not all(isinstance(bound, dt.date) for bound in bounds):
            return True
        low, high = as_nanos(pa.array(bounds), column)
        # Files may tell times to the microsecond only.
        return bool(low - 1000 <= last and high + 1000 >= first)


class _File:
    """A Parquet file, and what its place says of all its rows."""

    def __init__(self, fragment: pds.ParquetFileFragment, schema: pa.Schema) -> None:
        self._fragment = fragment
        known = pds.get_partition_keys(fragment.partition_expression)
        self.constants = {
            name: pa.scalar(value).cast(schema.field(name).type)
            for name, value in known.items()
            if name in schema.names
        }

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        return self._fragment.metadata

    @cached_property
    def places(self) -> dict[str, int]:
        """Places of the plain columns among the leaves."""
        schema = self.metadata.schema
        leaves = [schema.column(i) for i in range(len(schema))]
        return {leaf.path: i for i, leaf in enumerate(leaves) if leaf.max_repetition_level == 0}

    @cached_property
    def names(self) -> frozenset[str]:
        schema = self.metadata.schema
        return frozenset(schema.column(i).path.partition(".")[0] for i in range(len(schema)))

    def open(self) -> pq.ParquetFile:
        """Open it for reading a column chunk by pieces where that is cheap, else whole and ahead."""
        disk = self._fragment.filesystem
        local = isinstance(disk, pafs.LocalFileSystem)
        handle = disk.open_input_file(self._fragment.path)
        return pq.ParquetFile(handle, metadata=self.metadata, buffer_size=_BUFFER if local else 0, pre_buffer=not local)

    def __str__(self) -> str:
        return str(self._fragment.path)


class Rows:
    """All rows of a source, numbered in the order of its files.

    Args:
        dataset: Parquet files with their partitions.

    Attributes:
        schema: all columns.
    """

    def __init__(self, dataset: pds.Dataset) -> None:
        self.schema: pa.Schema = dataset.schema
        self._dataset = dataset

    @cached_property
    def groups(self) -> list[Group]:
        """Every row group."""
        groups: list[Group] = []
        first = 0
        for fragment in self._dataset.get_fragments():
            file = _File(fragment, self.schema)
            for number in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                groups.append(Group(file, number, first, rows))
                first += rows
        return groups

    def read_keys(self, columns: Sequence[str], groups: Sequence[Group], reader: Reader) -> None:
        """Hand some narrow columns of some groups to `reader`, from several threads, in no order."""
        self._read(columns, groups, reader, _KEY_BATCH)

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
        """Some columns of the rows of these ascending numbers."""
        schema = self._selected(columns)
        wanted = [g for g in self.groups if _count(rows, g.first, g.first + g.rows)]
        found: dict[int, pa.RecordBatch] = {}

        def reader(first: int, batch: pa.RecordBatch) -> None:
            start, stop = np.searchsorted(rows, (first, first + batch.num_rows))
            if start < stop:
                inside = rows[start:stop] - first
                picked = [pick(pa.chunked_array([column]), inside) for column in batch.columns]
                found[first] = pa.record_batch(picked, batch.schema)

        self._read(columns, wanted, reader, self._fitting(columns, wanted))
        return pa.Table.from_batches([found[first] for first in sorted(found)], schema)

    def _read(self, columns: Sequence[str], groups: Sequence[Group], reader: Reader, rows: int) -> None:
        schema = self._selected(columns)
        if len(groups) < THREADS:
            _read_ahead((found for group in groups for found in _batches(group, schema, rows, threads=True)), reader)
            return

        def one(group: Group) -> None:
            for first, batch in _batches(group, schema, rows, threads=False):
                reader(first, batch)

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(one, groups):
                pass

    def _selected(self, columns: Sequence[str]) -> pa.Schema:
        if unknown := [c for c in columns if c not in self.schema.names]:
            raise SchemaError(f"the source has no columns {unknown}; it has {self.schema.names}")
        return pa.schema([self.schema.field(c) for c in columns])

    def _fitting(self, columns: Sequence[str], groups: Sequence[Group]) -> int:
        """Rows of a batch of `_BATCH_BYTES`."""
        size = count = 0
        for group in groups:
            about = group.file.metadata.row_group(group.number)
            count += group.rows
            for place in range(about.num_columns):
                leaf = about.column(place)
                if leaf.path_in_schema.partition(".")[0] in columns:
                    size += leaf.total_uncompressed_size
        return max(1024, min(_KEY_BATCH, _BATCH_BYTES * count // max(size, 1)))


def _read_ahead(batches: Iterable[tuple[int, pa.RecordBatch]], reader: Reader) -> None:
    """Decode the next batch while one is read: a row group is decoded by one thread, however many there are."""
    with ThreadPoolExecutor(1) as pool:
        before: Future[None] | None = None
        for first, batch in batches:
            if before is not None:
                before.result()
            before = pool.submit(reader, first, batch)
        if before is not None:
            before.result()


def _batches(group: Group, schema: pa.Schema, rows: int, *, threads: bool) -> Iterator[tuple[int, pa.RecordBatch]]:
    file = group.file
    present = [name for name in schema.names if name not in file.constants and name in file.names]
    try:
        if not present:
            yield group.first, _filled(None, schema, file, group.rows)
            return
        with file.open() as parquet:
            first = group.first
            for batch in parquet.iter_batches(rows, [group.number], present, use_threads=threads):
                yield first, _filled(batch, schema, file, batch.num_rows)
                first += batch.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptionError(f"{file} is missing or damaged ({error}); restore it from a copy") from error


def _filled(batch: pa.RecordBatch | None, schema: pa.Schema, file: _File, rows: int) -> pa.RecordBatch:
    """The schema's columns: of the file, of its place, or null."""

    def column(field: pa.Field) -> pa.Array:
        if field.name in file.constants:
            return pa.repeat(file.constants[field.name], rows)
        if batch is None or field.name not in batch.schema.names:
            return pa.nulls(rows, field.type)
        found = batch.column(field.name)
        return found if found.type == field.type else found.cast(field.type)

    return pa.RecordBatch.from_arrays([column(field) for field in schema], schema=schema)


def _count(rows: NDArray[np.int64], first: int, stop: int) -> int:
    start, end = np.searchsorted(rows, (first, stop))
    return int(end - start)


def parquet_rows(path: str, filesystem: Any = None) -> Rows:
    """Rows of a Parquet file, a folder of them (perhaps partitioned as Hive does it), or a glob of local ones.

    Raises:
        NotFoundError: nothing lies there.
        CorruptionError: what lies there is no Parquet.
    """
    place: str | list[str] = path
    if filesystem is None and not Path(path).exists() and glob.has_magic(path):
        place = sorted(glob.glob(path))  # noqa: PTH207 (an absolute pattern)
    if not place:
        raise NotFoundError(f"no file matches {path}")
    try:
        return Rows(pds.dataset(place, filesystem=filesystem, format="parquet", partitioning="hive"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist; check the source's path") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptionError(f"{path} cannot be read as Parquet ({error})") from error
