"""Join keys as numbers: for each row of a source, the number of the query key that it matches, or -1."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.reading.arrays import cast_rows, decoded, true, where
from tokenlake.reading.kinds import is_string, plain

Codes = NDArray[np.int32]
#: Widest range of integer keys that are looked up in a table by value.
_TABLE = 1 << 22


class JoinKeys:
    """The distinct keys that some queries have, over any number of columns of any plain type.

    A null matches nothing. Without columns there is one key, which all rows have.

    Args:
        columns: key columns of the queries, in the types that the rows have: see `aligned`.

    Attributes:
        queries: (n,) int32 key of each query, -1 for a query with a null.
        count: number of keys.
    """

    def __init__(self, columns: Sequence[pa.Array], rows: int) -> None:
        self._values = [pc.unique(pc.drop_null(column)) for column in columns]
        self._tables = [_PositionTable.of(values) for values in self._values]
        self._pairs: list[pa.Array] = []
        self.count = len(self._values[0]) if columns else 1
        codes = [_positions(c, v) for c, v in zip(columns, self._values, strict=True)]
        self.queries = np.zeros(rows, np.int32) if not columns else codes[0]
        for i, more in enumerate(codes[1:], 1):
            pairs = _pair(self.queries, more, len(self._values[i]))
            self._pairs.append(pc.unique(pa.array(pairs[pairs >= 0])))
            self.queries = _positions(pa.array(pairs), self._pairs[-1])
            self.count = len(self._pairs[-1])

    def codes(self, columns: Sequence[pa.Array], rows: int) -> Codes:
        """The (rows,) int32 keys of some rows, -1 for a key that no query has."""
        if not columns:
            return np.zeros(rows, np.int32)
        first, *rest = (self._codes(i, column) for i, column in enumerate(columns))
        codes = first
        for more, values, pairs in zip(rest, self._values[1:], self._pairs, strict=True):
            codes = _positions(pa.array(_pair(codes, more, len(values))), pairs)
        return codes

    def _codes(self, i: int, column: pa.Array) -> Codes:
        table = self._tables[i]
        if table is None or column.null_count or not pa.types.is_integer(column.type):
            return _positions(column, self._values[i])
        return table.positions(column.to_numpy())

    def may_hold(self, column: int, low: object, high: object) -> bool:
        """Whether one of the keys has a value from `low` to `high` in a key column."""
        values = self._values[column]
        if not len(values):
            return False
        first, last = pc.min_max(values).values()
        return bool(first.as_py() <= high and low <= last.as_py())


class _PositionTable:
    """A lookup table from integer values to positions, for values in a narrow range: no hashing."""

    def __init__(self, plain: NDArray[Any], low: int, span: int) -> None:
        self._low, self._span = np.uint64(low % (1 << 64)), np.uint64(span)
        self._places = np.full(span + 1, -1, np.int32)  # the last entry stands for all other values
        self._places[_unsigned(plain) - self._low] = np.arange(len(plain), dtype=np.int32)

    @classmethod
    def of(cls, values: pa.Array) -> _PositionTable | None:
        """Build the table; None if the values are not integers, or their range is too wide."""
        if not pa.types.is_integer(values.type) or not len(values):
            return None
        plain = values.to_numpy()
        low, high = int(plain.min()), int(plain.max())
        return cls(plain, low, high - low + 1) if high - low < _TABLE else None

    def positions(self, plain: NDArray[Any]) -> Codes:
        """(n,) int32 positions, -1 for other values."""
        places = (
            _unsigned(plain) - self._low
        )  # unsigned: values below the lowest one wrap around to values above the highest
        found: Codes = self._places.take(np.minimum(places, self._span, out=places).view(np.int64))
        return found


def aligned(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast a key column of the queries to the source's type; a value that cannot equal any value of the source is null.

    Examples: a fraction or a too large number where the source has integers, text where it has numbers, and NaN.

    Args:
        column: of any type.
        kind: the source's type.
    """
    kind, column = plain(kind), decoded(column)
    if column.type != kind:
        column = _exact(column, kind) if _family(column.type) == _family(kind) else pa.nulls(len(column), kind)
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    return column


def _exact(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast values to another type of the same family; a value that the cast would change becomes null."""
    if pa.types.is_integer(kind):  # an exact cast, which mostly succeeds for the whole column
        with contextlib.suppress(pa.ArrowInvalid):
            return column.cast(kind)
    encoded = column.dictionary_encode()
    given = encoded.dictionary
    if pa.types.is_integer(given.type) and pa.types.is_decimal(kind):
        given = given.cast(pa.decimal256(76, kind.scale))  # from this type each value is checked by itself
    values = cast_rows(given, kind)[0]
    if not pa.types.is_integer(kind):
        back = cast_rows(values, given.type)[0]
        values = where(values, true(pc.equal(back, given)))
    return values.take(encoded.indices)


def _family(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if is_string(kind):
        return "string"
    if pa.types.is_temporal(kind):
        return "time"
    return str(kind)


def _positions(column: pa.Array, values: pa.Array) -> Codes:
    if pa.types.is_dictionary(column.type):
        known = _positions(column.dictionary, values)
        places = pc.fill_null(column.indices, len(known)).to_numpy(zero_copy_only=False)
        codes: Codes = np.append(known, np.int32(-1))[places]
        return codes
    column = column if column.type == values.type else column.cast(values.type)
    found = pc.fill_null(pc.index_in(column, value_set=values), -1)
    plain: Codes = found.to_numpy(zero_copy_only=False)
    return plain


def _unsigned(plain: NDArray[Any]) -> NDArray[np.uint64]:
    if plain.dtype.kind == "i":
        return plain.astype(np.int64, copy=False).view(np.uint64)
    return plain.astype(np.uint64, copy=False)


def _pair(left: Codes, right: Codes, width: int) -> NDArray[np.int64]:
    pairs = left.astype(np.int64) * width + right
    pairs[(left < 0) | (right < 0)] = -1
    return pairs
