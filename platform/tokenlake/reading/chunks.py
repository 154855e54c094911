"""What every kind of file gives: chunks of rows, some columns at a time, as often as asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Rows of a chunk, at most; text has as many as its block of bytes holds.
CHUNK_ROWS = 131_072


@dataclass(frozen=True)
class Broken:
    """A line of text that is no row.

    Attributes:
        number: as in `Chunk`.
        text: the line, without its end.
        reason: why.
    """

    number: int
    text: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file.

    Attributes:
        rows: the columns that were asked for.
        numbers: int64 `(rows,)`, their numbers in the file, from 1; of text, those of lines behind the header.
        broken: lines among them that are no rows.
    """

    rows: pa.RecordBatch
    numbers: NDArray[np.int64]
    broken: tuple[Broken, ...] = ()


class File(Protocol):
    """Rows of one file, or of one table in memory.

    Attributes:
        name: for messages, and in `quarantine`.
        text: all values are text, and only who reads them knows what they mean.
    """

    name: str
    text: bool

    @property
    def schema(self) -> pa.Schema:
        """Columns and their plain types."""

    @property
    def rows(self) -> int:
        """How many rows there are; an estimate for text."""

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Stream some columns, in the types of the schema, `rows` at a time."""

    def check(self) -> None:
        """Check that the file did not change while it was read.

        Raises:
            ChangedError: it did.
        """


def numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[Chunk]:
    """Number rows from 1; batches without any are left out."""
    first = 1
    for batch in batches:
        if batch.num_rows:
            yield Chunk(batch, np.arange(first, first + batch.num_rows))
            first += batch.num_rows
