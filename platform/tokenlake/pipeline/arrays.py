"""Named arrays of any length in one Arrow IPC file, written whole or not at all: how small states are kept."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError, NotFoundError, SchemaError

_HEADER = b"tokenlake"


def write_arrays(path: Path, arrays: Mapping[str, pa.Array], header: Mapping[str, Any]) -> None:
    """Write arrays as the list columns of a one-row Arrow IPC file, atomically and durably.

    Args:
        path: the file; an existing one is replaced.
        arrays: one-dimensional Arrow arrays without nulls.
        header: anything that JSON can say.
    """
    columns = [pa.LargeListArray.from_arrays(pa.array([0, len(a)], pa.int64()), a) for a in arrays.values()]
    fields = [pa.field(name, column.type) for name, column in zip(arrays, columns, strict=True)]
    schema = pa.schema(fields, {_HEADER: json.dumps(header, sort_keys=True).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                writer.write_batch(pa.record_batch(columns, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_arrays(path: Path) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """Read what `write_arrays` wrote: the arrays and the header.

    Raises:
        NotFoundError: there is no such file.
        CorruptionError: it is not such a file, or damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist; it is derived, so running the job again makes it") from error
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as reader:
            batch = reader.get_batch(0)
        batch.validate(full=True)
        header: dict[str, Any] = json.loads(batch.schema.metadata[_HEADER])
        return {name: batch.column(name).flatten() for name in batch.schema.names}, header
    except (pa.ArrowException, KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptionError(f"{path} is damaged ({error}); delete it: running the job again makes it") from error


def as_ints(array: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Copy an Arrow array into a writable int64 one."""
    return np.array(array.to_numpy(zero_copy_only=False), np.int64)


def matrix(name: str, column: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """A vector feature as float32 (n, width), a row of NaN where there is none.

    Raises:
        SchemaError: a vector of another length.
    """
    out = np.full((len(column), width), np.nan, np.float32)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    there = lengths > 0
    if (wrong := np.flatnonzero(there & (lengths != width))).size:
        raise SchemaError(f"{name}: a vector of {lengths[wrong[0]]} numbers in row {wrong[0]}; the model takes {width}")
    out[there] = pc.list_flatten(column).to_numpy().reshape(-1, width)
    return out
