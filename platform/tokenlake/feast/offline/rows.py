"""Rows in Parquet files: reads only the needed columns and row groups, several groups in parallel."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.instants import as_nanos
from tokenlake.feast.offline.select import pick
from tokenlake.reading.casting import fitted
from tokenlake.reading.parquet import ParquetFile
from tokenlake.storage.native import THREADS

#: Rows of a decoded batch of key columns.
_KEY_BATCH = 1 << 16
#: Bytes, about, of a decoded batch of other columns.
_BATCH_BYTES = 2 << 20
#: Called with a batch: the number of its first row, and its columns.
BatchReader = Callable[[int, pa.RecordBatch], None]


@dataclass(frozen=True, eq=False)
class Group:
    """One row group of one file.

    Attributes:
        file: the Parquet file that holds it.
        number: its number in the file, from 0.
        first: number of its first row among all rows of the source.
        rows: number of its rows.
    """

    file: ParquetFile
    number: int
    first: int
    rows: int

    def bounds(self, column: str) -> tuple[Any, Any] | None:
        """Smallest and largest value of a column; None where the file has no statistics."""
        return self.file.bounds(self.number, column)

    def overlaps(self, column: str, first: int, last: int) -> bool:
        """Whether a time column may hold instants from `first` to `last`, in nanoseconds."""
        bounds = self.bounds(column)
        if bounds is None or not all(isinstance(bound, dt.date) for bound in bounds):
            return True
        low, high = as_nanos(pa.array(bounds), column)
        # Statistics of times may be rounded to microseconds.
        return bool(low - 1000 <= last and high + 1000 >= first)


class SourceRows:
    """All rows of a source, numbered in the order of its files.

    Args:
        files: Parquet files with their partitions.
        schema: all columns, with types that hold the values of every file.
    """

    def __init__(self, files: Sequence[ParquetFile], schema: pa.Schema) -> None:
        self.schema = schema
        self._files = files

    @cached_property
    def groups(self) -> list[Group]:
        """Every row group."""
        groups: list[Group] = []
        first = 0
        for file in self._files:
            for number in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                groups.append(Group(file, number, first, rows))
                first += rows
        return groups

    def read_keys(
        self, columns: Sequence[str], times: Sequence[str], groups: Sequence[Group], reader: BatchReader
    ) -> None:
        """Call `reader` with narrow columns of some groups, from several threads, in any order.

        Args:
            columns: key columns.
            times: columns of instants. They follow the keys as int64 nanoseconds, converted from each file's own type,
                since a cast to the common type could lose some: see `as_nanos`.
            groups: the groups to read.
            reader: called with each batch.
        """
        self._read(columns, times, groups, reader, _KEY_BATCH)

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
        """Read some columns of the rows with these numbers, which ascend."""
        schema = self._selected(columns)
        wanted = [g for g in self.groups if _count(rows, g.first, g.first + g.rows)]
        found: dict[int, pa.RecordBatch] = {}

        def reader(first: int, batch: pa.RecordBatch) -> None:
            start, stop = np.searchsorted(rows, (first, first + batch.num_rows))
            if start < stop:
                inside = rows[start:stop] - first
                picked = [pick(pa.chunked_array([column]), inside) for column in batch.columns]
                found[first] = pa.record_batch(picked, batch.schema)

        self._read(columns, (), wanted, reader, self._fitting(columns, wanted))
        return pa.Table.from_batches([found[first] for first in sorted(found)], schema)

    def check(self) -> None:
        """Check that no file changed while it was read.

        Raises:
            ChangedError: a file changed.
        """
        for file in self._files:
            file.check()

    def _read(
        self, columns: Sequence[str], times: Sequence[str], groups: Sequence[Group], reader: BatchReader, rows: int
    ) -> None:
        schema = self._selected(columns)
        self._selected(times)
        if len(groups) < THREADS:
            _read_ahead(
                (found for group in groups for found in _batches(group, schema, times, rows, threads=True)), reader
            )
            return

        def one(group: Group) -> None:
            for first, batch in _batches(group, schema, times, rows, threads=False):
                reader(first, batch)

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(one, groups):
                pass

    def _selected(self, columns: Sequence[str]) -> pa.Schema:
        if unknown := [c for c in columns if c not in self.schema.names]:
            raise SchemaError(f"the source has no columns {unknown}; it has {self.schema.names}")
        return pa.schema([self.schema.field(c) for c in columns])

    def _fitting(self, columns: Sequence[str], groups: Sequence[Group]) -> int:
        """Number of rows in a batch of `_BATCH_BYTES`."""
        count = sum(group.rows for group in groups)
        size = sum(group.file.size(group.number, columns) for group in groups)
        return max(1024, min(_KEY_BATCH, _BATCH_BYTES * count // max(size, 1)))


def _read_ahead(batches: Iterable[tuple[int, pa.RecordBatch]], reader: BatchReader) -> None:
    """Decode the next batch while `reader` handles one, since one thread decodes a whole row group."""
    with ThreadPoolExecutor(1) as pool:
        before: Future[None] | None = None
        for first, batch in batches:
            if before is not None:
                before.result()
            before = pool.submit(reader, first, batch)
        if before is not None:
            before.result()


def _batches(
    group: Group, schema: pa.Schema, times: Sequence[str], rows: int, *, threads: bool
) -> Iterator[tuple[int, pa.RecordBatch]]:
    file, first = group.file, group.first
    own = pa.schema([file.schema.field(name) if name in file.schema.names else (name, pa.null()) for name in times])
    wanted = pa.schema([*schema, *own])
    for batch in file.batches(wanted.names, groups=[group.number], rows=rows, threads=threads):
        full = fitted(batch, wanted, file.name, file.constants)
        for place, name in enumerate(times, len(schema)):
            full = full.set_column(place, name, pa.array(as_nanos(full.column(place), name)))
        yield first, full
        first += full.num_rows


def _count(rows: NDArray[np.int64], first: int, stop: int) -> int:
    start, end = np.searchsorted(rows, (first, stop))
    return int(end - start)
