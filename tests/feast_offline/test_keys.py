"""Positions of integer keys by value, against a dictionary."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlake.feast.offline.keys import Keys

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
    keys = Keys([pa.array(asked, kind)], len(asked))
    assert keys.asked.tolist() == [first.index(key) for key in asked]
    expected = [first.index(row) if row in first else -1 for row in rows]
    assert keys.codes([pa.array(rows, kind)], len(rows)).tolist() == expected


@pytest.mark.parametrize("low", [-(2**63), -5, 0, 2**63 - 100])
def test_a_table_is_used_and_wraps_nowhere(low: int) -> None:
    keys = Keys([pa.array(range(low, low + 100), pa.int64())], 100)
    assert keys._tables[0] is not None
    others = np.array([-(2**63), -(2**63) + 99, -6, -5, -1, 0, 99, 100, 2**63 - 101, 2**63 - 1], np.int64)
    expected = [value - low if low <= value < low + 100 else -1 for value in others.tolist()]
    assert keys.codes([pa.array(others)], len(others)).tolist() == expected
