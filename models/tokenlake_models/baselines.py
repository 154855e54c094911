"""Baselines of the compressor."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from tokenlake_models.config import CompressorConfig
from tokenlake_models.inputs import Inputs
from tokenlake_models.instances import History, Instances


class LogisticRegression(nn.Module):
    """Logistic regression on the same inputs: for each label one weight per id, per number, and per vector element."""

    config: CompressorConfig
    #: As `InstanceCompressor.lr_scales`.
    lr_scales: tuple[float, float]

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.config = config
        # The best values for Complete Journey: without counts, only ids distinguish users and items.
        self.lr_scales = (10.0, 50.0 if config.counts else 500.0)
        with torch.random.fork_rng(devices=[]):
            generator = torch.manual_seed(config.seed)
            self.inputs = Inputs(config, len(config.labels), generator)
        nn.init.zeros_(self.inputs.table.weight)
        self.weight = nn.Parameter(torch.zeros(self.inputs.dense.width, len(config.labels)))
        self.bias = nn.Parameter(torch.zeros(len(config.labels)))

    def forward(self, instances: Instances, history: History | None = None) -> Float32[Tensor, "n L"]:
        """Logits; `history` is ignored."""
        inputs, targets = self.inputs(instances), len(self.config.labels)
        weights, numbers = torch.split(inputs, [self.inputs.embedded * targets, self.inputs.dense.width], dim=1)
        return weights.view(len(inputs), self.inputs.embedded, targets).sum(1) + numbers @ self.weight + self.bias

    def grow(self, rows: dict[str, int]) -> Tensor:
        """As `InstanceCompressor.grow`."""
        origin = self.inputs.table.grow(rows)
        self.config = self.config.with_rows(self.inputs.table.rows)
        return origin
