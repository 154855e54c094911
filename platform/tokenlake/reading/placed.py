"""A text file with the extra columns of its Hive partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from tokenlake.reading.casting import fitted
from tokenlake.reading.chunks import CHUNK_ROWS, Chunk, File


class PlacedFile:
    """A file with extra columns that have one value in all rows; a column of the file itself takes precedence.

    Args:
        file: the file without those columns.
        constants: name -> value; text if the file's values are text.
    """

    def __init__(self, file: File, constants: Mapping[str, pa.Scalar]) -> None:
        self.name, self.text = file.name, file.text
        self._file = file
        own = {name: value for name, value in constants.items() if name not in file.schema.names}
        self._constants = {name: value.cast(pa.string()) if file.text else value for name, value in own.items()}

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types."""
        schema = self._file.schema
        for name, value in self._constants.items():
            schema = schema.append(pa.field(name, value.type))
        return schema

    @property
    def rows(self) -> int:
        """Number of rows; an estimate for text."""
        return self._file.rows

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Stream some columns."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        for chunk in self._file.chunks([name for name in columns if name not in self._constants], rows):
            yield replace(chunk, rows=fitted(chunk.rows, schema, self.name, self._constants))

    def check(self) -> None:
        """Check that the file did not change while it was read."""
        self._file.check()
