"""Join keys as numbers: which question's key, if any, a row has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import SchemaError

Codes = NDArray[np.int32]


class Keys:
    """The distinct keys that some questions have, over any number of columns of any plain type.

    A null matches nothing. Without columns there is one key, which all rows have.

    Args:
        columns: of the questions, in the types that the rows have: see `aligned`.

    Attributes:
        asked: (n,) int32 key of each question, -1 for one with a null.
        count: number of keys.
    """

    def __init__(self, columns: Sequence[pa.Array], rows: int) -> None:
        self._values = [pc.unique(pc.drop_null(column)) for column in columns]
        self._pairs: list[pa.Array] = []
        self.count = len(self._values[0]) if columns else 1
        codes = [_positions(c, v) for c, v in zip(columns, self._values, strict=True)]
        self.asked = np.zeros(rows, np.int32) if not columns else codes[0]
        for i, more in enumerate(codes[1:], 1):
            pairs = _pair(self.asked, more, len(self._values[i]))
            self._pairs.append(pc.unique(pa.array(pairs[pairs >= 0])))
            self.asked = _positions(pa.array(pairs), self._pairs[-1])
            self.count = len(self._pairs[-1])

    def codes(self, columns: Sequence[pa.Array], rows: int) -> Codes:
        """The (rows,) int32 keys of some rows, -1 for those that nobody asks for."""
        if not columns:
            return np.zeros(rows, np.int32)
        codes = _positions(columns[0], self._values[0])
        for column, values, pairs in zip(columns[1:], self._values[1:], self._pairs, strict=True):
            codes = _positions(pa.array(_pair(codes, _positions(column, values), len(values))), pairs)
        return codes

    def may_hold(self, column: int, low: object, high: object) -> bool:
        """Whether a key column's values from `low` to `high` may hold one of the keys."""
        values = self._values[column]
        if not len(values):
            return False
        first, last = pc.min_max(values).values()
        return bool(first.as_py() <= high and low <= last.as_py())


def aligned(column: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    """A question's key column in the type of the source's, null where no row of that type can equal it.

    Raises:
        SchemaError: values of the two types are never equal.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type == kind or pa.types.is_null(column.type):
        return column.cast(kind)
    if _family(column.type) != _family(kind):
        raise SchemaError(
            f"join key {name}: {column.type} given, and the source has {kind}; convert the entity dataframe's column"
        )
    if pa.types.is_integer(kind):
        return _as_integers(column, kind)
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise SchemaError(f"join key {name}: {error}; the source has {kind}") from error


def _as_integers(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.equal(column, pc.floor(column)), column, pa.scalar(None, column.type))
    bounds = np.iinfo(kind.to_pandas_dtype())
    low, high = (pa.scalar(float(b) if pa.types.is_floating(column.type) else b) for b in (bounds.min, bounds.max))
    inside = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
    return pc.if_else(inside, column, pa.scalar(None, column.type)).cast(kind, safe=False)


def _family(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
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
    found = pc.fill_null(pc.index_in(column, value_set=values), -1)
    plain: Codes = found.to_numpy(zero_copy_only=False)
    return plain


def _pair(left: Codes, right: Codes, width: int) -> NDArray[np.int64]:
    pairs = left.astype(np.int64) * width + right
    pairs[(left < 0) | (right < 0)] = -1
    return pairs
