"""What training has in common in every model of instances: a step, its statistics, and dropped ids."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tokenlake_models.errors import DivergedError
from tokenlake_models.instances import Instances
from tokenlake_models.optimizers import Optimizers

Progress = Callable[[int, int], None]
#: Points of a learning curve, about.
_POINTS = 20


@dataclass(frozen=True)
class FitStats:
    """Statistics of one `fit`.

    Attributes:
        instances: number of rows.
        targets: labels trained on, over all passes.
        steps: optimiser steps.
        loss: mean log loss per target, computed before the step that trained on it; None without targets.
        seconds: wall time.
    """

    instances: int
    targets: int
    steps: int
    loss: float | None
    seconds: float


class FitSteps:
    """The optimiser steps of one training, and their statistics so far.

    Args:
        optimizers: apply the gradients.
        rows: rows to learn from, over all passes.
        progress: called after each step with rows done and rows in all.

    Attributes:
        targets: labels trained on.
        steps: optimiser steps.
        curve: about 20 points: rows done, and the mean loss per target since the point before.
    """

    def __init__(self, optimizers: Optimizers, rows: int, progress: Progress | None = None) -> None:
        self._optimizers, self._rows, self._progress = optimizers, rows, progress
        self.targets, self.steps, self._total, self._done = 0, 0, 0.0, 0
        self.curve: list[tuple[int, float]] = []
        self._point = (0, 0, 0.0)  # rows, targets and loss at the last point

    @property
    def loss(self) -> float | None:
        """Mean log loss per target, computed before the step that trained on it; None without targets."""
        return self._total / self.targets if self.targets else None

    def learn(self, logits: Float32[Tensor, "n L"], instances: Instances, turn: int) -> None:
        """One step on the known labels of `instances`, whose logits are given.

        Raises:
            DivergedError: the loss is NaN or infinite; the message describes the batch.
        """
        known = instances.known
        loss = binary_cross_entropy_with_logits(logits[known], instances.labels[known], reduction="sum")
        count, value = int(known.sum()), float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(_description(instances, self.steps, turn, value))
        torch.autograd.backward(loss / count)
        self._optimizers.step()
        self.targets, self.steps = self.targets + count, self.steps + 1
        self._total, self._done = self._total + value, self._done + len(instances)
        self._extend_curve()
        if self._progress:
            self._progress(self._done, self._rows)

    def _extend_curve(self) -> None:
        rows, targets, total = self._point
        due = (self._done - rows) * _POINTS >= self._rows or self._done >= self._rows
        if due and self.targets > targets:
            self.curve.append((self._done, (self._total - total) / (self.targets - targets)))
            self._point = (self._done, self.targets, self._total)


def drop_ids(instances: Instances, share: float, generator: torch.Generator) -> Instances:
    """Replace a random share of ids by the out-of-vocabulary row, which thereby learns to represent unseen ids."""
    if share == 0:
        return instances
    kept = torch.rand(len(instances.categorical), len(instances), generator=generator) >= share
    categorical = {name: rows * keep for (name, rows), keep in zip(instances.categorical.items(), kept, strict=True)}
    multi = {
        name: (values * (torch.rand(len(values), generator=generator) >= share), offsets)
        for name, (values, offsets) in instances.multi.items()
    }
    return dataclasses.replace(instances, categorical=categorical, multi=multi)


def _description(instances: Instances, step: int, turn: int, loss: float) -> str:
    times = instances.timestamps
    return (
        f"the loss of step {step} (pass {turn + 1}) is {loss}: {len(instances)} instances of "
        f"{len(torch.unique(instances.users))} users, timestamps {int(times.min())} to {int(times.max())}; "
        "look there for extreme inputs, or lower the learning rate"
    )
