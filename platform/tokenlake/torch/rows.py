"""Labelled rows: reads them into one Arrow table, and converts batches of them to tensors."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tokenlake.errors import SchemaError, SourceError, storage_error
from tokenlake.reading.handles import steady
from tokenlake.reading.kinds import is_list, is_string
from tokenlake.reading.source import open_source
from tokenlake.reading.times import as_instants
from tokenlake.torch.batch import Column, Jagged


def read_rows(source: Any, columns: Sequence[str] | None) -> pa.Table:
    """Read rows into one table, each column in one chunk.

    Args:
        source: what `tokenlake.reading.source.open_source` takes: a path, a folder or a glob of files, a table, a frame, or what
            `lake.sql(...)` returns.
        columns: columns to read; None: all.

    Raises:
        SourceError: a file cannot be read.
        SchemaError: an unsupported source, a missing column, or types without a common type.
        ChangedError: a file kept changing while it was read.
    """

    def once() -> pa.Table:
        opened = open_source(source, name="rows")
        table = opened.read(columns)
        opened.check()
        return table.combine_chunks()

    try:
        return steady(once)
    except SourceError as error:
        if isinstance(source, str | os.PathLike):
            raise
        raise SchemaError(f"rows: {error}") from error


class SharedRows:
    """A table that spawned processes read from one memory-mapped file, written at the first pickling."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._file: str | None = None

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        if self._file is None:
            try:
                handle, self._file = tempfile.mkstemp(suffix=".arrow", prefix="tokenlake-rows-")
                weakref.finalize(self, Path(self._file).unlink, missing_ok=True)
                with os.fdopen(handle, "wb") as sink, pa.ipc.new_file(sink, self.table.schema) as writer:
                    writer.write_table(self.table)
            except OSError as error:
                raise storage_error(error) from error
        return _map, (self._file,)


def _map(path: str) -> SharedRows:
    return SharedRows(pa.ipc.open_file(pa.memory_map(path)).read_all())


def check_columns(table: pa.Table) -> None:
    """Check that every column can be a tensor or a list of strings.

    Raises:
        SchemaError: a column of another type; the message names it.
    """
    for field in table.schema:
        inner = field.type.value_type if is_list(field.type) else field.type
        plain = _is_plain(inner) or (is_string(inner) and not is_list(field.type))
        if not plain:
            raise SchemaError(
                f"column {field.name!r} is {field.type}; a batch holds numbers, bools, times, strings and lists of "
                f"numbers: cast it, or leave it out by columns=[...]"
            )
        column = table[field.name]
        if is_list(field.type) and (column.null_count or pc.list_flatten(column).null_count):
            raise SchemaError(f"column {field.name!r} has null lists or values; fill them before, or leave it out")


def tensors(table: pa.Table) -> tuple[dict[str, Column], dict[str, torch.Tensor]]:
    """A batch's columns, and the validity masks of the columns with nulls."""
    columns: dict[str, Column] = {}
    valid: dict[str, torch.Tensor] = {}
    for name in table.column_names:
        array = table[name].combine_chunks()
        if is_string(array.type):
            columns[name] = array.to_pylist()
        elif is_list(array.type):
            columns[name] = Jagged(*_jagged(array))
        else:
            columns[name] = _tensor(array)
            if array.null_count:
                valid[name] = torch.from_numpy(np.array(array.is_valid().to_numpy(zero_copy_only=False)))
    return columns, valid


def _jagged(array: pa.Array) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return _tensor(pc.list_flatten(array)), torch.from_numpy(offsets)


def _tensor(array: pa.Array) -> torch.Tensor:
    """Numbers unchanged, times as int64 microseconds, days as int32 days; null is 0."""
    kind = array.type
    if pa.types.is_timestamp(kind):
        return torch.from_numpy(np.array(as_instants(array)[0]))
    if pa.types.is_date(kind):
        array = array.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(0, array.type))
    # A copy, since Arrow's memory is read-only, and a tensor's must not be.
    plain = np.array(array.to_numpy(zero_copy_only=False))
    return torch.from_numpy(plain.astype(np.bool_) if pa.types.is_boolean(kind) else plain)


def _is_plain(kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(number or pa.types.is_timestamp(kind) or pa.types.is_date(kind))
