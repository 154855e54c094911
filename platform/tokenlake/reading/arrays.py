"""Small helpers over Arrow arrays; conversions return the values and a mask of the rows that failed."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.reading.kinds import is_string

Mask: TypeAlias = NDArray[np.bool_]

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^(?i)[+-]?(nan|inf|infinity)$"


def flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One chunk, without dictionaries, views and large strings."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    array = decoded(array)
    return array.cast(pa.string()) if pa.types.is_large_string(array.type) else array


def decoded(array: pa.Array) -> pa.Array:
    """Decode dictionaries, run-ends and views, for which Arrow lacks `take` and `filter`; return other arrays unchanged."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        words = decoded(array.dictionary)
        return decoded(pa.DictionaryArray.from_arrays(array.indices, words).dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return decoded(pc.run_end_decode(array))
    if pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_binary_view(kind):
        return array.cast(pa.binary())
    return array


def valid(array: pa.Array) -> Mask:
    """Rows that are not null."""
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.bool_)


def true(mask: pa.BooleanArray) -> Mask:
    """A boolean array as NumPy, null as False."""
    return np.asarray(pc.fill_null(mask, fill_value=False).to_numpy(zero_copy_only=False), np.bool_)


def numpy(array: pa.Array, dtype: Any, fill: Any = 0) -> NDArray[Any]:
    """Values as NumPy, nulls as `fill`."""
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(fill, array.type))
    return np.asarray(array.to_numpy(zero_copy_only=False)).astype(dtype, copy=False)


def where(array: pa.Array, keep: Mask) -> pa.Array:
    """The array with nulls where `keep` is False."""
    return array if keep.all() else pc.if_else(pa.array(keep), array, pa.scalar(None, array.type))


def stripped(text: pa.Array) -> pa.Array:
    """Text without white space at its ends; null where nothing is left."""
    text = pc.utf8_trim_whitespace(text)
    return where(text, ~true(pc.equal(text, "")))


def cast_rows(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Mask]:
    """Cast each row that can be cast; any other row becomes null, and is True in the mask.

    Splits the array in halves until the bad rows are isolated, so it is quick where few rows are bad.
    """
    try:
        return array.cast(kind), np.zeros(len(array), np.bool_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(array) == 1:
            return pa.nulls(1, kind), np.ones(1, np.bool_)
    half = len(array) // 2
    left, right = cast_rows(array[:half], kind), cast_rows(array[half:], kind)
    return pa.concat_arrays([left[0], right[0]]), np.concatenate([left[1], right[1]])


def floats(array: pa.Array) -> tuple[pa.Array, Mask]:
    """Numbers, or text of numbers, as float64; the mask marks text that is not a number."""
    if is_string(array.type):
        text = stripped(array)
        well = true(pc.match_substring_regex(text, _NUMBER))
        values, bad = cast_rows(where(text, well), pa.float64())
        return values, bad | (valid(text) & ~well)
    return pc.cast(array, pa.float64(), safe=False), np.zeros(len(array), np.bool_)
