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
