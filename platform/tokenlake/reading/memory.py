"""Rows in memory: Arrow tables, batches and streams, pandas frames, and objects with Arrow's stream interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenlake.errors import SchemaError, SourceError
from tokenlake.reading.casting import fitted
from tokenlake.reading.chunks import CHUNK_ROWS, Chunk, File, numbered
from tokenlake.reading.schema import plain_schema


class TableFile:
    """An Arrow table."""

    text = False

    def __init__(self, table: pa.Table, name: str) -> None:
        self.name = name
        self._table = table

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and their plain types."""
        return plain_schema(self._table.schema)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Stream some columns."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        batches = self._table.select(list(columns)).to_batches(max_chunksize=rows)
        yield from numbered(fitted(batch, schema, self.name) for batch in batches)

    def check(self) -> None:
        """Does nothing: Arrow's memory is immutable."""


class SpooledFile:
    """A stream, copied into a file of Arrow batches so that it can be read again."""

    text = False

    def __init__(self, path: Path, name: str, schema: pa.Schema, rows: int) -> None:
        self.name = name
        self.schema = schema
        self.rows = rows
        self._path = path

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Stream some columns."""
        yield from numbered(self._batches(columns, rows))

    def check(self) -> None:
        """Does nothing: no other process uses the file."""

    def _batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        options = pa.ipc.IpcReadOptions(included_fields=[self.schema.get_field_index(name) for name in columns])
        # Read, not mapped: mapped pages would count as this process's memory.
        with pa.ipc.open_file(pa.OSFile(str(self._path)), options=options) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number).select(list(columns))
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)


def memory_file(given: Any, name: str, spool: Path | None = None) -> File | None:
    """Open rows that are in memory; None where `given` is not such an object.

    Args:
        given: an Arrow table, batch or stream, a pandas frame, or anything with `__arrow_c_stream__` or
            `to_arrow_table()`, such as what Polars and DuckDB have.
        name: used in messages.
        spool: where to keep a stream, which can be read only once; None: in memory.

    Raises:
        SchemaError: a frame with a column of mixed types, or a column name that occurs twice.
        SourceError: a stream that fails while it is read.
    """
    if isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    elif type(given).__module__.startswith("pandas."):
        given = _from_pandas(given, name)
    elif not isinstance(given, pa.Table):
        if hasattr(given, "__arrow_c_stream__"):
            return _streamed(given, name, spool)
        if not hasattr(given, "to_arrow_table"):
            return None
        given = given.to_arrow_table()
    return TableFile(given, name)


def _from_pandas(frame: Any, name: str) -> pa.Table:
    named = any(level is not None for level in frame.index.names)
    try:
        return pa.Table.from_pandas(frame, preserve_index=named)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise SchemaError(f"{name}: {error}; make each column of one type, and each name one column's") from error


def _streamed(given: Any, name: str, spool: Path | None) -> File:
    try:
        reader = pa.RecordBatchReader.from_stream(given)
        if spool is None:
            return TableFile(reader.read_all(), name)
        schema = plain_schema(reader.schema)
        rows, options = 0, pa.ipc.IpcWriteOptions(compression="lz4")
        spool.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(spool), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
            for batch in reader:
                writer.write_batch(fitted(batch, schema, name))
                rows += batch.num_rows
    except pa.ArrowException as error:
        raise SourceError(f"{name} cannot be read ({str(error).splitlines()[0]})") from error
    return SpooledFile(spool, name, schema, rows)
