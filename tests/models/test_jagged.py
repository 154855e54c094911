from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlake_models.jagged import offsets_of, ranges, row_numbers, take_rows

LENGTHS = st.lists(st.integers(0, 5), max_size=8)


def ints(values):
    return torch.tensor(values, dtype=torch.int64)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=8))
def test_ranges(pairs):
    starts, lengths = ints([s for s, _ in pairs]), ints([n for _, n in pairs])
    assert ranges(starts, lengths).tolist() == [i for s, n in pairs for i in range(s, s + n)]


@given(LENGTHS)
def test_offsets_and_rows(lengths):
    offsets = offsets_of(ints(lengths))
    assert offsets.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert row_numbers(offsets).tolist() == [row for row, n in enumerate(lengths) for _ in range(n)]


@given(LENGTHS, st.data())
def test_take_rows(lengths, data):
    rows = [[10 * i + j for j in range(n)] for i, n in enumerate(lengths)]
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    values, offsets = take_rows(ints([v for row in rows for v in row]), offsets_of(ints(lengths)), ints(index))
    assert [values[a:b].tolist() for a, b in itertools.pairwise(offsets)] == [rows[i] for i in index]
