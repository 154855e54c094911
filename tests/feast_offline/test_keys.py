"""Which rows have the keys that are asked for: against a dictionary, and against equality in Python."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlake.feast.offline.keys import JoinKeys, aligned

KINDS = [pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64()]


@given(st.data(), st.sampled_from(KINDS), st.booleans())
def test_integers_near_and_far(data: st.DataObject, kind: pa.DataType, together: bool) -> None:
    bounds = np.iinfo(kind.to_pandas_dtype())
    anywhere = st.integers(int(bounds.min), int(bounds.max))
    ends = st.sampled_from([int(bounds.min), int(bounds.max), 0, 1])
    start = data.draw(anywhere)
    near = st.integers(start, min(start + 100, int(bounds.max)))
    asked = data.draw(st.lists(near if together else anywhere, max_size=8))
    rows = data.draw(st.lists(st.one_of(near, ends, anywhere, st.none()), max_size=20))
    if not data.draw(st.booleans()):
        rows = [row for row in rows if row is not None]
    first = list(dict.fromkeys(asked))
    keys = JoinKeys([pa.array(asked, kind)], len(asked))
    assert keys.queries.tolist() == [first.index(key) for key in asked]
    expected = [first.index(row) if row in first else -1 for row in rows]
    assert keys.codes([pa.array(rows, kind)], len(rows)).tolist() == expected


@pytest.mark.parametrize("low", [-(2**63), -5, 0, 2**63 - 100])
def test_a_table_is_used_and_wraps_nowhere(low: int) -> None:
    keys = JoinKeys([pa.array(range(low, low + 100), pa.int64())], 100)
    assert keys._tables[0] is not None  # what is tested: the answer would be the same without a table
    others = np.array([-(2**63), -(2**63) + 99, -6, -5, -1, 0, 99, 100, 2**63 - 101, 2**63 - 1], np.int64)
    expected = [value - low if low <= value < low + 100 else -1 for value in others.tolist()]
    assert keys.codes([pa.array(others)], len(others)).tolist() == expected


NUMBERS = [pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(38, 2), pa.decimal256(60, 4)]
NUMBERS += [pa.dictionary(pa.int8(), kind) for kind in (pa.int64(), pa.float64())]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
QUARTERS = st.one_of(
    st.integers(-9, 9).map(lambda n: Fraction(n, 4)),
    st.sampled_from([127, 128, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 10**30]).map(Fraction),
)


def column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Those of the values that the type holds exactly, as a column of it; null for the others."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    array = pa.array(
        [None if value is None or value != told(value, plain) else told(value, plain) for value in values], plain
    )
    return array.dictionary_encode() if pa.types.is_dictionary(kind) else array


def told(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, str):
        return value
    if pa.types.is_decimal(kind):
        return Decimal(value.numerator) / value.denominator
    if pa.types.is_floating(kind):
        return float(np.float32(value) if kind == pa.float32() else float(value))
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(value) if limits.min <= value <= limits.max else None


@given(st.data(), st.sampled_from(NUMBERS), st.sampled_from(NUMBERS))
def test_numbers_match_where_they_are_equal(data: st.DataObject, asked_kind: pa.DataType, kind: pa.DataType) -> None:
    values = st.lists(st.none() | QUARTERS, max_size=6)
    asked, rows = column(data.draw(values), asked_kind), column(data.draw(values), kind)
    keys = JoinKeys([aligned(asked, kind)], len(asked))
    codes = keys.codes([rows], len(rows))
    for i, left in enumerate(asked.to_pylist()):
        for j, right in enumerate(rows.to_pylist()):
            equal = left is not None and right is not None and Fraction(left) == Fraction(right)
            # Of integers that no float can tell apart, floats have none.
            beyond = any(isinstance(n, float) and abs(n) > 2**53 for n in (left, right)) and asked_kind != kind
            if not (beyond and equal):
                assert (keys.queries[i] >= 0 and keys.queries[i] == codes[j]) == equal, (left, right)


@given(st.data(), st.sampled_from(TEXTS), st.sampled_from(TEXTS))
def test_texts_match_to_the_last_character(data: st.DataObject, asked_kind: pa.DataType, kind: pa.DataType) -> None:
    values = st.lists(st.none() | st.sampled_from(["a", "a\0", "a ", "A", "", "\0"]), max_size=6)
    asked, rows = column(data.draw(values), asked_kind), column(data.draw(values), kind)
    keys = JoinKeys([aligned(asked, kind)], len(asked))
    codes = keys.codes([rows], len(rows))
    for i, left in enumerate(asked.to_pylist()):
        for j, right in enumerate(rows.to_pylist()):
            assert (keys.queries[i] >= 0 and keys.queries[i] == codes[j]) == (left is not None and left == right)


MIDNIGHT, FAR = map(dt.datetime.fromisoformat, ("2024-01-01", "9999-01-01"))


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (pa.array(["1"]), pa.int64(), [None]),
        (pa.array([1]), pa.string(), [None]),
        (pa.array([True]), pa.int64(), [None]),
        (pa.array([float("nan"), 1.0]), pa.float64(), [None, 1.0]),
        (pa.array([MIDNIGHT, MIDNIGHT + dt.timedelta(hours=1)]), pa.date32(), [MIDNIGHT.date(), None]),
        (pa.array([FAR, MIDNIGHT]), pa.timestamp("ns"), [None, MIDNIGHT]),
        (pa.array([1], pa.timestamp("ns")), pa.timestamp("us", "UTC"), [None]),
    ],
    ids=str,
)
def test_what_no_row_can_equal_is_nobody(given: pa.Array, kind: pa.DataType, expected: list[Any]) -> None:
    found = aligned(given, kind)
    assert found.type == kind
    assert found.to_pylist() == expected
