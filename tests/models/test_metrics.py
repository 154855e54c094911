from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlake_models import metrics
from tokenlake_models.errors import ModelError

ROWS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.integers(0, 3)), max_size=25)


def arrays(rows):
    y, p, u = (np.array([row[i] for row in rows]) for i in range(3))
    return y, p.astype(float), u


def slow_auc(y, p):
    pairs = [
        (a > b) + 0.5 * (a == b) for a, up in zip(p, y, strict=True) if up for b, u in zip(p, y, strict=True) if not u
    ]
    return sum(pairs) / len(pairs) if pairs else None


def slow_gauc(y, p, u):
    own = {user: (slow_auc(y[u == user], p[u == user]), (u == user).sum()) for user in set(u.tolist())}
    there = [(a, n) for a, n in own.values() if a is not None]
    return sum(a * n for a, n in there) / sum(n for _, n in there) if there else None


def slow_log_loss(y, p):
    return -sum(math.log(b if a else 1 - b) for a, b in zip(y, p, strict=True)) / len(y) if len(y) else None


def close(a, b):
    return (a is None and b is None) or (a is not None and b is not None and abs(a - b) < 1e-9)


@given(ROWS)
def test_against_the_slow_ones(rows):
    y, p, u = arrays(rows)
    assert close(metrics.auc(y, p), slow_auc(y, p))
    assert close(metrics.gauc(y, p, u), slow_gauc(y, p, u))
    assert close(metrics.log_loss(y, p), slow_log_loss(y, p))
    assert close(metrics.calibration(y, p), p.mean() / y.mean() if y.any() else None)
    if 0 < y.sum() < len(y):
        base = np.full(len(y), y.mean())
        assert close(metrics.ne(y, p), slow_log_loss(y, p) / slow_log_loss(y, base))
    else:
        assert metrics.ne(y, p) is None


@given(
    ROWS,
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.sampled_from(["auc", "gauc", "ne", "log_loss", "calibration"]),
)
def test_a_resample_is_the_metric_of_the_drawn_rows(rows, weights, name):
    y, p, u = arrays(rows)
    if not len(y):
        return
    codes = np.unique(u, return_inverse=True)[1]
    weights = np.array(weights[: codes.max() + 1])
    drawn = np.repeat(np.arange(len(y)), weights[codes])
    # A user drawn twice is two users.
    times = np.concatenate([np.arange(weights[c]) for c in codes]) if len(codes) else codes
    direct = (
        metrics.gauc(y[drawn], p[drawn], u[drawn] * 10 + times)
        if name == "gauc"
        else getattr(metrics, name)(y[drawn], p[drawn])
    )
    ours = metrics._METRICS[name](y.astype(bool), p, codes)(weights.astype(float))
    assert close(ours, direct)


def test_intervals():
    rng = np.random.default_rng(0)
    u = rng.integers(0, 300, 5000).astype(str)
    y = rng.random(5000) < 0.3
    p = np.clip(0.3 + 0.1 * y + rng.normal(size=5000) * 0.1, 0.01, 0.99)
    got = metrics.user_bootstrap("auc", y, p, u, resamples=100)
    assert got is not None
    assert got.low < got.value < got.high < got.low + 0.06
    assert got == metrics.user_bootstrap("auc", y, p, u, resamples=100)


def test_the_interval_of_a_difference():
    """Resampled together, two models are told apart long before their own intervals are; a model less itself is 0."""
    rng = np.random.default_rng(1)
    u = rng.integers(0, 300, 5000)
    y = rng.random(5000) < 0.3
    p = np.clip(0.3 + 0.1 * y + rng.normal(size=5000) * 0.1, 0.01, 0.99)
    q = np.clip(p + rng.normal(size=5000) * 0.03, 0.01, 0.99)
    for metric in ("auc", "ne", "gauc", "log_loss", "calibration"):
        got = metrics.user_bootstrap_difference(metric, y, p, q, u, resamples=50)
        one, other = (metrics.user_bootstrap(metric, y, x, u, resamples=50) for x in (p, q))
        assert got is not None
        assert one is not None
        assert other is not None
        assert got.value == pytest.approx(one.value - other.value)
        assert got.low <= got.value <= got.high
        assert metrics.user_bootstrap_difference(metric, y, p, p, u) == metrics.Interval(0.0, 0.0, 0.0)
    auc = metrics.user_bootstrap_difference("auc", y, p, q, u)
    assert auc is not None
    assert auc.low > 0


def test_without_a_value():
    zero = np.zeros(3)
    assert metrics.user_bootstrap_difference("auc", zero, zero, zero, zero) is None
    one = np.ones(3)
    assert metrics.user_bootstrap("auc", one, one / 2, one) is None
    assert metrics.auc(one[:0], one[:0]) is None


def test_refuses():
    with pytest.raises(ModelError, match="as many of each"):
        metrics.auc(np.ones(2), np.ones(3))
    with pytest.raises(ModelError, match="labels are 0 or 1, got \\[2"):
        metrics.auc(np.array([2, 1]), np.ones(2))
    with pytest.raises(ModelError, match="row 1"):
        metrics.auc(np.array([0, 1]), np.array([0.5, np.nan]))


@pytest.mark.parametrize("metric", ["auc", "gauc", "log_loss", "ne", "calibration"])
def test_scores_of_several_models_give_the_mean_of_their_metrics(metric):
    rng = np.random.default_rng(0)
    y, u, against = rng.integers(0, 2, 60), rng.integers(0, 6, 60), rng.random(60)
    models = rng.random((3, 60))
    each = [metrics.user_bootstrap(metric, y, of_one, u, resamples=1) for of_one in models]
    mean = metrics.user_bootstrap(metric, y, models, u, resamples=1)
    for part in ("value", "low", "high"):
        assert getattr(mean, part) == pytest.approx(np.mean([getattr(one, part) for one in each]))
    less = metrics.user_bootstrap_difference(metric, y, models, against, u, resamples=20)
    assert less.value == pytest.approx(mean.value - metrics.user_bootstrap(metric, y, against, u).value)


def test_scores_of_no_model_are_refused():
    with pytest.raises(ModelError, match="scores of no model"):
        metrics.log_loss(np.array([0, 1]), np.zeros((0, 2)))
