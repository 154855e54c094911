"""Corrections of predicted probabilities, and mixtures of models, fitted on rows whose labels are known. NumPy only.

Each is fitted on few numbers and writes down as such: `dataclasses.asdict` of a correction is plain JSON. Fitted on no
row, a correction changes nothing and a mixture weighs its members alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenlake_models.errors import ModelError

Array: TypeAlias = NDArray[Any]
#: Probabilities are moved this far from 0 and 1 before their logit is taken.
_CLIP = 1e-7
_STEPS, _ROUNDS = 50, 100


@dataclass(frozen=True, slots=True)
class Platt:
    """A line on the logits: `p -> sigmoid(slope * logit(p) + intercept)`.

    Attributes:
        slope: below 1 the model was too sure of itself, above 1 not sure enough.
        intercept: below 0 the model predicted too much, above 0 too little.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, probabilities: Array) -> NDArray[np.float64]:
        """Corrected probabilities, in the shape of those given."""
        return _sigmoid(self.slope * logit(probabilities) + self.intercept)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A rising curve through points, straight between them and level outside.

    Attributes:
        scores: probabilities as predicted, rising.
        values: corrected probability of each, never falling.
    """

    scores: tuple[float, ...] = (0.0, 1.0)
    values: tuple[float, ...] = (0.0, 1.0)

    def apply(self, probabilities: Array) -> NDArray[np.float64]:
        """Corrected probabilities, in the shape of those given."""
        given = np.asarray(probabilities, np.float64)
        out: NDArray[np.float64] = np.interp(given.ravel(), self.scores, self.values).reshape(given.shape)
        return out


def fit_platt(labels: Array, probabilities: Array) -> Platt:
    """The line of least log loss.

    A pull towards the line that changes nothing (half the squared distance to it, beside the *sum* of the rows' losses)
    makes it defined for every input, rows of one class included; over some hundred rows it is not felt.

    Args:
        labels: `(n,)`, 0 or 1.
        probabilities: `(n,)`.

    Raises:
        ModelError: the inputs do not fit each other, or are no labels and probabilities.
    """
    y, p = _checked(labels, probabilities)
    inputs, unchanged = np.stack([logit(p), np.ones(len(p))], axis=1), np.array([1.0, 0.0])
    line = unchanged.copy()

    def loss(line: NDArray[np.float64]) -> float:
        return float(_log_loss(y, inputs @ line) + ((line - unchanged) ** 2).sum() / 2)

    for _ in range(_STEPS):
        q = _sigmoid(inputs @ line)
        gradient = inputs.T @ (q - y) + (line - unchanged)
        step = np.linalg.solve((inputs * (q * (1 - q))[:, None]).T @ inputs + np.eye(2), gradient)
        before, length = loss(line), 1.0
        # Newton's step, halved where it goes too far.
        while loss(line - length * step) > before and length > _CLIP:
            length /= 2
        line = line - length * step
        if np.abs(length * step).max() < 1e-10:
            break
    return Platt(float(line[0]), float(line[1]))


def fit_isotonic(labels: Array, probabilities: Array) -> Isotonic:
    """The rising curve of least squared error, and of least log loss (pool adjacent violators).

    One positive is added at the lowest score and one negative at the highest, so that no value is exactly 0 or 1: a few
    rows of one class are no proof.

    Args:
        labels: `(n,)`, 0 or 1.
        probabilities: `(n,)`.

    Raises:
        ModelError: the inputs do not fit each other, or are no labels and probabilities.
    """
    y, p = _checked(labels, probabilities)
    if not len(y):
        return Isotonic()
    y, p = np.append(y, [1.0, 0.0]), np.append(p, [p.min(), p.max()])
    scores, group = np.unique(p, return_inverse=True)
    rows, positives = np.bincount(group).tolist(), np.bincount(group, weights=y).tolist()
    pools = list[tuple[int, float, int]]()  # rows, positives, first score
    for first, (n, up) in enumerate(zip(rows, positives, strict=True)):
        pool = (n, up, first)
        while pools and pools[-1][1] * pool[0] >= pool[1] * pools[-1][0]:
            before = pools.pop()
            pool = (before[0] + pool[0], before[1] + pool[1], before[2])
        pools.append(pool)
    firsts = np.array([first for *_, first in pools])
    lasts = np.append(firsts[1:] - 1, len(scores) - 1)
    values = np.array([up / n for n, up, _ in pools])
    knots = np.stack([firsts, lasts], axis=1).ravel()
    kept = np.append(True, knots[1:] != knots[:-1])
    return Isotonic(tuple(scores[knots[kept]].tolist()), tuple(np.repeat(values, 2)[kept].tolist()))


def fit_mixture(labels: Array, probabilities: Array) -> NDArray[np.float64]:
    """The weights of least log loss of a mean of logits: none below 0, and 1 in sum.

    Args:
        labels: `(n,)`, 0 or 1.
        probabilities: `(n, m)`, a column for each of m >= 1 members.

    Returns:
        `(m,)` weights for `mix`.

    Raises:
        ModelError: the inputs do not fit each other, or are no labels and probabilities.
    """
    if np.ndim(probabilities) != 2 or not np.shape(probabilities)[1]:
        raise ModelError(f"a mixture needs probabilities (rows, members), got the shape {np.shape(probabilities)}")
    y, p = _checked(labels, probabilities)
    logits = logit(p)
    members = logits.shape[1]
    weights = np.full(members, 1 / members)
    # The loss is convex: moving weight between two members at a time, as long as that helps, ends at its minimum.
    for _ in range(_ROUNDS):
        before = weights.copy()
        for one, other in combinations(range(members), 2):
            moved = _best_move(y, logits @ weights, logits[:, one] - logits[:, other], -weights[one], weights[other])
            weights[one], weights[other] = weights[one] + moved, weights[other] - moved
        if np.abs(weights - before).max() < 1e-9:
            break
    weights = weights.clip(0.0)
    out: NDArray[np.float64] = weights / weights.sum()
    return out


def mix(probabilities: Array, weights: Array) -> NDArray[np.float64]:
    """Weighted mean of the members' logits, as a probability.

    Args:
        probabilities: `(n, m)`.
        weights: `(m,)`.

    Returns:
        `(n,)`.
    """
    return _sigmoid(logit(probabilities) @ np.asarray(weights, np.float64))


def logit(probabilities: Array) -> NDArray[np.float64]:
    """`log(p / (1 - p))`, of probabilities held in [1e-7, 1 - 1e-7]."""
    p = np.asarray(probabilities, np.float64).clip(_CLIP, 1 - _CLIP)
    out: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return out


def _best_move(
    y: NDArray[np.float64], logits: NDArray[np.float64], direction: NDArray[np.float64], low: float, high: float
) -> float:
    """The length in [low, high] of least log loss of `logits + length * direction`; 0 where no length helps."""

    def slope(length: float) -> float:
        return float(direction @ (_sigmoid(logits + length * direction) - y))

    if not slope(0.0):
        return 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return (low + high) / 2


def _log_loss(y: NDArray[np.float64], logits: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0.0, logits) - y * logits).sum())


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * x))
    return out


def _checked(labels: Array, probabilities: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    if len(y) != len(p):
        raise ModelError(f"{len(y)} labels, {len(p)} predictions; as many of each are needed")
    if not np.isin(y, (0, 1)).all():
        raise ModelError(f"labels are 0 or 1, got {np.setdiff1d(y, (0, 1))[:3].tolist()}; leave unknown ones out")
    if not ((p >= 0) & (p <= 1)).all():
        wrong = p[~((p >= 0) & (p <= 1))]
        raise ModelError(f"predictions are probabilities in [0, 1], got {wrong[:3].tolist()}")
    return y.astype(np.float64), p
