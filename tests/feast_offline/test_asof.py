"""The point-in-time join against a loop that anyone can read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenlake.feast.offline import asof
from tokenlake.feast.offline.asof import AsOf
from tokenlake.feast.offline.keys import JoinKeys
from tokenlake.times import EARLIEST

Row = tuple[int, int, int]
_times = st.one_of(st.just(EARLIEST), st.integers(-3, 6))
_rows = st.lists(st.tuples(st.integers(-1, 3), _times, _times), max_size=30)
_questions = st.lists(st.tuples(st.integers(-1, 3), _times), max_size=12)


def slowly(
    questions: list[tuple[int, int]], rows: list[Row], ttl: int | None, *, strict: bool, known: bool
) -> list[int]:
    found = []
    for key, at in questions:
        best = (-1, -1, -1)
        seen = []
        for number, (other, time, made) in enumerate(rows):
            if key < 0 or EARLIEST in (at, time) or key != other:
                continue
            from_ = time if not known else max(time, made)
            if (known and made == EARLIEST) or from_ > at or (strict and from_ == at):
                continue
            if ttl is None or time >= at - ttl:
                seen.append((time, made, number))
        best = max(seen, default=(-1, -1, -1))
        found.append(best[2])
    return found


@pytest.mark.parametrize("native", [True, False])
@settings(deadline=None, max_examples=300)
@given(_questions, _rows, st.sampled_from([None, 0, 2]), st.booleans(), st.booleans(), st.integers(1, 9))
def test_finds_what_a_loop_finds(
    native: bool,
    questions: list[tuple[int, int]],
    rows: list[Row],
    ttl: int | None,
    strict: bool,
    known: bool,
    cut: int,
) -> None:
    if native and asof.native_library() is None:
        pytest.skip("no C compiler")
    codes, times = (np.array([q[i] for q in questions], dtype) for i, dtype in enumerate((np.int32, np.int64)))
    state = AsOf(codes, times, 4, strict=strict, known=known)
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(asof, "native_library", lambda: None)
        for start in reversed(range(0, len(rows), cut)):  # in any order
            part = rows[start : start + cut]
            key, time, made = (np.array([r[i] for r in part], np.int64) for i in range(3))
            state.feed(key.astype(np.int32), time, made, start)
        found = state.finish(ttl)
    assert found.tolist() == slowly(questions, rows, ttl, strict=strict, known=known)


_key = st.one_of(st.none(), st.integers(0, 3))
_word = st.one_of(st.none(), st.sampled_from(["", "a", "b", "ab"]))


@given(st.lists(st.tuples(_key, _word, _key)), st.lists(st.tuples(_key, _word, _key)), st.integers(0, 3), st.booleans())
def test_keys_are_equal_when_all_columns_are(
    asked: list[tuple[int | None, str | None, int | None]],
    rows: list[tuple[int | None, str | None, int | None]],
    width: int,
    encoded: bool,
) -> None:
    kinds = [pa.int64(), pa.string(), pa.int32()]

    def columns(of: list[tuple[int | None, str | None, int | None]]) -> list[pa.Array]:
        return [pa.array([row[i] for row in of], kinds[i]) for i in range(width)]

    keys = JoinKeys(columns(asked), len(asked))
    given = [c.dictionary_encode() if encoded else c for c in columns(rows)]
    codes = keys.codes(given, len(rows))
    assert set(keys.queries.tolist()) <= set(range(-1, keys.count))
    for row, code in zip(rows, codes.tolist(), strict=True):
        for question, want in zip(asked, keys.queries.tolist(), strict=True):
            if None in question[:width]:
                assert want == -1
            else:
                assert (code == want) == (row[:width] == question[:width])
