"""Encodes Arrow columns of features as wire bytes of Feast's values, the form of the online store.

Common types are encoded by Arrow and NumPy without an object per row; other types by Feast's own conversion. Both give
the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from tokenlake.errors import SchemaError
from tokenlake.feast.online import wire


def encode_values(column: pa.Array, kind: ValueType) -> pa.LargeBinaryArray:
    """Wire bytes of Feast's value for each row; a null is `wire.NULL`.

    Args:
        column: (n,) values.
        kind: type of the feature.
    """
    fast = _FAST.get(kind)
    encoded = fast(column, wire.FIELDS[kind.name]) if fast is not None else None
    if encoded is None:
        protos = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind)
        return pa.array([proto.SerializeToString() for proto in protos], pa.large_binary())
    return encoded.fill_null(wire.NULL) if encoded.null_count else encoded


def as_bytes(column: pa.Array) -> pa.LargeBinaryArray:
    """The little-endian bytes of each number, or those of each string."""
    if pa.types.is_large_binary(column.type):
        return column
    if not pa.types.is_primitive(column.type):
        return column.cast(pa.large_binary())
    array = np.ascontiguousarray(column.fill_null(0) if column.null_count else column)
    ends = np.arange(len(array) + 1, dtype=np.int64) * array.itemsize
    valid = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
    return wire.binary(array, ends, valid)


def _text(column: pa.Array, field: int) -> pa.LargeBinaryArray | None:
    if not (_is_text(column.type)):
        return None
    return wire.prefixed(column.cast(pa.large_binary()), wire.message(field))


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _number(kind: pa.DataType, name: str) -> Callable[[pa.Array, int], pa.LargeBinaryArray | None]:
    def encode(column: pa.Array, field: int) -> pa.LargeBinaryArray | None:
        if not (pa.types.is_floating(column.type) or (pa.types.is_integer(column.type) and not column.null_count)):
            return None
        if column.type != kind:
            column = column.cast(kind, safe=False)
        # Feast treats a NaN as a null.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        return wire.prefixed(as_bytes(column), wire.plain(field, name))

    return encode


def _whole(column: pa.Array, field: int) -> pa.LargeBinaryArray | None:
    if not (pa.types.is_integer(column.type) and column.type.bit_width <= 64 and column.type != pa.uint64()):
        return None
    return _varint_column(column.cast(pa.int64()), field)


def _flag(column: pa.Array, field: int) -> pa.LargeBinaryArray | None:
    return _varint_column(column.cast(pa.int64()), field) if pa.types.is_boolean(column.type) else None


def _instant(column: pa.Array, field: int) -> pa.LargeBinaryArray | None:
    return _varint_column(_seconds(column), field) if pa.types.is_timestamp(column.type) else None


def _seconds(column: pa.Array) -> pa.Array:
    """Whole seconds, rounded down as Feast does."""
    unit = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    whole = (
        column.cast(pa.int64()) if not column.type.tz else column.cast(pa.timestamp(column.type.unit)).cast(pa.int64())
    )
    floor = np.floor_divide(whole.fill_null(0).to_numpy(), unit)
    return pa.array(floor, mask=column.is_null().to_numpy(zero_copy_only=False))


def _varint_column(column: pa.Array, field: int) -> pa.LargeBinaryArray:
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    data, sizes = wire.varints(column.fill_null(0).to_numpy())
    payload = wire.binary(data, np.concatenate([[0], np.cumsum(sizes)]), valid)
    return wire.prefixed(payload, wire.plain(field, "varint"))


def _floats(kind: pa.DataType) -> Callable[[pa.Array, int], pa.LargeBinaryArray | None]:
    def encode(column: pa.Array, field: int) -> pa.LargeBinaryArray | None:
        found = _lists(column)
        if found is None or not (pa.types.is_floating(found[1].type) or pa.types.is_integer(found[1].type)):
            return None
        ends, values, valid = found
        numbers = np.ascontiguousarray(values.cast(kind, safe=False) if values.type != kind else values)
        return wire.prefixed(wire.binary(numbers, ends * numbers.itemsize, valid), wire.packed_list(field))

    return encode


def _lists(column: pa.Array) -> tuple[np.ndarray[Any, np.dtype[np.int64]], pa.Array, Any] | None:
    """The ends of the lists among the values, the values, and a mask of the lists that are not null; None for other types."""
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        ends = (np.arange(len(column) + 1, dtype=np.int64) + column.offset) * kind.list_size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        ends = column.offsets.to_numpy().astype(np.int64)
    else:
        return None
    if column.values.null_count:
        return None
    valid = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
    return ends, column.values, valid


_FAST: dict[ValueType, Callable[[pa.Array, int], pa.LargeBinaryArray | None]] = {
    ValueType.STRING: _text,
    ValueType.BYTES: _text,
    ValueType.FLOAT: _number(pa.float32(), "fixed32"),
    ValueType.DOUBLE: _number(pa.float64(), "fixed64"),
    ValueType.INT64: _whole,
    ValueType.BOOL: _flag,
    ValueType.UNIX_TIMESTAMP: _instant,
    ValueType.FLOAT_LIST: _floats(pa.float32()),
    ValueType.DOUBLE_LIST: _floats(pa.float64()),
}


def one(column: Any) -> pa.Array:
    """A column of a table or batch as one array."""
    if isinstance(column, pa.ChunkedArray):
        return (
            column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [column.combine_chunks()])
        )
    return column


def micros(column: pa.Array, name: str, *, nulls: int | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Instants in microseconds UTC; naive ones are UTC.

    Raises:
        SchemaError: another type, or a null that is not allowed.
    """
    if not pa.types.is_timestamp(column.type):
        raise SchemaError(f"{name}: Arrow type {column.type} given; expected a timestamp")
    whole = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    if whole.null_count:
        if nulls is None:
            raise SchemaError(f"{name}: {whole.null_count} nulls given; every row needs its event time")
        whole = whole.fill_null(nulls)
    found: np.ndarray[Any, np.dtype[np.int64]] = whole.to_numpy()
    return found


def columns_of(table: pa.Table | pa.RecordBatch, names: Sequence[str]) -> dict[str, pa.Array]:
    """Some columns, each as one array.

    Raises:
        SchemaError: a column is missing.
    """
    if missing := [name for name in names if name not in table.schema.names]:
        raise SchemaError(f"columns {missing} are missing; the table has {table.schema.names}")
    return {name: one(table.column(name)) for name in names}
