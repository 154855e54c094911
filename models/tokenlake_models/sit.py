"""SIT: the causal transformer over a user's tokens that trains user-order compression (IAT, arXiv 2604.08933)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor, nn

from tokenlake_models.attention import BUCKETS, AttentionLayout, attention_layout, layout_attention


class SitLayer(nn.Module):
    """Pre-norm attention and feed-forward; both branches start at zero, so an untrained layer is the identity."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros(heads, BUCKETS))
        back = nn.Linear(2 * dim, dim)
        self.feed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), back)
        for branch in (self.out, back):
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)

    def forward(self, x: Tensor, layout: AttentionLayout) -> Tensor:
        """All rows of `x` are keys; the result has the queries of `layout`."""
        normed = self.norm(x)
        residual, asking = (x, normed) if layout.queries is None else (x[layout.queries], normed[layout.queries])
        q = self.query(asking).unflatten(-1, (self.heads, -1))
        k, v = self.key_value(normed).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        y: Tensor = residual + self.out(layout_attention(q, k, v, layout, self.bias).flatten(1))
        return torch.add(y, self.feed(y))


class SIT(nn.Module):
    """Causal transformer over jagged token sequences.

    A token sees itself and those with strictly earlier timestamps. Buckets of time gaps, of doubling width, replace
    positions. The last layer computes only the requested tokens.

    Args:
        dim: width of a token; a multiple of `heads`.
        layers: at least 1.
        heads: attention heads.
    """

    def __init__(self, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SitLayer(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Float32[Tensor, "total dim"],
        timestamps: Int64[Tensor, " total"],
        offsets: Int64[Tensor, " rows_1"],
        asks: Bool[Tensor, " total"],
        seen: Bool[Tensor, " total"],
    ) -> Float32[Tensor, "q dim"]:
        """Contextual tokens of the `q` positions where `asks` is True, in order.

        Args:
            tokens: tokens of all rows, concatenated.
            timestamps: microseconds.
            offsets: the rows.
            asks: the tokens to compute.
            seen: the tokens that later tokens may read.
        """
        everything, order, place = attention_layout(timestamps, offsets, seen)
        x = tokens[order]
        *inner, last = self.layers
        for layer in inner:
            x = layer(x, everything)
        out: Tensor = self.norm(last(x, everything.for_queries(asks, place)))
        return out
