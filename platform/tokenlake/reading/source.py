"""A source: several files that are read as one table, with the common schema of all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable

from tokenlake.errors import ChangedError, SchemaError, SourceError
from tokenlake.reading.casting import fitted
from tokenlake.reading.chunks import CHUNK_ROWS, File
from tokenlake.reading.delta import delta_files, version_files
from tokenlake.reading.files import SourceFile, find, typed_parts
from tokenlake.reading.handles import HELD, FileHandle
from tokenlake.reading.memory import memory_file
from tokenlake.reading.parquet import ParquetFile
from tokenlake.reading.placed import PlacedFile
from tokenlake.reading.schema import union
from tokenlake.reading.text import Dialect, TextFile
from tokenlake.reading.typed import TypedText


class Source:
    """Several files that are read as one table.

    Attributes:
        files: the files, in order.
    """

    def __init__(self, files: Sequence[File]) -> None:
        self.files = list(files)

    @cached_property
    def schema(self) -> pa.Schema:
        """The union of the files' columns.

        Raises:
            SchemaError: a column has types without a common type in two files.
        """
        return union((file.name, file.schema) for file in self.files)

    def batches(self, columns: Sequence[str] | None = None, rows: int = CHUNK_ROWS) -> Iterator[pa.RecordBatch]:
        """Stream some columns of all files, in the types of the schema.

        Args:
            columns: their names; None: all.
            rows: most rows of a batch.

        Raises:
            SchemaError: a column that no file has, or a value that the wider type cannot represent exactly.
            SourceError: a file that cannot be read.
        """
        schema = self.selected(columns)
        for file in self.files:
            own = [name for name in schema.names if name in file.schema.names]
            for chunk in file.chunks(own, rows):
                yield fitted(chunk.rows, schema, file.name)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows of some columns; arguments and errors are those of `batches`."""
        return pa.Table.from_batches(self.batches(columns), self.selected(columns))

    def selected(self, columns: Sequence[str] | None) -> pa.Schema:
        """The schema of some columns, each once."""
        if columns is None:
            return self.schema
        if unknown := [name for name in columns if name not in self.schema.names]:
            raise SchemaError(f"rows have no columns {unknown}; they have {self.schema.names}")
        return pa.schema([self.schema.field(name) for name in dict.fromkeys(columns)], self.schema.metadata)

    def check(self) -> None:
        """Check that no file changed while it was read.

        Raises:
            ChangedError: a file changed; see `steady`.
        """
        for file in self.files:
            file.check()


def open_source(
    given: Any,
    *,
    name: str = "<table>",
    spool: Path | None = None,
    dialect: Dialect | None = None,
    typed: bool = True,
    filesystem: pafs.FileSystem | None = None,
) -> Source:
    """Open a path, or rows in memory.

    Args:
        given: a path of Parquet, CSV, TSV or Delta, a folder or a glob of them, a `DeltaTable`, an Arrow table, batch or
            stream, a pandas frame, or anything with `__arrow_c_stream__` or `to_arrow_table()`.
        name: name of rows in memory, for messages.
        spool: a file for a stream, which can be read only once; None: it is kept in memory.
        dialect: quotes and encoding of text files.
        typed: infer types of the columns of text files from their values; else all of them are strings.
        filesystem: of the path; None for the local one.

    Raises:
        SourceError: the path does not exist, or the format is unknown.
        SchemaError: a frame with a column of mixed types.
        ChangedError: files appeared or disappeared meanwhile; see `steady`.
    """
    if isinstance(given, DeltaTable):
        return Source(version_files(given, given.table_uri.removeprefix("file://")))
    if not isinstance(given, str | os.PathLike):
        held = memory_file(given, name, spool)
        if held is None:
            raise SourceError(
                f"{type(given).__name__} given; expected an Arrow table or stream, a pandas frame, a path, a folder or a glob"
            )
        return Source([held])
    path = os.fspath(given)
    found = find(path, filesystem)
    kinds = typed_parts(found)
    files: list[File] = []
    for one in found:
        parts = {part: pa.scalar(value).cast(kinds[part]) for part, value in one.parts.items()}
        files += _files(one, parts, filesystem, dialect, typed=typed, keep=len(found) <= HELD)
    for file in files:
        file.schema  # noqa: B018  # opens it
    if len(found) > 1 and find(path, filesystem) != found:
        raise ChangedError(f"{path}: files came or went while they were opened; try again when their writer is done")
    return Source(files)


def _files(
    one: SourceFile,
    parts: Mapping[str, pa.Scalar],
    filesystem: pafs.FileSystem | None,
    dialect: Dialect | None,
    *,
    typed: bool,
    keep: bool,
) -> list[File]:
    if one.kind == "delta":
        return delta_files(one.path, one.path, filesystem, parts=parts)
    handle = FileHandle(one.path, filesystem, keep=keep)
    if one.kind == "parquet":
        return [ParquetFile(handle, parts)]
    text = TextFile(handle, "\t" if one.kind == "tsv" else ",", dialect)
    file = TypedText(text) if typed else text
    return [PlacedFile(file, parts)] if parts else [file]
