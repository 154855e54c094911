"""Casts of values to a wider type that are exact, or else fail."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.errors import SchemaError
from tokenlake.reading.arrays import decoded, numpy, valid
from tokenlake.reading.kinds import is_list

#: Integers up to this are exact as float64.
_EXACT = 2**53


def fitted(
    batch: pa.RecordBatch, schema: pa.Schema, file: str, constants: Mapping[str, pa.Scalar] | None = None
) -> pa.RecordBatch:
    """Convert a batch of a file to a schema: each column comes from the batch, from `constants`, or is null.

    Args:
        batch: some columns of the file, of any number of rows.
        schema: of the result; its types come from `schema.union`.
        file: name of the file, for messages.
        constants: columns whose value is the same in all rows, such as those of Hive partitions.

    Raises:
        SchemaError: a value that the wider type cannot represent exactly; the message names the file, column and types.
    """
    names, constants = batch.schema.names, constants or {}

    def column(field: pa.Field) -> pa.Array:
        if field.name in names:
            return widen(batch.column(field.name), field.type, f"column {field.name!r} of {file}")
        if field.name in constants:
            return pa.repeat(constants[field.name].cast(field.type), batch.num_rows)
        return pa.nulls(batch.num_rows, field.type)

    if not schema.names:
        return batch.select([])
    return pa.RecordBatch.from_arrays([column(field) for field in schema], schema=schema)


def widen(array: pa.Array, kind: pa.DataType, what: str) -> pa.Array:
    """Cast an array to the type `kind`.

    Raises:
        SchemaError: a value that `kind` cannot represent exactly; the message begins with `what`.
    """
    array = decoded(array)
    if array.type == kind:
        return array
    try:
        return _cast(array, kind, what)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(
            f"{what} is {array.type}, and is read as {kind} because other files are wider; a value does not fit "
            f"({error}). Convert one of them"
        ) from error


def _cast(array: pa.Array, kind: pa.DataType, what: str) -> pa.Array:
    given = array.type
    if pa.types.is_null(given):
        return pa.nulls(len(array), kind)
    if pa.types.is_integer(given) and pa.types.is_floating(kind):
        return _floats(array, kind, what)
    if pa.types.is_date(given) and pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp(kind.unit)).cast(kind)
    if pa.types.is_timestamp(given) and pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp(kind.unit, given.tz)).cast(kind)
    if is_list(given) and is_list(kind) and not pa.types.is_fixed_size_list(kind):
        return _lists(array, kind, what)
    if pa.types.is_struct(given) and pa.types.is_struct(kind):
        inner = dict(zip((field.name for field in given), array.flatten(), strict=True))
        missing = pa.nulls(len(array))
        children = [widen(inner.get(field.name, missing), field.type, f"{what}, {field.name!r}") for field in kind]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=pa.array(~valid(array)))
    return array.cast(kind)


def _floats(array: pa.Array, kind: pa.DataType, what: str) -> pa.Array:
    low, high = (bound.as_py() for bound in pc.min_max(array).values())
    if low is not None and (low < -_EXACT or high > _EXACT):
        whole = numpy(array, array.type.to_pandas_dtype())
        floats = whole.astype(np.float64)
        inside = (floats >= -(2.0**63)) & (floats < (2.0**64 if whole.dtype.kind == "u" else 2.0**63))
        back = np.where(inside, floats, 0).astype(whole.dtype)
        if (bad := np.flatnonzero(back != whole)).size:
            raise SchemaError(
                f"{what} is {array.type}, and is read as {kind} because other files hold fractions; "
                f"{whole[bad[0]]} is not exact as {kind}. Convert one of them"
            )
    return array.cast(kind, safe=False)


def _lists(array: pa.Array, kind: pa.DataType, what: str) -> pa.Array:
    lengths = numpy(pc.list_value_length(array), np.int64)
    large = pa.types.is_large_list(kind)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64 if large else np.int32)
    values = widen(array.flatten(), kind.value_type, what)
    whole = pa.LargeListArray if large else pa.ListArray
    mask = None if not array.null_count else pa.array(~valid(array))
    return whole.from_arrays(pa.array(offsets), values, type=kind, mask=mask)
