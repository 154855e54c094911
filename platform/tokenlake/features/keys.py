"""Raw values (ids, categories, tags) as dense codes, in tables that grow without being rebuilt."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import SchemaError

Ints: TypeAlias = NDArray[np.int64]
#: Values from which on looking them up in Arrow beats a dictionary of Python's.
_MANY = 256


def flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column of ids or categories as one array of int64 or string.

    Raises:
        SchemaError: any other type; keys are never floats, which would not compare.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.type in (pa.int64(), pa.string()):
        return array
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type) or pa.types.is_null(array.type):
        return array.cast(pa.string())
    raise SchemaError(f"keys of type {array.type} given; expected integers or strings")


def exploded(column: pa.Array | pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Return a list column as one row per value; null lists and null values are nothing.

    Returns:
        The row of each value, int64 ascending, and the values, int64 or string; equally long.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        raise SchemaError(f"a multi-valued feature of type {array.type} given; expected a list")
    rows = pc.list_parent_indices(array).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    values = flat(pc.list_flatten(array))
    if values.null_count:
        rows = rows[values.is_valid().to_numpy(zero_copy_only=False)]
        values = values.drop_null()
    return rows, values


def factorize(values: pa.Array) -> tuple[Ints, pa.Array]:
    """Number the distinct values in order of first appearance.

    Returns:
        The code of each value, int64, -1 for null; and the distinct values, without null.
    """
    encoded = values.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary


class KeyIndex:
    """Distinct values, numbered 0, 1, ... in the order in which they were added.

    Values are all integers or all strings. `"7"` and `7` are different values, and never stand in one `KeyIndex`.
    """

    def __init__(self, values: pa.Array | None = None) -> None:
        self._type: pa.DataType | None = None
        self._codes: dict[int | str, int] = {}
        self._listed: pa.Array | None = None
        if values is not None:
            self.add(flat(values))

    def __len__(self) -> int:
        return len(self._codes)

    def copy(self) -> KeyIndex:
        """An independent copy."""
        keys = KeyIndex()
        keys._type, keys._codes = self._type, self._codes.copy()
        return keys

    def values(self) -> pa.Array:
        """All values in order of their codes."""
        return self._array()

    def _array(self) -> pa.Array:
        if self._listed is None or len(self._listed) != len(self._codes):
            self._listed = pa.array(self._codes, self._type or pa.string())
        return self._listed

    def find(self, distinct: pa.Array) -> Ints:
        """Return the code of each value, -1 where there is none (or for null)."""
        self._check(distinct)
        if len(distinct) > _MANY:
            found = pc.index_in(distinct, value_set=self._array()).fill_null(-1)
            return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
        get = self._codes.get
        return np.fromiter((get(value, -1) for value in distinct.to_pylist()), np.int64, len(distinct))

    def add(self, distinct: pa.Array) -> Ints:
        """Return the code of each value; values that are new get the next ones, in the order given."""
        self._check(distinct)
        if len(distinct):
            self._type = distinct.type
        codes = self._codes
        return np.fromiter(
            (codes.setdefault(value, len(codes)) for value in distinct.to_pylist()), np.int64, len(distinct)
        )

    def _check(self, values: pa.Array) -> None:
        if self._type is not None and values.type != self._type and len(values) > values.null_count:
            raise SchemaError(f"keys of type {values.type} given where {self._type} ones are known; cast the column")
