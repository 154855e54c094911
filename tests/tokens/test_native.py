"""The compiled loops against NumPy's, and how they come to be."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.fixtures.patience import HANG_S
from tests.fixtures.store_oracle import DAY
from tests.fixtures.stores import DIM, make
from tokenlake.storage import native_ops
from tokenlake.storage.native import library
from tokenlake.times import day_of
from tokenlake.tokens import query_native, segment, view
from tokenlake.tokens.store import TokenStore

ANY = st.integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max)
KEYS = arrays(np.int64, st.integers(1, 60), elements=ANY | st.integers(-3, 3))


@pytest.fixture(autouse=True)
def _compiled() -> None:
    if library() is None:
        pytest.skip("no C compiler here; NumPy does the same, which every other test shows")


@given(KEYS)
def test_order_is_stable(users: np.ndarray) -> None:
    few, native_ops._FEW = native_ops._FEW, 0
    try:
        times = np.random.default_rng(len(users)).permutation(users // 2)
        assert (native_ops.sort_order(users, times) == np.lexsort((times, native_ops.hash64(users)))).all()
    finally:
        native_ops._FEW = few


def test_order_of_many() -> None:
    rng = np.random.default_rng(0)
    users, times = rng.integers(0, 500, 100_000), rng.integers(-9, 9, 100_000) << rng.integers(0, 50, 100_000)
    assert (native_ops.sort_order(users, times) == np.lexsort((times, native_ops.hash64(users)))).all()


@pytest.mark.parametrize("shape", [(), (3,), (64,)])
@pytest.mark.parametrize("dtype", ["bool", "int8", "float16", "int64"])
def test_take(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    column = rng.integers(0, 2, (9000, *shape)).astype(dtype)
    index = rng.integers(0, 9000, 5000)
    assert (native_ops.take(column, index) == column[index]).all()
    assert (native_ops.take(column[::2], index // 2) == column[::2][index // 2]).all()


def test_move() -> None:
    rng = np.random.default_rng(0)
    column = rng.integers(-9, 9, (70_000, 3))
    count = rng.integers(0, 9, 6000)
    start = rng.integers(0, 69_000, 6000)
    place = (np.cumsum(count) - count)[::-1].copy()
    count = np.minimum(count, count[::-1])
    out, expected = np.zeros_like(column), np.zeros_like(column)
    native_ops.copy_ranges(column, out, start, place, count)
    for a, b, n in zip(start, place, count, strict=True):
        expected[b : b + n] = column[a : a + n]
    assert (out == expected).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite(dtype: str, bad: float) -> None:
    values = np.full((100, 64), np.finfo(dtype).max, dtype)
    assert native_ops.all_finite(values)
    assert native_ops.all_finite(-values)
    values[99, 63] = bad
    assert not native_ops.all_finite(values)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_many_queries_on_threads(
    tmp_path: Path, dtype: str, *, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "SEGMENT_ROWS", 900)
    if streamed:
        monkeypatch.setattr(query_native, "LARGE_BYTES", 0)
    rng = np.random.default_rng(1)
    store = make(tmp_path / "s", dtype)

    def rows(day: int, n: int) -> dict[str, object]:
        times = day * DAY + rng.integers(0, DAY, n)
        side = {"event": np.arange(n), "clicked": rng.integers(0, 2, n)}
        known = {"clicked": times + rng.integers(0, 2 * DAY, n)}
        return {"users": rng.integers(0, 80, n), "timestamps": times, "tokens": rng.standard_normal((n, DIM)),
                "side": side, "known_at": known}  # fmt: skip

    for day in range(6):
        store.write_day(day_of(day * DAY), **rows(day, 3000))
    for day in (2, 4, 6):
        store.append(**rows(day, 500))
    users, before = rng.integers(-5, 90, 5000), rng.integers(0, 8 * DAY, 5000)
    for available in ("realtime", "daily"):
        fast = TokenStore.open(store.path).fetch(users, before=before, length=300, available=available)  # type: ignore[arg-type]  # both
        with monkeypatch.context() as patch:
            patch.setattr(view, "library", lambda: None)
            plain = TokenStore.open(store.path).fetch(users, before=before, length=300, available=available)  # type: ignore[arg-type]  # both
        for name in ("offsets", "values", "timestamps", "scales"):
            assert np.array_equal(getattr(fast, name), getattr(plain, name)), name
        for name in ("event", "clicked"):
            assert np.array_equal(fast.side[name], plain.side[name])
        assert np.array_equal(fast.known["clicked"], plain.known["clicked"])


PROBE = """
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    from tokenlake.storage.native import library
    print(library() is not None, library() is not None, len(seen), *(w.message for w in seen))
"""


def test_without_a_compiler_it_warns_once(tmp_path: Path) -> None:
    environment = {**os.environ, "TOKENLAKE_CACHE": str(tmp_path), "CC": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=HANG_S
    )
    assert done.stdout.startswith("False False 1 NumPy does the work of storage/native.c"), done.stderr


@pytest.mark.parametrize("compiled", [True, False])
def test_every_half_is_widened_as_numpy_does(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native_ops, "library", lambda: None)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wide = native_ops.widen(halves.reshape(-1, 2)[::-1])
    assert wide.view(np.uint32).tolist() == halves.astype(np.float32).reshape(-1, 2)[::-1].view(np.uint32).tolist()
    room = np.zeros(1 + 4 * len(halves) + 3, np.uint8)
    for out in (room, room[1:]):  # aligned, and not
        native_ops.float32_writer(halves.reshape(-1, 2), out)(100, 30_000)
        assert out[: 8 * 29_900].tobytes() == halves[200:60_000].astype(np.float32).tobytes()
        assert not out[8 * 29_900 :].any()


@pytest.mark.parametrize("compiled", [True, False])
def test_what_a_widener_reads_lives_as_long_as_it_does(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native_ops, "library", lambda: None)
    values, out = np.ones((4, 2), np.float16), np.zeros(32, np.uint8)
    kept = [weakref.ref(array) for array in (values, out)]
    widen = native_ops.float32_writer(values, out)
    del values, out
    assert all(array() is not None for array in kept)
    del widen
    assert not any(array() is not None for array in kept)


@given(st.lists(st.binary(max_size=20)), st.integers(0, 3))
def test_digests(pieces: list[bytes], skipped: int) -> None:
    ends = np.cumsum([skipped, *map(len, pieces)])
    data = np.frombuffer(b"abc"[:skipped] + b"".join(pieces), np.uint8)
    wanted = []
    for piece in pieces:
        state = len(piece)
        for word in np.frombuffer(piece + bytes(-len(piece) % 8), "<i8"):
            state = int(native_ops.hash64(np.array([state ^ int(word)], np.int64)).view(np.int64)[0])
        wanted.append(state % (1 << 64))
    assert native_ops.hash_bytes(data, ends).tolist() == wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_ops, "library", lambda: None)
        assert native_ops.hash_bytes(data, ends).tolist() == wanted


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (7, 3), (3000, 512)])
def test_rows_behind_a_head(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    wanted = b"".join(b"head" + row.tobytes() for row in rows)
    assert native_ops.prepend(b"head", rows).tobytes() == wanted
    monkeypatch.setattr(native_ops, "library", lambda: None)
    assert native_ops.prepend(b"head", rows).tobytes() == wanted
