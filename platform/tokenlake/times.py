"""Days and instants: a day is a UTC `datetime.date`, an instant is int64 microseconds since the epoch, UTC."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import SchemaError

DAY_US = 86_400_000_000
#: A label that never becomes known, as an instant.
NEVER = np.iinfo(np.int64).max
#: The smallest instant: the start of a range without a lower bound, and the value of a missing time.
EARLIEST = np.iinfo(np.int64).min

Day: TypeAlias = dt.date
DayLike: TypeAlias = dt.date | str
_EPOCH = dt.date(1970, 1, 1)


def as_day(value: DayLike) -> Day:
    """Turn a date or ISO string into a date.

    >>> as_day("2017-03-01")
    datetime.date(2017, 3, 1)

    Raises:
        SchemaError: the value is neither a date nor an ISO string of a day.
    """
    if isinstance(value, dt.datetime):
        raise SchemaError(f"a day was expected, got the instant {value!r}; pass its .date() (in UTC)")
    if isinstance(value, dt.date):
        return value
    if isinstance(value, str):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    raise SchemaError(f"{value!r} is not a day; expected a datetime.date or a string like '2017-03-01'")


def day_start(day: Day) -> int:
    """First microsecond of a day."""
    return (day - _EPOCH).days * DAY_US


def available_at(day: Day) -> int:
    """Instant (us) from which a day's results may be read: the start of the next day."""
    return day_start(day) + DAY_US


def day_of(micros: int) -> Day:
    """The UTC day of an instant."""
    return _EPOCH + dt.timedelta(days=int(micros) // DAY_US)


def days_between(first: Day, last: Day) -> list[Day]:
    """All days from `first` to `last`, both included; empty when `last` is earlier."""
    return [first + dt.timedelta(days=i) for i in range((last - first).days + 1)]


def as_micros(values: object, name: str = "timestamps") -> NDArray[np.int64]:
    """Turn timestamps into int64 microseconds UTC.

    Args:
        values: integers (microseconds UTC), `datetime64` of any unit, aware `datetime`s, Arrow timestamps (with a
            zone, or naive ones, which are UTC like `datetime64`), or pandas timestamps; a scalar or an array of any
            shape.
        name: name of the argument in an error message.

    Returns:
        An int64 array of the same shape.

    Raises:
        SchemaError: floats, nulls, naive `datetime`s or anything else.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return _from_arrow(values, name)
    if isinstance(values, dt.datetime):
        values = [values]
        return _from_datetimes(values, name).reshape(())
    if hasattr(values, "tz_convert"):  # pandas Timestamp and DatetimeIndex
        values = values.tz_convert("UTC").tz_localize(None) if getattr(values, "tz", None) else values
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    array = np.asarray(values)
    if array.dtype == object:
        return _from_datetimes(array.ravel().tolist(), name).reshape(array.shape)
    if np.issubdtype(array.dtype, np.datetime64):
        if np.isnat(array).any():
            raise SchemaError(
                f"{name}: NaT at position {int(np.isnat(array).ravel().argmax())}; every row needs a time"
            )
        micros = array.astype("datetime64[us]")
        coarse = np.datetime_data(array.dtype)[0] not in ("us", "ns", "ps", "fs", "as")
        if coarse and not np.array_equal(micros.astype(array.dtype), array):
            raise _too_far(name)
        return micros.astype(np.int64)
    if np.issubdtype(array.dtype, np.integer):
        if array.dtype == np.uint64 and array.size and int(array.max()) > NEVER:
            raise SchemaError(f"{name}: {int(array.max())} does not fit int64 microseconds")
        return array.astype(np.int64, copy=False)
    if array.size == 0:
        return np.zeros(array.shape, np.int64)
    raise SchemaError(
        f"{name}: dtype {array.dtype} given; expected int64 microseconds UTC, datetime64, or an Arrow timestamp array"
    )


def _too_far(name: str) -> SchemaError:
    return SchemaError(f"{name}: a time so far that int64 microseconds cannot say it; was another unit meant?")


def _from_arrow(values: pa.Array | pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    if values.null_count:
        raise SchemaError(f"{name}: {values.null_count} nulls given; every row needs a time")
    if pa.types.is_timestamp(values.type):
        try:
            values = values.cast(pa.timestamp("us", values.type.tz), safe=values.type.unit != "ns").cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise _too_far(name) from error
    if not pa.types.is_integer(values.type):
        raise SchemaError(f"{name}: Arrow type {values.type} given; expected a timestamp or int64 microseconds UTC")
    return np.ascontiguousarray(
        values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    ).astype(np.int64, copy=False)


def _from_datetimes(values: Sequence[object], name: str) -> NDArray[np.int64]:
    out = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        if not isinstance(value, dt.datetime) or value.tzinfo is None:
            raise SchemaError(
                f"{name}: {value!r} at position {i}; expected a datetime with a time zone, datetime64 or int64 microseconds UTC"
            )
        delta = value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        out[i] = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return out
