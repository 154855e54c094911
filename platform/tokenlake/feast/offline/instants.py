"""Time columns of any type as int64 nanoseconds UTC, `EARLIEST` for nulls."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.asof import Ints
from tokenlake.reading.times import is_instant, sayable_nanos
from tokenlake.times import EARLIEST


def as_nanos(column: pa.Array | pa.ChunkedArray, name: str) -> Ints:
    """Convert timestamps (naive ones are UTC, as in Feast) or dates to nanoseconds.

    Instants of the years 1 to 9999 are clipped to the range of int64 nanoseconds; others count as null.

    Raises:
        SchemaError: another type.
    """
    if pa.types.is_null(column.type):
        return np.full(len(column), EARLIEST)
    if not is_instant(column.type):
        raise SchemaError(f"time column {name!r} is {column.type}; expected timestamps or dates")
    nanos, has = sayable_nanos(column)
    return nanos if has.all() else np.where(has, nanos, EARLIEST)


def nanos_of(moment: dt.datetime) -> int:
    """A datetime in nanoseconds since 1970; a naive one is UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    delta = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000
