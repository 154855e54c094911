from __future__ import annotations

import dataclasses
import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenlake_models.calibration import Isotonic, Platt, fit_isotonic, fit_mixture, fit_platt, logit, mix
from tokenlake_models.errors import ModelError

SCORES = [0.0, 0.01, 0.3, 0.5, 0.51, 0.9, 1.0]
ROWS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(SCORES)), max_size=30)


def columns(rows):
    return np.array([y for y, _ in rows], int), np.array([p for _, p in rows], float)


def log_loss(y, p):
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum()


def drawn(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return (rng.random(n) < 1 / (1 + np.exp(-x))).astype(int), x


def test_platt_finds_the_line_that_was_distorted():
    y, x = drawn(20_000)
    found = fit_platt(y, 1 / (1 + np.exp(-(2 * x + 1))))
    assert (found.slope, found.intercept) == pytest.approx((0.5, -0.5), abs=0.05)


@given(ROWS)
def test_platt_has_the_least_penalised_loss_of_all_lines_near_it(rows):
    y, p = columns(rows)
    found = fit_platt(y, p)

    def loss(slope, intercept):
        return log_loss(y, Platt(slope, intercept).apply(p)) + ((slope - 1) ** 2 + intercept**2) / 2

    best = loss(found.slope, found.intercept)
    for ds, di in product((-0.1, 0, 0.1), repeat=2):
        assert best <= loss(found.slope + ds, found.intercept + di) + 1e-9


def slow_isotonic(y, p):
    """max over starts of min over ends of the mean label, of rows with one more positive and one more negative."""
    y, p = np.append(y, [1, 0]), np.append(p, [p.min(), p.max()])
    levels = np.unique(p)

    def mean(a, b):
        return y[(p >= a) & (p <= b)].mean()

    return [max(min(mean(a, b) for b in levels if b >= s) for a in levels if a <= s) for s in levels], levels


@given(ROWS.filter(len))
def test_isotonic_is_the_least_squares_curve_of_the_max_min_formula(rows):
    y, p = columns(rows)
    values, levels = slow_isotonic(y, p)
    found = fit_isotonic(y, p)
    np.testing.assert_allclose(found.apply(levels), values, atol=1e-12)
    assert all(0 < value < 1 for value in found.values)
    assert list(found.scores) == sorted(set(found.scores))
    assert list(found.values) == sorted(found.values)


def test_isotonic_is_level_outside_the_scores_it_was_fitted_on():
    found = fit_isotonic(np.array([0, 1, 1, 0]), np.array([0.2, 0.4, 0.6, 0.3]))
    assert found.apply(np.array([0.0, 1.0])).tolist() == [found.values[0], found.values[-1]]


def test_isotonic_mends_a_curve_that_no_line_mends():
    y, x = drawn(20_000)
    bent = (1 / (1 + np.exp(-x))) ** 3
    held_out, x = drawn(20_000, seed=1)
    raw = (1 / (1 + np.exp(-x))) ** 3
    mended = fit_isotonic(y, bent).apply(raw)
    assert log_loss(held_out, mended) < 0.9 * log_loss(held_out, raw)
    assert log_loss(held_out, mended) < 1.01 * log_loss(held_out, 1 / (1 + np.exp(-x)))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), *[st.sampled_from(SCORES[1:-1])] * 3), max_size=25))
def test_mixture_is_no_worse_than_any_weights_of_a_grid(rows):
    y = np.array([row[0] for row in rows], int)
    p = np.array([row[1:] for row in rows], float).reshape(-1, 3)
    weights = fit_mixture(y, p)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    best = log_loss(y, mix(p, weights))
    for a, b in product(range(11), repeat=2):
        if a + b <= 10:
            assert best <= log_loss(y, mix(p, np.array([a, b, 10 - a - b]) / 10)) + 1e-6


def test_mixture_leaves_a_member_out_that_knows_nothing():
    y, x = drawn()
    p = np.stack([1 / (1 + np.exp(-x)), np.random.default_rng(1).random(len(x))], axis=1)
    weights = fit_mixture(y, p)
    assert weights[0] > 0.95


def test_mixture_of_two_noisy_members_beats_both():
    y, x = drawn()
    rng = np.random.default_rng(2)
    p = 1 / (1 + np.exp(-np.stack([x + rng.normal(size=len(x)) for _ in range(2)], axis=1)))
    both = log_loss(y, mix(p, fit_mixture(y, p)))
    assert both < min(log_loss(y, p[:, 0]), log_loss(y, p[:, 1]))


def test_no_rows_change_nothing():
    none = np.zeros(0)
    assert fit_platt(none, none) == Platt(1.0, 0.0)
    assert fit_isotonic(none, none) == Isotonic()
    assert fit_mixture(none, np.zeros((0, 4))).tolist() == [0.25] * 4


def test_rows_of_one_class_and_of_one_score_are_enough():
    assert 0.5 < fit_platt(np.ones(50, int), np.full(50, 0.5)).apply(np.array([0.5]))[0] < 1
    assert fit_isotonic(np.ones(8, int), np.full(8, 0.5)).apply(np.array([0.1])).tolist() == [0.9]
    assert fit_mixture(np.ones(8, int), np.full((8, 2), 0.5)).tolist() == [0.5, 0.5]


def test_corrections_write_down_as_json():
    y, x = drawn(200)
    p = 1 / (1 + np.exp(-x))
    for found in (fit_platt(y, p), fit_isotonic(y, p)):
        back = json.loads(json.dumps(dataclasses.asdict(found)))
        same = type(found)(**{k: tuple(v) if isinstance(v, list) else v for k, v in back.items()})
        assert same == found


def test_corrections_keep_the_shape():
    assert Platt(2.0, 0.0).apply(np.full((3, 2), 0.5)).tolist() == [[0.5, 0.5]] * 3
    assert Isotonic().apply(np.full((3, 2), 0.25)).tolist() == [[0.25, 0.25]] * 3


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.5], "2 labels, 1 predictions"),
        ([0, 2], [0.5, 0.5], r"labels are 0 or 1, got \[2"),
        ([0, 1], [0.5, 1.5], r"in \[0, 1\], got \[1.5\]"),
        ([0, 1], [0.5, np.nan], r"in \[0, 1\], got \[nan\]"),
    ],
)
def test_wrong_inputs_are_named(labels, probabilities, message):
    for fit in (fit_platt, fit_isotonic):
        with pytest.raises(ModelError, match=message):
            fit(np.array(labels), np.array(probabilities))
    with pytest.raises(ModelError, match=message):
        fit_mixture(np.array(labels), np.array(probabilities)[:, None])


def test_a_mixture_needs_members():
    with pytest.raises(ModelError, match=r"\(rows, members\), got the shape \(2,\)"):
        fit_mixture(np.array([0, 1]), np.array([0.5, 0.5]))


def test_logit_of_certain_predictions_is_finite():
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
