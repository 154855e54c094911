"""Check what callers give, before anything is written: rows and queries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.storage import native_ops
from tokenlake.times import DAY_US, NEVER, Day, as_micros, day_of, day_start
from tokenlake.tokens.ids import as_ids
from tokenlake.tokens.quantize import quantize
from tokenlake.tokens.query import ALL
from tokenlake.tokens.schema import StoreSchema

_FIRST, _LAST = day_start(Day.min), day_start(Day.max) + DAY_US


def check_rows(
    schema: StoreSchema,
    users: object,
    timestamps: object,
    tokens: object,
    side: Mapping[str, object] | None,
    known_at: Mapping[str, object] | None,
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Turn a caller's rows into ids and stored columns.

    Raises:
        SchemaError: a wrong length, width, dtype or name, a NaN or infinite token, an instant out of range.
    """
    ids = as_ids(users)
    if ids.ndim != 1:
        raise SchemaError(f"users: shape {ids.shape} given; expected one id per row, (n,)")
    count = len(ids)
    times = _column(as_instants(timestamps, "timestamps"), count, "timestamps")
    if count and not (times.min() >= _FIRST and times.max() < _LAST):
        bad = int(np.flatnonzero((times < _FIRST) | (times >= _LAST))[0])
        raise SchemaError(
            f"timestamps: {times[bad]} at row {bad} is no instant between the years 1 and 9999; "
            f"expected microseconds since 1970, UTC"
        )
    columns: dict[str, NDArray[Any]] = {"timestamp": times}
    columns |= _tokens(schema, tokens, count)
    columns |= _sides(schema, side or {}, known_at or {}, count)
    return ids, {name: columns[name] for name in schema.columns}


def as_instants(values: object, name: str) -> NDArray[np.int64]:
    """`times.as_micros`, and ISO strings without a zone, taken as UTC like `datetime64`.

    Raises:
        SchemaError: anything that is no instant.
    """
    text = isinstance(values, str) or (isinstance(values, list | tuple) and all(isinstance(v, str) for v in values))
    if text and len(values):  # type: ignore[arg-type]  # a string or a list of them
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # NumPy warns of zones, and ignores them
                values = np.array(values, "datetime64[us]")
        except (ValueError, UserWarning, DeprecationWarning):
            raise SchemaError(
                f"{name}: {values!r} given; expected an ISO time without zone, such as '2017-03-01T12:30:00' (UTC)"
            ) from None
    return as_micros(values, name)


def check_day(day: Day, times: NDArray[np.int64]) -> None:
    """Refuse rows outside a day.

    Raises:
        SchemaError: some are.
    """
    start = day_start(day)
    outside = (times < start) | (times >= start + DAY_US)
    if outside.any():
        row = int(outside.argmax())
        raise SchemaError(
            f"row {row} is of {day_of(int(times[row]))}, not of {day} ({int(outside.sum())} of {len(times)} rows are "
            f"outside the day); write each day's rows with its own call"
        )


def check_queries(users: object, times: object, name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Broadcast users and instants against each other, as NumPy does, into (n,) queries.

    Raises:
        SchemaError: ids or instants that are none, or shapes that don't broadcast.
    """
    ids, instants = as_ids(users), as_instants(times, name)
    if ids.shape == instants.shape:
        return ids.reshape(-1), instants.reshape(-1)
    try:
        ids, instants = np.broadcast_arrays(ids, instants)
    except ValueError:
        raise SchemaError(
            f"users of shape {ids.shape} and {name} of shape {instants.shape} don't broadcast; "
            f"give one time for all, or one for each user"
        ) from None
    return np.ascontiguousarray(ids).reshape(-1), np.ascontiguousarray(instants).reshape(-1)


def check_length(length: object) -> int:
    """Check how many rows a query asks for.

    Raises:
        SchemaError: it is no positive integer.
    """
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
        raise SchemaError(f"length={length!r}; expected a positive integer")
    return min(int(length), ALL)


def _column(array: NDArray[Any], count: int, name: str) -> NDArray[Any]:
    if array.shape != (count,):
        raise SchemaError(f"{name}: shape {array.shape} given; expected ({count},), one for each user")
    return np.ascontiguousarray(array)


def _tokens(schema: StoreSchema, tokens: object, count: int) -> dict[str, NDArray[Any]]:
    array = _token_array(tokens, schema.dim)
    if count == 0 and array.size == 0:
        array = np.empty((0, schema.dim), np.float32)
    if array.shape != (count, schema.dim):
        raise SchemaError(f"tokens: shape {array.shape} given; expected ({count}, {schema.dim}) in this store")
    if array.dtype.kind != "f":
        raise SchemaError(
            f"tokens: dtype {array.dtype} given; expected floats"
            + (", the store quantizes them" * (schema.dtype == "int8"))
        )
    kind = np.float32 if schema.dtype == "int8" else schema.token_dtype
    with np.errstate(over="ignore"):  # too large becomes infinite, which is refused below
        stored = np.ascontiguousarray(array, kind)
    if not native_ops.all_finite(stored):
        finite = np.isfinite(stored)
        row = int((~finite.all(axis=1)).argmax())
        value = array[row][~finite[row]][0]
        why = "NaN and infinity are refused" if not np.isfinite(value) else f"it is beyond the range of {schema.dtype}"
        raise SchemaError(f"tokens: {value} in row {row}; {why}")
    if schema.dtype != "int8":
        return {"token": stored}
    values, scales = quantize(stored)
    return {"token": values, "scale": scales}


def _token_array(tokens: object, dim: int) -> NDArray[Any]:
    if isinstance(tokens, pa.ChunkedArray):
        tokens = tokens.combine_chunks()
    if isinstance(tokens, pa.Array):
        if tokens.null_count:
            raise SchemaError(f"tokens: {tokens.null_count} nulls given; every row needs a token")
        if not (
            pa.types.is_list(tokens.type)
            or pa.types.is_large_list(tokens.type)
            or pa.types.is_fixed_size_list(tokens.type)
        ):
            raise SchemaError(f"tokens: Arrow type {tokens.type} given; expected lists of floats")
        widths = np.unique(tokens.value_lengths().to_numpy(zero_copy_only=False))
        if len(widths) > 1:
            raise SchemaError(
                f"tokens: lists of {widths.min()} to {widths.max()} values given; expected {dim} in each row"
            )
        flat = tokens.flatten()
        if flat.null_count:
            raise SchemaError(f"tokens: {flat.null_count} null values given; every value is a number")
        values: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
        return values.reshape(len(tokens), -1) if len(tokens) else values
    try:
        return np.asarray(tokens)
    except (ValueError, TypeError) as error:
        raise SchemaError(f"tokens: no array of floats ({error}); expected shape (n, {dim}), on the CPU") from error


def _sides(
    schema: StoreSchema, side: Mapping[str, object], known_at: Mapping[str, object], count: int
) -> dict[str, NDArray[Any]]:
    _same_names("side", set(side), set(schema.side))
    _same_names("known_at", set(known_at), set(schema.known_at))
    columns: dict[str, NDArray[Any]] = {}
    for name, value in side.items():
        label = name in schema.known_at
        array, null = _side_array(value, name, label=label)
        column = schema.side_columns[name]
        columns[column] = _cast(_column(array, count, f"side {name!r}"), schema.columns[column], name)
        if label:
            when = _known_at(known_at[name], name)
            columns[schema.known_columns[name]] = np.where(null, NEVER, _column(when, count, f"known_at {name!r}"))
    return columns


def _same_names(what: str, given: set[str], expected: set[str]) -> None:
    if given != expected:
        missing, extra = sorted(expected - given), sorted(given - expected)
        told = [f"{missing} missing"] * bool(missing) + [f"{extra} unknown"] * bool(extra)
        raise SchemaError(f"{what}: {', '.join(told)}; this store has {sorted(expected)}")


def _side_array(value: object, name: str, *, label: bool) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values, and which are null: a label that is null is never known."""
    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    if not isinstance(value, pa.Array):
        array = np.asarray(value)
        return array, np.zeros(array.shape, np.bool_)
    if value.null_count and not label:
        raise SchemaError(f"side {name!r}: {value.null_count} nulls given; only labels (`known_at`) may be null")
    null = value.is_null().to_numpy(zero_copy_only=False)
    filled = value.fill_null(pa.scalar(0).cast(value.type)) if value.null_count else value
    return filled.to_numpy(zero_copy_only=False), null


def _cast(array: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Cast without losing anything but a float's precision."""
    if array.dtype == dtype or array.size == 0:
        return array.astype(dtype, copy=False)
    if array.dtype.kind not in "biuf":
        raise SchemaError(f"side {name!r}: dtype {array.dtype} given; expected {dtype}")
    with np.errstate(over="ignore", invalid="ignore"):  # checked just below
        cast = array.astype(dtype)
        same = (cast == array) | (
            (dtype.kind == "f") & (array.dtype.kind == "f") & (np.isfinite(cast) | ~np.isfinite(array))
        )
    if not same.all():
        row = int((~same).argmax())
        raise SchemaError(f"side {name!r}: {array[row]} in row {row} does not fit {dtype}")
    return cast


def _known_at(value: Any, name: str) -> NDArray[np.int64]:
    if isinstance(value, pa.Array | pa.ChunkedArray) and value.null_count:
        kind = value.type
        value = value.cast(pa.int64() if not pa.types.is_timestamp(kind) else pa.timestamp("us", kind.tz)).cast(
            pa.int64()
        )
        value = value.fill_null(NEVER)
    return as_micros(value, f"known_at {name!r}")
