"""Time columns of any kind as int64 nanoseconds UTC, `asof.NONE` where they are null."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.asof import NONE, Ints

#: Nanoseconds of a unit.
_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_LAST = np.iinfo(np.int64).max


def as_nanos(column: pa.Array | pa.ChunkedArray, name: str) -> Ints:
    """Timestamps (naive ones are UTC, as Feast has it) or dates; those that nanoseconds can't say go to the nearest.

    Raises:
        SchemaError: neither.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(column.type):
        raise SchemaError(f"time column {name!r} is {column.type}; expected timestamps or dates")
    scale = _UNITS[column.type.unit]
    plain = pc.fill_null(column.cast(pa.int64()), NONE).to_numpy(zero_copy_only=False)
    if scale == 1:
        return np.asarray(plain)
    top = _LAST // scale
    if len(plain) and plain.min() >= -top and plain.max() <= top:
        return np.asarray(plain * scale)
    nanos = np.clip(plain, -top, top) * scale
    nanos[plain == NONE] = NONE
    return np.asarray(nanos)


def nanos_of(moment: dt.datetime) -> int:
    """A datetime's nanoseconds, to the microsecond; a naive one is UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    delta = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000
