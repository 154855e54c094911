"""A text file as typed columns, for readers without a config: the types are inferred from all values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.errors import SourceError
from tokenlake.reading.arrays import Mask, cast_rows, floats, numpy, true, valid, where
from tokenlake.reading.chunks import CHUNK_ROWS, Chunk
from tokenlake.reading.files import INTEGER
from tokenlake.reading.schema import check_names
from tokenlake.reading.text import BLANK, TextFile

#: Parsed values, and a mask of the rows that could not be parsed.
_Read: TypeAlias = tuple[pa.Array, Mask]

_DATE = r"^\d{4}-\d\d-\d\d$"
_TIME = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?$"
_ZONED = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)$"
_UTC = pa.timestamp("us", "UTC")
#: Integers beyond this are not exact as float64.
_EXACT = 2**53


class TypedText:
    """A text file whose columns are int64, float64, bool, date32, timestamp[us], timestamp[us, UTC], or string.

    A column gets the first of these types that fits all its values. `007` is not an integer; times without a zone are UTC
    if other rows have a zone; fractions of a microsecond are dropped. A line that is not a row is an error, since there
    is no quarantine here; blank lines are skipped.
    """

    text = False

    def __init__(self, file: TextFile) -> None:
        self.name = file.name
        self._file = file

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and their types; the first call reads the whole file."""
        names = self._file.schema.names
        check_names(names, self.name)
        kinds, seen = {name: list(_READERS) for name in names}, set[str]()
        for batch in self._batches(names):
            for name, column in zip(names, batch.columns, strict=True):
                if column.null_count < len(column):
                    seen.add(name)
                kinds[name] = [kind for kind in kinds[name] if not _READERS[kind](column)[1].any()]
        return pa.schema([(name, kinds[name][0] if name in seen else pa.null()) for name in names])

    @property
    def rows(self) -> int:
        """Estimated number of rows."""
        return self._file.rows

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Stream some columns."""
        schema, first = pa.schema([self.schema.field(name) for name in columns]), 1
        for batch in self._batches(columns):
            for start in range(0, batch.num_rows, rows):
                part = batch.slice(start, rows)
                if columns:
                    typed = [_typed(column, field.type) for column, field in zip(part.columns, schema, strict=True)]
                    part = pa.RecordBatch.from_arrays(typed, schema=schema)
                yield Chunk(part, np.arange(first, first + part.num_rows))
                first += part.num_rows

    def check(self) -> None:
        """Check that the file did not change while it was read."""
        self._file.check()

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for chunk in self._file.chunks(columns):
            for line in chunk.broken:
                if line.reason != BLANK:
                    place = f"line {line.number} behind the header: {line.reason}"
                    raise SourceError(f"{self.name}, {place}; correct it, or remove it: {line.text[:200]!r}")
            yield chunk.rows


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return pa.nulls(len(column)) if pa.types.is_null(kind) else _READERS[kind](column)[0]


def _integers(column: pa.Array) -> _Read:
    return _matching(column, INTEGER, pa.int64())


def _numbers(column: pa.Array) -> _Read:
    values, bad = floats(column)
    integers, _ = _integers(column)
    return values, bad | (np.abs(numpy(integers, np.int64)) > _EXACT) | (valid(column) & ~valid(values))


def _truths(column: pa.Array) -> _Read:
    return _matching(column, r"^(?i)(true|false)$", pa.bool_())


def _dates(column: pa.Array) -> _Read:
    return _matching(column, _DATE, pa.date32())


def _times(column: pa.Array) -> _Read:
    return _matching(_cut(column), _TIME, pa.timestamp("us"))


def _instants(column: pa.Array) -> _Read:
    naive, other = _times(column)
    zoned, bad = _matching(_cut(column), _ZONED, _UTC)
    return pc.coalesce(naive.cast(_UTC), zoned), other & bad


def _texts(column: pa.Array) -> _Read:
    return column, np.zeros(len(column), np.bool_)


def _matching(column: pa.Array, pattern: str, kind: pa.DataType) -> _Read:
    well = true(pc.match_substring_regex(column, pattern))
    values, bad = cast_rows(where(column, well), kind)
    return values, bad | (valid(column) & ~well)


def _cut(column: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(column, r"(\.\d{6})\d+", r"\1")


_READERS: dict[pa.DataType, Callable[[pa.Array], _Read]] = {
    pa.int64(): _integers,
    pa.float64(): _numbers,
    pa.bool_(): _truths,
    pa.date32(): _dates,
    pa.timestamp("us"): _times,
    _UTC: _instants,
    pa.string(): _texts,
}
