"""Instants from everything that people pass, and clear words for the rest."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlake.errors import SchemaError
from tokenlake.times import DAY_US, as_day, as_micros, day_of, day_start, days_between

NOON = dt.datetime(2017, 3, 1, 12, tzinfo=dt.UTC)
MICROS = 1_488_369_600_000_000


@pytest.mark.parametrize(
    "given",
    [
        MICROS,
        np.int64(MICROS),
        NOON,
        NOON.astimezone(dt.timezone(dt.timedelta(hours=-5))),
        np.datetime64("2017-03-01T12"),
        np.datetime64("2017-03-01T12:00:00.000000000"),
        pd.Timestamp("2017-03-01T13:00", tz="Europe/Berlin"),
    ],
)
def test_one_instant_in_many_forms(given: object) -> None:
    assert as_micros(given).reshape(-1).tolist() == [MICROS]


@pytest.mark.parametrize(
    "given",
    [
        [MICROS, MICROS],
        np.array([MICROS] * 2, np.uint64),
        pa.array([MICROS] * 2),
        pa.array([MICROS // 1000] * 2, pa.timestamp("ms", "Asia/Tokyo")),
        pa.chunked_array([[MICROS], [MICROS]], pa.timestamp("us", "UTC")),
        [NOON, NOON],
        pd.DatetimeIndex(["2017-03-01T12:00"] * 2, tz="UTC"),
        pd.Series([NOON, NOON]),
    ],
)
def test_arrays_in_many_forms(given: object) -> None:
    micros = as_micros(given)
    assert micros.dtype == np.int64
    assert micros.tolist() == [MICROS, MICROS]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1.5], "float64"),
        (["2017-03-01"], "dtype|datetime"),
        ([dt.datetime(2017, 3, 1)], "time zone"),  # noqa: DTZ001  # the naive one is the point
        ([NOON, None], "position 1"),
        (pd.Timestamp("2017-03-01"), "time zone"),
        (np.array(["NaT"], "datetime64[us]"), "NaT at position 0"),
        (pa.array([None], pa.timestamp("us")), "1 nulls"),
        (pa.array(["x"]), "Arrow type string"),
        (np.array([2**63], np.uint64), "does not fit"),
    ],
)
def test_what_is_no_instant_is_named(given: object, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        as_micros(given)


@given(st.dates(dt.date(1900, 1, 1), dt.date(2200, 1, 1)), st.integers(0, DAY_US - 1))
def test_a_day_holds_its_instants(day: dt.date, offset: int) -> None:
    assert day_of(day_start(day) + offset) == day
    assert as_day(day.isoformat()) == day


def test_days_between_holds_both_ends() -> None:
    assert days_between(dt.date(2017, 2, 27), dt.date(2017, 3, 1)) == [
        dt.date(2017, 2, 27),
        dt.date(2017, 2, 28),
        dt.date(2017, 3, 1),
    ]
    assert days_between(dt.date(2017, 3, 1), dt.date(2017, 2, 28)) == []


@pytest.mark.parametrize("given", ["2017-13-01", "yesterday", NOON, 20170301, None])
def test_what_is_no_day_is_named(given: object) -> None:
    with pytest.raises(SchemaError, match="day"):
        as_day(given)  # type: ignore[arg-type]  # the wrong type is the point
