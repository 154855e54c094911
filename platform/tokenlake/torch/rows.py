"""Labelled rows: from wherever they come into one Arrow table, and from there into batches of tensors."""

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
import pyarrow.dataset as pds
import torch

from tokenlake.errors import SchemaError, SourceError, storage_error
from tokenlake.torch.batch import Column, Jagged


def read_rows(source: Any, columns: Sequence[str] | None) -> pa.Table:
    """One table of rows, each column in one piece.

    Args:
        source: an Arrow table, a Parquet file, a folder or glob (in the last part) of them, or anything with `to_arrow_table()`, such as what
            `lake.sql(...)` returns.
        columns: those to read; None: all.

    Raises:
        SourceError: files that cannot be read.
        SchemaError: another kind of source, or columns that are not there.
    """
    if isinstance(source, str | os.PathLike):
        table = _read_files(Path(source), columns)
    elif isinstance(source, pa.Table):
        table = source
    elif hasattr(source, "to_arrow_table"):
        table = source.to_arrow_table()
    else:
        raise SchemaError(
            f"rows: {type(source).__name__} given; expected an Arrow table, a path of Parquet files, or what "
            f"`lake.sql(...)` returns"
        )
    if columns is not None:
        if missing := [name for name in columns if name not in table.column_names]:
            raise SchemaError(f"rows have no columns {missing}; they have {table.column_names}")
        table = table.select(list(dict.fromkeys(columns)))
    return table.combine_chunks()


def _read_files(path: Path, columns: Sequence[str] | None) -> pa.Table:
    many = set(path.name) & set("*?[")
    try:
        data = pds.dataset(sorted(map(str, path.parent.glob(path.name))) if many else str(path), format="parquet")
        wanted = None if columns is None else [name for name in dict.fromkeys(columns) if name in data.schema.names]
        return data.to_table(columns=wanted)
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"{path}: no Parquet that can be read ({error})") from error


class SharedRows:
    """A table that spawned processes read from one memory-mapped file, which is written when first needed."""

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
    """Refuse columns that no tensor or list of strings can hold.

    Raises:
        SchemaError: there is one; the message names it.
    """
    for field in table.schema:
        inner = field.type.value_type if _is_list(field.type) else field.type
        plain = _is_plain(inner) or (_is_string(inner) and not _is_list(field.type))
        if not plain:
            raise SchemaError(
                f"column {field.name!r} is {field.type}; a batch holds numbers, bools, times, strings and lists of "
                f"numbers: cast it, or leave it out by columns=[...]"
            )
        column = table[field.name]
        if _is_list(field.type) and (column.null_count or pc.list_flatten(column).null_count):
            raise SchemaError(f"column {field.name!r} has null lists or values; fill them before, or leave it out")


def tensors(table: pa.Table) -> tuple[dict[str, Column], dict[str, torch.Tensor]]:
    """A batch's columns, and for those with nulls which values there are."""
    columns: dict[str, Column] = {}
    valid: dict[str, torch.Tensor] = {}
    for name in table.column_names:
        array = table[name].combine_chunks()
        if _is_string(array.type):
            columns[name] = array.to_pylist()
        elif _is_list(array.type):
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
    """Numbers as they are, times as int64 microseconds, days as int32 days; null is 0."""
    kind = array.type
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    elif pa.types.is_date(kind):
        array = array.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(0, array.type))
    # A copy, since Arrow's memory is read-only, and no tensor's.
    plain = np.array(array.to_numpy(zero_copy_only=False))
    return torch.from_numpy(plain.astype(np.bool_) if pa.types.is_boolean(kind) else plain)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_string(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner))


def _is_plain(kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(number or pa.types.is_timestamp(kind) or pa.types.is_date(kind))
