"""HSTU layers (arXiv 2402.17152) over jagged rows.

A row holds a user's history, then the candidates to score, as targets that see the whole history and themselves, but not
each other (ULTRA-HSTU, arXiv 2602.16986).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import silu

from tokenlake_kernels import gated_norm, hstu_attention
from tokenlake_models.errors import ModelError

Preset = Literal["research", "stu"]
#: Half octaves of seconds: 2^32 s are 136 years.
BUCKETS = 64
SECOND = 1_000_000


@dataclass(frozen=True)
class HstuConfig:
    """Shape of a layer.

    Attributes:
        dim: width; a multiple of `heads`.
        heads: attention heads, each `dim / heads` wide.
        history: most steps of a row; attention weights are divided by it.
        preset: `research`, the paper's own code: SiLU on U, V, Q and K, no scale, learned biases by distance and by time
            gap inside the attention, `W_o(U * LayerNorm(A))`. `stu`, its production form: SiLU on U alone,
            `1 / sqrt(d)`, distance and age as embeddings at the input, `W_o [U, A, U * LayerNorm(A)]`.
    """

    dim: int = 64
    heads: int = 2
    history: int = 64
    preset: Preset = "stu"

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ModelError(f"dim {self.dim} is no multiple of heads {self.heads}; choose heads that divide it")
        if self.history < 1:
            raise ModelError(f"history {self.history}: it must be at least 1")


class HstuLayer(nn.Module):
    """`Z + W_o f(U, A)` with `A = silu(scale Q K^T + bias) V / norm` and `U, V, Q, K` from `LayerNorm(Z)`.

    Args:
        config: widths, heads, and the preset that fixes activation, scale, bias and output.
    """

    def __init__(self, config: HstuConfig) -> None:
        super().__init__()
        self.heads, self.history, self.research = config.heads, config.history, config.preset == "research"
        dim = config.dim
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, 4 * dim)
        self.gate_weight, self.gate_bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.out_weight = nn.Parameter(torch.empty(dim, dim if self.research else 3 * dim))
        nn.init.xavier_uniform_(self.out_weight)
        if self.research:
            self.position_bias = nn.Parameter(torch.zeros(self.heads, config.history + 1))
            self.time_bias = nn.Parameter(torch.zeros(self.heads, BUCKETS))

    def forward(
        self,
        z: Float32[Tensor, "total dim"],
        offsets: Int64[Tensor, " q_1"],
        num_targets: Int64[Tensor, " q"],
        seconds: Int64[Tensor, " total"],
    ) -> Float32[Tensor, "total dim"]:
        """One layer over jagged rows whose last `num_targets` values are candidates."""
        x = self.project(self.norm(z))
        u, rest = torch.split(x, [z.shape[1], 3 * z.shape[1]], 1)
        if self.research:
            rest = silu(rest)
        v, q, k = rest.view(len(z), 3, self.heads, z.shape[1] // self.heads).unbind(1)
        a = hstu_attention(
            q,
            k,
            v,
            offsets,
            norm=self.history,
            scale=1 if self.research else None,
            num_targets=num_targets,
            timestamps=seconds,
            position_bias=self.position_bias if self.research else None,
            time_bias=self.time_bias if self.research else None,
        )
        y = gated_norm(
            a.flatten(1),
            silu(u),
            self.gate_weight,
            self.gate_bias,
            out_weight=self.out_weight,
            concat=not self.research,
        )
        return torch.add(z, y)


def token_adapter(inputs: int, dim: int) -> nn.Module:
    """Projection of stored tokens, with normalisation first, since tokens drift as their encoder is trained."""
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, dim), nn.SiLU(), nn.Linear(dim, dim))


def half_octave(seconds: Int64[Tensor, " total"]) -> Int64[Tensor, " total"]:
    """Half-octave buckets of `seconds + 1`, from the bits of a float."""
    bits = (seconds + 1).clamp(min=1).float().view(torch.int32)
    return ((bits - 0x3F800000) >> 22).clamp(max=BUCKETS - 1).long()
