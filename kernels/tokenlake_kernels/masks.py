"""Attention masks as numbers, in the form that all back ends use."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

FAR = 1 << 30  # farther than any row is long, and small enough to add to a position in int32


class HstuMask(NamedTuple):
    """The mask of `hstu_attention`, all numbers: `FAR` stands for no `local` limit, 0 for no tail or prefix."""

    local: int = FAR
    tail: int = 0
    prefix: int = 0
    contextual: int = 0
    target_local: int = 0

    def seen(self, i: Int[Tensor, "queries 1"], j: Int[Tensor, "1 keys"], history: int) -> Bool[Tensor, "queries keys"]:
        """Whether query i sees key j, in a row with `history` values before its targets."""
        first = min(self.contextual, history)
        near = (i - j <= self.local) | (i >= history - self.tail) | (j < self.prefix)
        past = (i < history) & (j <= i) & near
        ahead = torch.ones_like(j, dtype=torch.bool)
        if self.target_local and not self.tail:
            ahead = (history - j <= self.local) | (j < self.prefix)
        target = (i >= history) & (((j < history) & ahead) | (i == j))
        return past | target | (j < first)

    def keys(self, start: int, end: int, history: int) -> list[tuple[int, int]]:
        """Disjoint ascending ranges of keys that include all keys seen by the queries start..end of a row."""
        sink = min(max(self.prefix, min(self.contextual, history)), max(end, min(self.contextual, history)))
        whole = end > history - self.tail
        low = 0 if whole or end > history else max(0, start - self.local)
        return [(0, sink), (low, end)] if 0 < sink < low else [(0 if sink else low, max(end, sink))]


def band(*, causal: bool, window: int | None) -> tuple[int, int]:
    """(left, right): query i sees key j when -left <= j - i <= right."""
    reach = FAR if window is None else window
    return reach, 0 if causal else reach
