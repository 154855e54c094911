"""Streaming training of the HSTU ranker: predicts, then learns from the same forward pass."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tokenlake_models.errors import DivergedError
from tokenlake_models.hstu import HstuConfig, HstuRanker, RankingBatch


class HstuLearner:
    """A ranker with its optimiser; each batch is used once.

    Args:
        config: the ranker's shape; the same config and data give the same bits (same machine, threads).
        learning_rate: of AdamW.
    """

    def __init__(self, config: HstuConfig, *, learning_rate: float = 1e-3) -> None:
        self.model = HstuRanker(config)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, weight_decay=1e-4, fused=True)
        self._steps = 0

    @torch.no_grad()
    def predict(self, batch: RankingBatch) -> Float32[Tensor, "m L"]:
        """Probabilities, without training."""
        probabilities: Tensor = self.model(batch).sigmoid()
        return probabilities

    def step(
        self, batch: RankingBatch, targets: Float32[Tensor, "m L"], learn: Bool[Tensor, "m L"]
    ) -> Float32[Tensor, "m L"]:
        """Predict, then learn from the targets where `learn` is True.

        Returns:
            The probabilities before learning.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        if not bool(learn.any()):
            return self.predict(batch)
        logits: Tensor = self.model(batch)
        loss = binary_cross_entropy_with_logits(logits[learn], targets[learn])
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"the loss of the ranker's step {self._steps} is {value}; lower the learning rate")
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._steps += 1
        return logits.detach().sigmoid()
