"""Searches and extremes in ranges, against Python's own; in C and in NumPy."""

from __future__ import annotations

import bisect

import numpy as np
import pytest

from tokenlake.features.aggregations import ranges


@pytest.fixture(params=["compiled", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(ranges, "library", lambda: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("n", [0, 5, 3_000])
def test_lower_bound(n: int) -> None:
    rng = np.random.default_rng(n)
    ends = np.sort(rng.integers(0, 2_000, (n, 2)), axis=1)
    values = np.concatenate([np.sort(rng.integers(-50, 50, 40)) for _ in range(50)]).astype(np.int64)
    start, stop = np.minimum(ends[:, 0], ends[:, 1] // 40 * 40 + 0), ends[:, 1]
    start = np.maximum(start, stop // 40 * 40)
    targets = rng.integers(-60, 60, n)
    found = ranges.lower_bound(values, start, stop, targets)
    listed = values.tolist()
    assert found.tolist() == [
        bisect.bisect_left(listed, t, a, b)
        for a, b, t in zip(start.tolist(), stop.tolist(), targets.tolist(), strict=True)
    ]


@pytest.mark.parametrize("least", [True, False])
@pytest.mark.parametrize("n", [1, 64, 65, 10_000])
def test_extremes(n: int, *, least: bool) -> None:
    rng = np.random.default_rng(n)
    values = rng.integers(-(10**9), 10**9, n)
    start, stop = np.sort(rng.integers(0, n + 1, (500, 2)), axis=1).T
    extreme, plain, nothing = (np.minimum, min, 2**62) if least else (np.maximum, max, -(2**62))
    found = ranges.extremes([values, *ranges.blocks(values, extreme)], start, stop, extreme, nothing)
    assert found.tolist() == [
        plain(values[a:b].tolist()) if a < b else nothing for a, b in zip(start.tolist(), stop.tolist(), strict=True)
    ]
