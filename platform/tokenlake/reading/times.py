"""Instants of any unit as int64 microseconds or nanoseconds, without integer overflow.

A value outside the years 1 to 9999, which Python's datetime cannot represent, is invalid: it comes from milliseconds
that were written as seconds, or from a database's infinity. Such values are reported row by row; the others are read.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.reading.arrays import Mask, flat, numpy, valid
from tokenlake.times import NEVER, as_micros

Ints = NDArray[np.int64]

#: The first microsecond of year 1, and the last one of year 9999.
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
#: Nanoseconds of each unit.
_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_END = np.iinfo(np.int64).max


def is_instant(kind: pa.DataType) -> bool:
    """Whether values are timestamps or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def as_instants(column: pa.Array | pa.ChunkedArray, unit: str = "us") -> tuple[Ints, Mask]:
    """Timestamps (naive ones are UTC) and dates (their midnights) as int64 numbers of a unit.

    Returns:
        The instant of each row, rounded down to the unit, clipped to the range of int64, and 0 for a null. And a mask
        of the rows that are not null.
    """
    counts, nanos, has = _counts(column)
    return _scaled(counts, nanos, _UNITS[unit]), has


def sayable_nanos(column: pa.Array | pa.ChunkedArray) -> tuple[Ints, Mask]:
    """Timestamps and dates in nanoseconds, and a mask of the rows with an instant of the years 1 to 9999."""
    counts, nanos, has = _counts(column)
    low, high = FIRST * 1000 // nanos, LAST * 1000 // nanos
    if len(counts) and (counts.min() < low or counts.max() > high):
        has = has & (counts >= low) & (counts <= high)
    return _scaled(counts, nanos, 1), has


def check_instants(column: pa.ChunkedArray, name: str) -> Ints:
    """Convert a column without nulls (timestamps, dates, or integer microseconds) to microseconds.

    Returns:
        int64 (rows,) microseconds.

    Raises:
        SchemaError: another type, a null, or an instant outside the years 1 to 9999; the message names the row.
    """
    if not is_instant(column.type):
        return as_micros(column, name)
    micros, has = as_instants(column)
    if not has.all():
        raise SchemaError(f"{name}: no time in row {int(has.argmin())}; every row needs one")
    if (bad := np.flatnonzero(beyond(column))).size:
        raise SchemaError(
            f"{name}: the time in row {bad[0]} (of {len(bad)} such rows) is not of the years 1 to 9999; was another unit "
            "meant? Correct it, or remove the row"
        )
    return micros


def beyond(column: pa.Array | pa.ChunkedArray) -> Mask:
    """Mask of the rows with an instant outside the years 1 to 9999; all False for integers."""
    if not is_instant(column.type):
        return np.zeros(len(column), np.bool_)
    micros, has = as_instants(column)
    return has & ((micros < FIRST) | (micros > LAST))


def known_at(column: pa.Array | pa.ChunkedArray, name: str) -> Ints:
    """Instants at which values become known, in microseconds: timestamps, dates, or integer microseconds; null: never.

    Raises:
        SchemaError: another type.
    """
    column = flat(column)
    if is_instant(column.type):
        micros, has = as_instants(column)
        return np.where(has, micros, NEVER)
    if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise SchemaError(f"column {name!r} is {column.type}; expected timestamps or int64 microseconds UTC")
    return numpy(column.cast(pa.int64()), np.int64, NEVER)


def _counts(column: pa.Array | pa.ChunkedArray) -> tuple[Ints, int, Mask]:
    """Numbers of the column's unit since 1970, nanoseconds of the unit, and a mask of the rows that are not null."""
    column = flat(column)
    kind = column.type
    if pa.types.is_date32(kind):
        return numpy(column.cast(pa.int32()).cast(pa.int64()), np.int64), 86_400 * _UNITS["s"], valid(column)
    if not is_instant(kind):
        raise SchemaError(f"{kind} given; expected timestamps or dates")
    unit = kind.unit if pa.types.is_timestamp(kind) else "ms"
    return numpy(column.cast(pa.int64()), np.int64), _UNITS[unit], valid(column)


def in_zone(micros: Ints, timezone: str) -> Ints:
    """Convert local times of a zone to UTC; values outside the years 1 to 9999 stay unchanged.

    A local time that occurs twice is the earlier instant; one that does not exist is the first instant after the gap.

    Raises:
        SchemaError: an unknown zone.
    """
    if timezone == "UTC":
        return micros
    inside = (micros >= FIRST) & (micros <= LAST)
    clocks = pa.array(np.where(inside, micros, 0)).cast(pa.timestamp("us"))
    try:
        instants = pc.assume_timezone(clocks, timezone, ambiguous="earliest", nonexistent="latest")
    except pa.ArrowInvalid as error:
        raise SchemaError(f"time zone {timezone!r} is unknown here ({error})") from error
    return np.where(inside, numpy(instants.cast(pa.int64()), np.int64), micros)


def _scaled(values: Ints, unit: int, wanted: int) -> Ints:
    if unit == wanted:
        return values
    if unit < wanted:
        return values // (wanted // unit)
    scale = unit // wanted
    top = _END // scale
    if len(values) and values.min() >= -top and values.max() <= top:
        return values * scale
    return np.clip(values, -top, top) * scale
