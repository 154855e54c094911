"""One schema for many files: the union of their columns by name, each of a type that holds the values of all files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from tokenlake.errors import SchemaError
from tokenlake.reading.kinds import is_list, plain

_UNITS = ("s", "ms", "us", "ns")
#: Most digits of a 128-bit and of a 256-bit decimal.
_DIGITS_128, _DIGITS_256 = 38, 76


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with plain types (see `kinds.plain`)."""
    fields = [pa.field(field.name, plain(field.type), metadata=field.metadata) for field in schema]
    return pa.schema(fields, schema.metadata)


def union(parts: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """The common schema of several files; columns are in the order of their first occurrence.

    Args:
        parts: names of files, for messages, and their schemas.

    Raises:
        SchemaError: a column whose types have no common type (the message names both files and types), or a column
            that one file has twice.
    """
    types: dict[str, pa.DataType] = {}
    seen: dict[str, list[tuple[str, pa.DataType]]] = {}
    metadata: dict[bytes, bytes] | None = None
    for file, schema in parts:
        check_names(schema.names, file)
        for field in schema:
            kind = plain(field.type)
            if field.name not in types:
                types[field.name], seen[field.name] = kind, [(file, kind)]
            elif kind != types[field.name]:
                wider = widened(types[field.name], kind)
                if wider is None:
                    raise _conflict(field.name, file, kind, seen[field.name])
                types[field.name] = wider
                seen[field.name].append((file, kind))
        file_metadata = dict(schema.metadata or {})
        metadata = (
            file_metadata if metadata is None else {k: v for k, v in metadata.items() if file_metadata.get(k) == v}
        )
    return pa.schema(list(types.items()), metadata or None)


def check_names(names: Sequence[str], file: str) -> None:
    """Check that no column occurs in a file twice.

    Raises:
        SchemaError: a column occurs twice.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SchemaError(f"{file}: columns {twice} stand there more than once; rename them")


def _conflict(name: str, file: str, kind: pa.DataType, seen: list[tuple[str, pa.DataType]]) -> SchemaError:
    """The error for two types without a common type; names the first file whose type conflicts."""
    other, given = next(((f, k) for f, k in seen if widened(k, kind) is None), seen[-1])
    return SchemaError(
        f"column {name!r} is {given} in {other} and {kind} in {file}, and no type holds both; convert one of them"
    )


def widened(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both types, or None. Whether a *value* fits exactly is checked when it is read.

    >>> widened(pa.int32(), pa.int64()), widened(pa.date32(), pa.timestamp("us")), widened(pa.string(), pa.int64())
    (DataType(int64), TimestampType(timestamp[us]), None)
    """
    if one == two or pa.types.is_null(two):
        return one
    if pa.types.is_null(one):
        return two
    for rule in (_numbers, _times, _texts, _nested):
        for left, right in ((one, two), (two, one)):
            if (found := rule(left, right)) is not None:
                return found
    return None


def _numbers(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    """`one` is the wider kind: float over decimal over integer."""
    if pa.types.is_floating(one):
        if pa.types.is_floating(two):
            return one if one.bit_width >= two.bit_width else two
        return pa.float64() if pa.types.is_integer(two) else None
    if pa.types.is_decimal(one):
        if pa.types.is_integer(two):
            two = pa.decimal128(len(str(2**two.bit_width)), 0)
        return _decimals(one, two) if pa.types.is_decimal(two) else None
    if pa.types.is_integer(one) and pa.types.is_integer(two):
        signed = [kind for kind in (one, two) if pa.types.is_signed_integer(kind)]
        if len(signed) != 1:
            return one if one.bit_width >= two.bit_width else two
        other = two if signed[0] is one else one
        bits = min(64, max(signed[0].bit_width, 2 * other.bit_width))
        return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]
    return None


def _decimals(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    scale = max(one.scale, two.scale)
    digits = max(one.precision - one.scale, two.precision - two.scale) + scale
    if digits <= _DIGITS_128:
        return pa.decimal128(digits, scale)
    return pa.decimal256(digits, scale) if digits <= _DIGITS_256 else None


def _times(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    """Dates are midnights, times without a zone are UTC, and times of different zones become UTC."""
    if pa.types.is_date(one) and pa.types.is_date(two):
        return pa.date32()
    if pa.types.is_timestamp(one):
        if pa.types.is_date(two):
            return pa.timestamp(one.unit, one.tz)
        if pa.types.is_timestamp(two):
            return pa.timestamp(_finer(one, two), one.tz if one.tz == two.tz else "UTC")
    if pa.types.is_duration(one) and pa.types.is_duration(two):
        return pa.duration(_finer(one, two))
    if pa.types.is_time(one) and pa.types.is_time(two):
        unit = _finer(one, two)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    return None


def _finer(one: pa.DataType, two: pa.DataType) -> str:
    return _UNITS[max(_UNITS.index(one.unit), _UNITS.index(two.unit))]


def _texts(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    if pa.types.is_large_string(one) and pa.types.is_string(two):
        return one
    if pa.types.is_fixed_size_binary(two) and pa.types.is_fixed_size_binary(one):
        return pa.binary()
    binary = pa.types.is_binary(two) or pa.types.is_fixed_size_binary(two)
    return one if binary and (pa.types.is_large_binary(one) or pa.types.is_binary(one)) else None


def _nested(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    if is_list(one) and is_list(two):
        inner = widened(one.value_type, two.value_type)
        if inner is None:
            return None
        large = pa.types.is_large_list(one) or pa.types.is_large_list(two)
        return pa.large_list(inner) if large else pa.list_(inner)
    if pa.types.is_struct(one) and pa.types.is_struct(two):
        fields = {field.name: field.type for field in one}
        for field in two:
            wider = widened(fields.get(field.name, field.type), field.type)
            if wider is None:
                return None
            fields[field.name] = wider
        return pa.struct(list(fields.items()))
    return None
