"""Metrics of binary predictions, and their intervals by resampling users. NumPy only.

A metric is None where it is undefined: no rows, or a single class where both are needed.

Inputs are `(n,)` labels (0 or 1), scores (probabilities, or any scores for metrics of the order), and user ids. Scores of
k models, `(k, n)`, such as those of several seeds, give the mean of the k metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenlake_models.errors import ModelError

Array: TypeAlias = NDArray[Any]
MetricName = Literal["auc", "gauc", "log_loss", "ne", "calibration"]
#: Maps the number of draws of each user, `(U,)`, to the metric of that sample.
_Resampled: TypeAlias = Callable[[NDArray[np.float64]], float | None]
_CLIP = 1e-7


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric (or a difference of two) with its interval from resampled users.

    Attributes:
        value: on all rows.
        low: lower bound.
        high: upper bound.
    """

    value: float
    low: float
    high: float


def auc(labels: Array, scores: Array) -> float | None:
    """Probability that a random positive scores above a random negative; a tie counts half."""
    return _whole("auc", labels, scores)


def gauc(labels: Array, scores: Array, users: Array) -> float | None:
    """Mean of the users' own AUC, weighted by their rows, over users who have both classes."""
    return _whole("gauc", labels, scores, users)


def log_loss(labels: Array, scores: Array) -> float | None:
    """Mean of `-log p(label)`, in nats; probabilities are clipped to [1e-7, 1 - 1e-7]."""
    return _whole("log_loss", labels, scores)


def ne(labels: Array, scores: Array) -> float | None:
    """Normalised entropy: log loss over the entropy of the base rate; below 1 is better than the base rate."""
    return _whole("ne", labels, scores)


def calibration(labels: Array, scores: Array) -> float | None:
    """Mean prediction divided by mean label; 1 is right, above 1 the predictions are too high."""
    return _whole("calibration", labels, scores)


def user_bootstrap(
    metric: MetricName,
    labels: Array,
    scores: Array,
    users: Array,
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """A metric with its percentile interval; users are drawn with replacement, with all their rows.

    Args:
        metric: name of the metric.
        labels: `(n,)`.
        scores: `(n,)` or `(k, n)`.
        users: `(n,)` integers or strings.
        resamples: number of draws; draws without a value are left out.
        level: share of the draws inside the interval.
        seed: of the draws.

    Returns:
        The interval; None where the metric is None.
    """
    value, drawn = _resampled(metric, labels, scores, users)
    return _interval(value, drawn, resamples, level, seed)


def user_bootstrap_difference(
    metric: MetricName,
    labels: Array,
    scores: Array,
    against: Array,
    users: Array,
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """A metric of `scores` less that of `against` on the same rows; both are resampled by the same draws of users.

    Args:
        metric: name of the metric.
        labels: `(n,)`.
        scores: `(n,)` or `(k, n)`.
        against: `(n,)` or `(k, n)`.
        users: `(n,)` integers or strings.
        resamples: number of draws; draws without a value are left out.
        level: share of the draws inside the interval.
        seed: of the draws.

    Returns:
        The interval; None where the metric is None.
    """
    (one, drawn), (other, _) = (_resampled(metric, labels, of, users) for of in (scores, against))

    def difference(weights: NDArray[np.float64]) -> float | None:
        mine, theirs = one(weights), other(weights)
        return None if mine is None or theirs is None else mine - theirs

    return _interval(difference, drawn, resamples, level, seed)


def _whole(metric: MetricName, labels: Array, scores: Array, users: Array | None = None) -> float | None:
    of_all, drawn = _resampled(metric, labels, scores, np.zeros(len(labels), np.int64) if users is None else users)
    return of_all(np.ones(drawn))


def _resampled(metric: MetricName, labels: Array, scores: Array, users: Array) -> tuple[_Resampled, int]:
    """The metric of a sample of users, and how many users there are; the mean over models, where scores are of several."""
    checked = [_checked(labels, of_one, users) for of_one in np.atleast_2d(scores)]
    if not checked:
        raise ModelError("scores of no model; those of one at least are needed")
    models = [_METRICS[metric](*arrays) for arrays in checked]

    def mean(weights: NDArray[np.float64]) -> float | None:
        values = [of_one(weights) for of_one in models]
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if len(there) == len(values) else None

    return mean, _count(checked[0][2])


def _interval(metric: _Resampled, users: int, resamples: int, level: float, seed: int) -> Interval | None:
    value = metric(np.ones(users))
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    drawn = (
        metric(np.bincount(rng.integers(0, users, users), minlength=users).astype(float)) for _ in range(resamples)
    )
    values = [x for x in drawn if x is not None]
    if not values:
        return Interval(value, value, value)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _auc(y: NDArray[np.bool_], p: NDArray[np.float64], codes: NDArray[np.int64]) -> _Resampled:
    # Sorted once: a resample only changes the weight of each user's rows.
    order = np.argsort(p, kind="stable")
    y, p, codes = y[order], p[order], codes[order]
    positives, negatives = codes[y], codes[~y]
    below = np.searchsorted(p[~y], p[y], "left")
    level = np.searchsorted(p[~y], p[y], "right")

    def weighted(weights: NDArray[np.float64]) -> float | None:
        up, down = weights[positives], np.concatenate([[0.0], np.cumsum(weights[negatives])])
        pairs = float(up.sum()) * float(down[-1])
        return float(up @ (down[below] + down[level])) / (2 * pairs) if pairs else None

    return weighted


def _gauc(y: NDArray[np.bool_], p: NDArray[np.float64], codes: NDArray[np.int64]) -> _Resampled:
    order = np.lexsort((p, codes))
    y, p, codes = y[order], p[order], codes[order]
    users = _count(codes)
    rank = _average_ranks(p, codes)
    rows, ups = np.bincount(codes, minlength=users), np.bincount(codes, weights=y, minlength=users)
    pairs = ups * (rows - ups)
    wins = np.bincount(codes, weights=rank * y, minlength=users) - ups * (ups + 1) / 2
    own = np.divide(wins, pairs, out=np.zeros(users), where=pairs > 0)
    share = np.where(pairs > 0, rows, 0).astype(float)
    return _ratio(own * share, share)


def _log_loss(y: NDArray[np.bool_], p: NDArray[np.float64], codes: NDArray[np.int64]) -> _Resampled:
    return _ratio(_per_user(_losses(y, p), codes), _per_user(np.ones(len(y)), codes))


def _ne(y: NDArray[np.bool_], p: NDArray[np.float64], codes: NDArray[np.int64]) -> _Resampled:
    losses = _per_user(_losses(y, p), codes)
    rows, ups = _per_user(np.ones(len(y)), codes), _per_user(y.astype(float), codes)

    def weighted(weights: NDArray[np.float64]) -> float | None:
        n, positive = float(weights @ rows), float(weights @ ups)
        if not 0 < positive < n:
            return None
        rate = positive / n
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return float(weights @ losses) / n / float(entropy)

    return weighted


def _calibration(y: NDArray[np.bool_], p: NDArray[np.float64], codes: NDArray[np.int64]) -> _Resampled:
    return _ratio(_per_user(p, codes), _per_user(y.astype(float), codes))


_METRICS: dict[str, Callable[..., _Resampled]] = {
    "auc": _auc,
    "gauc": _gauc,
    "log_loss": _log_loss,
    "ne": _ne,
    "calibration": _calibration,
}


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> _Resampled:
    def weighted(weights: NDArray[np.float64]) -> float | None:
        total = float(weights @ below)
        return float(weights @ above) / total if total else None

    return weighted


def _losses(y: NDArray[np.bool_], p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(p, _CLIP, 1 - _CLIP)
    return -np.where(y, np.log(p), np.log1p(-p))


def _per_user(values: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = np.bincount(codes, weights=values, minlength=_count(codes)).astype(float)
    return sums


def _average_ranks(p: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks from 1 within each user, with the mean rank for equal scores; rows are sorted by user and score."""
    fresh_user = np.concatenate([[True], codes[1:] != codes[:-1]])[: len(codes)]
    fresh = fresh_user | np.concatenate([[True], p[1:] != p[:-1]])[: len(codes)]
    starts = np.flatnonzero(fresh)
    sizes = np.diff(np.append(starts, len(codes)))
    first_of_user = np.maximum.accumulate(np.where(fresh_user, np.arange(len(codes)), 0))
    ranks: NDArray[np.float64] = np.repeat(starts - first_of_user[starts] + (sizes + 1) / 2, sizes)
    return ranks


def _count(codes: NDArray[np.int64]) -> int:
    return int(codes.max()) + 1 if len(codes) else 0


def _checked(
    labels: Array, scores: Array, users: Array
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    y, p = np.asarray(labels), np.asarray(scores, np.float64)
    if not len(y) == len(p) == len(users):
        raise ModelError(f"{len(y)} labels, {len(p)} scores, {len(users)} users; as many of each are needed")
    if not np.isin(y, (0, 1)).all():
        raise ModelError(f"labels are 0 or 1, got {np.setdiff1d(y, (0, 1))[:3].tolist()}; leave unknown ones out")
    if not np.isfinite(p).all():
        raise ModelError(f"score of row {int(np.flatnonzero(~np.isfinite(p))[0])} is no finite number")
    codes: NDArray[np.int64] = np.unique(np.asarray(users), return_inverse=True)[1].astype(np.int64)
    return y.astype(bool), p, codes
