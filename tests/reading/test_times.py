"""Instants of any unit beside Python's integers, which have no end."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlake.errors import SchemaError
from tokenlake.reading.times import FIRST, LAST, as_instants, beyond, check_instants, in_zone, known_at, sayable_nanos
from tokenlake.times import NEVER, as_micros

KINDS = {
    pa.timestamp("s"): 10**9,
    pa.timestamp("ms", "Europe/Berlin"): 10**6,
    pa.timestamp("us", "UTC"): 10**3,
    pa.timestamp("ns"): 1,
    pa.date32(): 86_400 * 10**9,
    pa.date64(): 10**6,
}
MOST = 2**63 - 1


@given(kind=st.sampled_from(list(KINDS)), values=st.lists(st.none() | st.integers(-MOST, MOST), min_size=1))
def test_no_instant_becomes_another(kind: pa.DataType, values: list[int | None]) -> None:
    if kind == pa.date32():
        values = [None if value is None else value >> 32 for value in values]
    storage = pa.int32() if kind == pa.date32() else pa.int64()
    column = pa.array(values, storage).cast(kind)
    nanos = [None if value is None else value * KINDS[kind] for value in values]
    micros, has = as_instants(column)
    assert has.tolist() == [value is not None for value in values]
    for exact, found in zip(nanos, micros.tolist(), strict=True):
        if exact is None:
            assert found == 0
        elif -MOST <= exact // 1000 <= MOST:
            assert found == exact // 1000
        else:
            assert abs(found) > 10**18
            assert (found > 0) == (exact > 0)
    inside = [value is not None and FIRST <= value // 1000 <= LAST for value in nanos]
    assert beyond(column).tolist() == [
        value is not None and not good for value, good in zip(nanos, inside, strict=True)
    ]
    found_nanos, good = sayable_nanos(column)
    assert good.tolist() == inside
    for exact, found in zip(nanos, found_nanos.tolist(), strict=True):
        if exact is not None and -MOST <= exact <= MOST:
            assert found == exact


def test_clocks_of_a_zone() -> None:
    summer, gone = 1_719_792_000_000_000, 1_711_852_200_000_000  # 2024-07-01, and 2024-03-31 02:30, which Berlin skips
    found = in_zone(np.array([summer, gone, MOST, -MOST]), "Europe/Berlin")
    assert found.tolist() == [summer - 7_200_000_000, 1_711_846_800_000_000, MOST, -MOST]
    with pytest.raises(SchemaError, match="unknown"):
        in_zone(np.array([0]), "Mars/Olympus")


def test_rows_that_need_an_instant() -> None:
    assert check_instants(pa.chunked_array([pa.array([5, 6])]), "t").tolist() == [5, 6]
    assert check_instants(pa.chunked_array([pa.array([5], pa.timestamp("s"))]), "t").tolist() == [5_000_000]
    far = pa.chunked_array([pa.array([5, 2**40, 2**62], pa.timestamp("s"))])
    with pytest.raises(SchemaError, match=r"t: the time in row 1 \(of 2 such rows\)"):
        check_instants(far, "t")
    with pytest.raises(SchemaError, match="t: no time in row 0"):
        check_instants(pa.chunked_array([pa.array([None], pa.timestamp("s"))]), "t")


def test_when_something_is_known() -> None:
    assert known_at(pa.array([1, None, 2**50], pa.timestamp("s")), "t").tolist()[:2] == [1_000_000, NEVER]
    assert known_at(pa.array([1, None]), "t").tolist() == [1, NEVER]
    assert known_at(pa.nulls(1), "t").tolist() == [NEVER]
    with pytest.raises(SchemaError, match="'t' is string"):
        known_at(pa.array(["x"]), "t")


@pytest.mark.parametrize(
    "far",
    [
        np.array(["294247-01-01", "400000-01-01"], "M8[s]"),
        pa.array([2**50], pa.timestamp("s")),
        np.array([2**40], "M8[D]"),
    ],
)
def test_as_micros_refuses_what_would_wrap(far: object) -> None:
    with pytest.raises(SchemaError, match="times: a time so far"):
        as_micros(far, "times")
