"""Averages of a model's weights over its last steps, which predict better than the weights of the last step."""

from __future__ import annotations

import torch
from torch import nn

#: The average reaches back over about a tenth of all steps.
_POWER = 9


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, steps: int) -> None:
    """Move the average towards the model after its step number `steps`, the first being 1.

    Polynomial-decay averaging (Shamir and Zhang, arXiv 1212.1824): step t's weights count as `t^9`, about, so that the
    window grows with the training, and the initial weights count nothing.
    """
    share = (_POWER + 1) / (_POWER + steps)
    for kept, weight in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(weight, share)
