"""Delta tables: the files of one version, with the columns and partitions from the table's log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from tokenlake.errors import DamagedSourceError, MissingSourceError, SourceError
from tokenlake.reading.chunks import File
from tokenlake.reading.handles import HELD, FileHandle
from tokenlake.reading.memory import TableFile
from tokenlake.reading.parquet import ParquetFile

#: Delta features that change what a file means, so that reading the plain file would give wrong rows.
_UNREADABLE = {"deletionVectors", "columnMapping"}


def delta_files(
    path: str,
    place: str,
    filesystem: pafs.FileSystem | None = None,
    options: Mapping[str, str] | None = None,
    parts: Mapping[str, pa.Scalar] | None = None,
) -> list[File]:
    """The files of the newest version of a Delta table.

    Args:
        path: the table's path, in deltalake's form.
        place: the same folder, in the form of `filesystem`.
        filesystem: None for the local one.
        options: deltalake's storage options.
        parts: columns from names of folders above the table, such as `day=2024-01-01`.

    Raises:
        MissingSourceError: there is no table.
        DamagedSourceError: its log cannot be read.
        SourceError: it uses a Delta feature that is not supported here.
    """
    try:
        return version_files(DeltaTable(path, storage_options=dict(options or {}) or None), place, filesystem, parts)
    except TableNotFoundError as error:
        raise MissingSourceError(f"{path} holds no Delta table; check the source's path") from error
    except DeltaError as error:
        raise DamagedSourceError(f"{path} cannot be read as a Delta table ({error})") from error


def version_files(
    delta: DeltaTable,
    place: str,
    filesystem: pafs.FileSystem | None = None,
    parts: Mapping[str, pa.Scalar] | None = None,
) -> list[File]:
    """The files of an opened Delta table; the arguments and errors are those of `delta_files`."""
    if strange := _UNREADABLE & set(delta.protocol().reader_features or ()):
        raise SourceError(f"{place} uses Delta's {sorted(strange)}, which is not read here; rewrite it without")
    schema = pa.schema(delta.schema().to_arrow())
    above = {name: value for name, value in (parts or {}).items() if name not in schema.names}
    for name, value in above.items():
        schema = schema.append(pa.field(name, value.type))
    # In the order in which they were written, since the order of the log is not stable.
    written = [("modification_time", "ascending"), ("path", "ascending")]
    listed = pa.table(delta.get_add_actions(flatten=True)).sort_by(written)
    names = delta.metadata().partition_columns
    values = [listed[f"partition.{name}"].to_pylist() for name in names]
    paths = listed["path"].to_pylist()
    if not paths:
        return [TableFile(schema.empty_table(), place)]
    return [
        ParquetFile(
            FileHandle(str(Path(place) / unquote(file)), filesystem, keep=len(paths) <= HELD),
            above | {n: pa.scalar(v).cast(schema.field(n).type) for n, v in zip(names, row, strict=True)},
            schema,
        )
        for file, *row in zip(paths, *values, strict=True)
    ]
