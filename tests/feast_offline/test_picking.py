"""Rows of a column in any order, against Arrow's own `take`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.select import pick

_TYPES = (
    pa.list_(pa.float32()),
    pa.large_list(pa.float64()),
    pa.list_(pa.field("numbers", pa.int8(), nullable=False)),
    pa.list_(pa.timestamp("us", "UTC")),
    pa.list_(pa.bool_()),
    pa.list_(pa.string()),
    pa.list_(pa.list_(pa.float32())),
    pa.list_(pa.float32(), 3),
    pa.float64(),
    pa.string(),
)


def _value(kind: pa.DataType, number: int) -> object:
    if pa.types.is_fixed_size_list(kind):
        return [_value(kind.value_type, number)] * kind.list_size
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [_value(kind.value_type, number + i) for i in range(number % 4)]
    if pa.types.is_boolean(kind):
        return bool(number % 2)
    return str(number) if pa.types.is_string(kind) else number


@st.composite
def _columns(draw: st.DrawFn) -> tuple[pa.ChunkedArray, np.ndarray]:
    kind = draw(st.sampled_from(_TYPES))
    sizes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    gaps = draw(st.sampled_from([0, 2, 3]))
    inner = draw(st.booleans()) and pa.types.is_list(kind) and kind.value_field.nullable
    chunks, number = [], 0
    for size in sizes:
        values: list[object] = []
        for _ in range(size + 2):
            number += 1
            values.append(None if gaps and number % gaps == 0 else _value(kind, number))
            if inner and isinstance(values[-1], list) and values[-1]:
                values[-1][0] = None
        chunks.append(pa.array(values, kind).slice(1, size))  # a part of longer buffers, as of a file's batch
    total = sum(sizes)
    rows = draw(st.lists(st.integers(-1, total - 1), max_size=20))
    return pa.chunked_array(chunks, kind), np.array(rows, np.int64)


@given(_columns())
def test_rows_are_those_that_arrow_takes(given: tuple[pa.ChunkedArray, np.ndarray]) -> None:
    column, rows = given
    picked = pick(column, rows)
    picked.validate(full=True)
    assert picked.type == column.type
    assert picked.equals(
        pa.chunked_array([column.combine_chunks().take(pa.array(rows, mask=rows < 0))]).combine_chunks()
    )


def test_many_rows_go_through_the_native_loop() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.standard_normal(rng.integers(0, 40)).astype(np.float32) for _ in range(2000)]
    column = pa.chunked_array([pa.array(lists[:900]), pa.array(lists[900:])])
    rows = rng.integers(-1, 2000, 5000)
    assert pick(column, rows).equals(column.combine_chunks().take(pa.array(rows, mask=rows < 0)))


def test_more_numbers_than_a_list_column_holds_are_refused_in_words() -> None:
    column = pa.chunked_array([pa.array([np.zeros(1 << 20, np.int8)])])
    with pytest.raises(SchemaError, match=r"2,147,483,648 numbers, a list<.*> at most 2,147,483,647; ask for fewer"):
        pick(column, np.zeros(2048, np.int64))
