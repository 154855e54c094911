"""Named arrays of any length in one Arrow IPC file, written atomically; used for small states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokenlake.errors import CorruptionError, NotFoundError
from tokenlake.storage import atomic

_HEADER = b"tokenlake"


def write_arrays(path: Path, arrays: Mapping[str, pa.Array], header: Mapping[str, Any]) -> None:
    """Write arrays as the list columns of a one-row Arrow IPC file, atomically and durably.

    Args:
        path: the file; an existing one is replaced, and its folder is made when missing.
        arrays: one-dimensional Arrow arrays without nulls.
        header: any value that JSON can represent.
    """
    columns = [pa.LargeListArray.from_arrays(pa.array([0, len(a)], pa.int64()), a) for a in arrays.values()]
    fields = [pa.field(name, column.type) for name, column in zip(arrays, columns, strict=True)]
    schema = pa.schema(fields, {_HEADER: json.dumps(header, sort_keys=True).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.file(path) as part, pa.ipc.new_file(part, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def read_arrays(path: Path) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """Read what `write_arrays` wrote: the arrays and the header.

    Raises:
        NotFoundError: the file does not exist.
        CorruptionError: the file is damaged, or is not a file of `write_arrays`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _missing(path) from error
    return _read(path, pa.BufferReader(data))


def map_arrays(path: Path) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """Like `read_arrays`, but the arrays stay on the disk and are read where they are looked at.

    Raises:
        NotFoundError: the file does not exist.
        CorruptionError: the file is damaged, or is not a file of `write_arrays`.
    """
    try:
        data = pa.memory_map(str(path))
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, pa.ArrowException) as error:
        raise CorruptionError(f"{path} is damaged ({error}); delete it: running the job again makes it") from error
    return _read(path, data)


def header(path: Path) -> dict[str, Any]:
    """The header of a file of `write_arrays`; its arrays are not read.

    Raises:
        NotFoundError: the file does not exist.
        CorruptionError: the file is damaged, or is not a file of `write_arrays`.
    """
    return map_arrays(path)[1]


def _missing(path: Path) -> NotFoundError:
    return NotFoundError(f"{path} does not exist; it is derived, so running the job again makes it")


def _read(path: Path, source: pa.NativeFile) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    try:
        with pa.ipc.open_file(source) as reader:
            batch = reader.get_batch(0)
        batch.validate(full=True)
        told: dict[str, Any] = json.loads(batch.schema.metadata[_HEADER])
        return {name: batch.column(name).flatten() for name in batch.schema.names}, told
    except (pa.ArrowException, KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptionError(f"{path} is damaged ({error}); delete it: running the job again makes it") from error


def as_ints(array: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Copy an Arrow array into a writable int64 one."""
    return np.array(array.to_numpy(zero_copy_only=False), np.int64)
