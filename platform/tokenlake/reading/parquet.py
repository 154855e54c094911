"""One Parquet file: its row groups, columns and statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenlake.reading.arrays import numpy
from tokenlake.reading.casting import fitted
from tokenlake.reading.chunks import CHUNK_ROWS, Chunk, numbered
from tokenlake.reading.handles import FileHandle
from tokenlake.reading.schema import plain_schema

#: Bytes of a column that are read at a time, since one row group may be the whole file.
_BUFFER = 1 << 20
_LAST = np.iinfo(np.int64).max


class ParquetFile:
    """A Parquet file, with the columns whose values its partition fixes.

    Args:
        handle: the file.
        constants: columns that are not in the file -> their value in all rows.
        declared: the columns of the table that the file belongs to; None: the file's own columns.
    """

    text = False

    def __init__(
        self, handle: FileHandle, constants: Mapping[str, pa.Scalar] | None = None, declared: pa.Schema | None = None
    ) -> None:
        self.name = handle.path
        self._handle = handle
        self._constants = dict(constants or {})
        self._declared = declared

    @cached_property
    def constants(self) -> dict[str, pa.Scalar]:
        """Columns with one value in all rows: those of a Hive partition that the file itself lacks; with Delta, all of them."""
        own = () if self._declared is not None else self.columns.names
        return {name: value for name, value in self._constants.items() if name not in own}

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and their plain types."""
        if self._declared is not None:
            return plain_schema(self._declared)
        schema = plain_schema(self.columns)
        for name, value in self.constants.items():
            schema = schema.append(pa.field(name, value.type))
        return schema

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.metadata.num_rows)

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        """The file's footer."""
        with self._handle.reading("Parquet"), pq.ParquetFile(self._handle.open()) as file:
            return file.metadata

    @cached_property
    def columns(self) -> pa.Schema:
        """The columns stored in the file, in their stored types."""
        with self._handle.reading("Parquet"), self._open() as file:
            return file.schema_arrow

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Stream some columns, a part of a row group at a time."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        yield from numbered(fitted(b, schema, self.name, self.constants) for b in self.batches(columns, rows=rows))

    def check(self) -> None:
        """Check that the file did not change while it was read."""
        self._handle.check()

    def batches(
        self,
        columns: Sequence[str],
        *,
        groups: Sequence[int] | None = None,
        rows: int = CHUNK_ROWS,
        threads: bool = True,
    ) -> Iterator[pa.RecordBatch]:
        """Stream those of the columns that are stored in the file, in their stored types.

        Args:
            columns: their names.
            groups: numbers of row groups; None: all.
            rows: most rows of a batch.
            threads: decode columns in several threads.
        """
        present = [name for name in columns if name in self.columns.names and name not in self.constants]
        numbers = range(self.metadata.num_row_groups) if groups is None else groups
        if not present:
            for group in numbers:
                yield from _empty(self.metadata.row_group(group).num_rows, rows)
            return
        with self._handle.reading("Parquet"), self._open() as file:
            found = file.iter_batches(rows, list(numbers), present, use_threads=threads)
            if old := [name for name in present if self._is_int96(name)]:
                found = self._unwrapped(found, old, list(numbers), rows)
            yield from found

    def bounds(self, group: int, column: str) -> tuple[Any, Any] | None:
        """Smallest and largest value of a column in a row group; None where neither statistics nor partition has them."""
        if column in self.constants:
            value = self.constants[column].as_py()
            return None if value is None else (value, value)
        place = self._places.get(column)
        if place is None:
            return None
        found = self.metadata.row_group(group).column(place).statistics
        if found is None or not found.has_min_max:
            return None
        try:
            return found.min, found.max
        except (OverflowError, ValueError):  # instants that Python's datetime cannot represent
            return None

    def size(self, group: int, columns: Sequence[str]) -> int:
        """Estimated bytes of some columns of a row group, decoded."""
        about = self.metadata.row_group(group)
        leaves = (about.column(place) for place in range(about.num_columns))
        return sum(
            leaf.total_uncompressed_size
            for leaf in leaves
            if leaf.path_in_schema in columns or leaf.path_in_schema.partition(".")[0] in columns
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        """Name of each non-nested column -> its index among the Parquet leaf columns."""
        schema = self.metadata.schema
        leaves = [schema.column(i) for i in range(len(schema))]
        return {leaf.path: i for i, leaf in enumerate(leaves) if leaf.max_repetition_level == 0}

    def _is_int96(self, column: str) -> bool:
        place = self._places.get(column)
        return place is not None and self.metadata.schema.column(place).physical_type == "INT96"

    def _unwrapped(
        self, batches: Iterator[pa.RecordBatch], columns: Sequence[str], groups: list[int], rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Set INT96 instants that microseconds cannot represent to the last instant; reading them as milliseconds finds them."""
        with self._open("ms") as file:
            for batch, coarse in zip(batches, file.iter_batches(rows, groups, list(columns)), strict=True):
                for name in columns:
                    micros = numpy(batch.column(name).cast(pa.int64()), np.int64)
                    wrapped = micros // 1000 != numpy(coarse.column(name).cast(pa.int64()), np.int64)
                    if wrapped.any():
                        last = pa.scalar(_LAST, pa.int64()).cast(batch.column(name).type)
                        fixed = pc.if_else(pa.array(wrapped), last, batch.column(name))
                        batch = batch.set_column(batch.schema.get_field_index(name), name, fixed)
                yield batch

    def _open(self, int96: str = "us") -> pq.ParquetFile:
        local = self._handle.local
        return pq.ParquetFile(
            self._handle.open(),
            metadata=self.metadata,
            buffer_size=_BUFFER if local else 0,
            pre_buffer=not local,
            coerce_int96_timestamp_unit=int96,
        )


def _empty(rows: int, most: int) -> Iterator[pa.RecordBatch]:
    """Batches of `rows` rows in total, without columns."""
    whole = pa.RecordBatch.from_arrays([pa.nulls(rows)], ["none"])
    for start in range(0, rows, most):
        yield whole.slice(start, most).select([])
