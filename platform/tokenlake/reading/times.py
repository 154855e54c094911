"""Instants of any unit as int64 microseconds or nanoseconds, none wrapped into another year.

What Python's datetime cannot say (before year 1, after 9999) is no instant: milliseconds that were written as seconds,
or the infinity of a database. Such a value is told, one at a time; the others are read.
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
#: Of a unit, in nanoseconds.
_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_END = np.iinfo(np.int64).max


def is_instant(kind: pa.DataType) -> bool:
    """Whether values are timestamps or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def as_instants(column: pa.Array | pa.ChunkedArray, unit: str = "us") -> tuple[Ints, Mask]:
    """Timestamps (naive ones as if they were UTC) and dates (midnights) in a unit.

    Returns:
        Per row the instant, the nearest that the unit can say, and 0 where there is none; what the unit is too coarse for
        is cut off. And which rows have one.
    """
    counts, nanos, has = _counts(column)
    return _scaled(counts, nanos, _UNITS[unit]), has


def sayable_nanos(column: pa.Array | pa.ChunkedArray) -> tuple[Ints, Mask]:
    """Timestamps and dates in nanoseconds, and which rows have one that lies in the years 1 to 9999."""
    counts, nanos, has = _counts(column)
    low, high = FIRST * 1000 // nanos, LAST * 1000 // nanos
    if len(counts) and (counts.min() < low or counts.max() > high):
        has = has & (counts >= low) & (counts <= high)
    return _scaled(counts, nanos, 1), has


def check_instants(column: pa.ChunkedArray, name: str) -> Ints:
    """A column in which every row must have an instant: timestamps, dates, or integers that are microseconds.

    Returns:
        Microseconds.

    Raises:
        SchemaError: one of another type, without a value, or beyond the years 1 to 9999; the message tells its row.
    """
    if not is_instant(column.type):
        return as_micros(column, name)
    micros, has = as_instants(column)
    if not has.all():
        raise SchemaError(f"{name}: no time in row {int(has.argmin())}; every row needs one")
    if (bad := np.flatnonzero(beyond(column))).size:
        raise SchemaError(
            f"{name}: the time in row {bad[0]} (of {len(bad)} such rows) is not of the years 1 to 9999; was another unit "
            "meant? Mend it, or take the row out"
        )
    return micros


def beyond(column: pa.Array | pa.ChunkedArray) -> Mask:
    """Which rows have an instant that is not of the years 1 to 9999; of integers, none."""
    if not is_instant(column.type):
        return np.zeros(len(column), np.bool_)
    micros, has = as_instants(column)
    return has & ((micros < FIRST) | (micros > LAST))


def known_at(column: pa.Array | pa.ChunkedArray, name: str) -> Ints:
    """From when on something is known, in microseconds: timestamps, dates, or integers that are microseconds; null: never.

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
    """How many units since 1970, a unit's nanoseconds, and which rows have any."""
    column = flat(column)
    kind = column.type
    if pa.types.is_date32(kind):
        return numpy(column.cast(pa.int32()).cast(pa.int64()), np.int64), 86_400 * _UNITS["s"], valid(column)
    if not is_instant(kind):
        raise SchemaError(f"{kind} given; expected timestamps or dates")
    unit = kind.unit if pa.types.is_timestamp(kind) else "ms"
    return numpy(column.cast(pa.int64()), np.int64), _UNITS[unit], valid(column)


def in_zone(micros: Ints, timezone: str) -> Ints:
    """Clock times of a zone as instants; the ones that are no instants stay as they are.

    Where a clock was set back, the earlier of the two instants; where it was set forward, the first that exists.

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
