"""The interface of every kind of file: it streams chunks of rows of some columns, any number of times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Most rows of a chunk; a chunk of text has as many as its block of bytes holds.
CHUNK_ROWS = 131_072


@dataclass(frozen=True)
class Broken:
    """A line of text that cannot be parsed as a row.

    Attributes:
        number: number of the line, as in `Chunk`.
        text: the line, without its end.
        reason: why it cannot be parsed.
    """

    number: int
    text: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file.

    Attributes:
        rows: the columns that were asked for.
        numbers: int64 `(rows,)`, row numbers in the file, from 1; for text, numbers of the lines after the header.
        broken: lines between these rows that cannot be parsed.
    """

    rows: pa.RecordBatch
    numbers: NDArray[np.int64]
    broken: tuple[Broken, ...] = ()


class File(Protocol):
    """Rows of one file, or of one table in memory.

    Attributes:
        name: used in messages and in `quarantine`.
        text: whether all values are text, whose types only the reader knows.
    """

    name: str
    text: bool

    @property
    def schema(self) -> pa.Schema:
        """Columns and their plain types."""

    @property
    def rows(self) -> int:
        """Number of rows; an estimate for text."""

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Stream some columns in the types of the schema, at most `rows` rows at a time."""

    def check(self) -> None:
        """Check that the file did not change while it was read.

        Raises:
            ChangedError: the file changed.
        """


def numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[Chunk]:
    """Number the rows from 1; empty batches are left out."""
    first = 1
    for batch in batches:
        if batch.num_rows:
            yield Chunk(batch, np.arange(first, first + batch.num_rows))
            first += batch.num_rows
