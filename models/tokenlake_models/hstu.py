"""HSTU layers (arXiv 2402.17152), and a ranker with a few of them over a user's stored tokens.

A query is a user at a query time: its row holds the earlier tokens, then the candidates to score, as targets that see
the whole history and themselves, but not each other (ULTRA-HSTU, arXiv 2602.16986).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import silu

from tokenlake_kernels import gated_norm, hstu_attention, jagged_concat, jagged_split
from tokenlake_models.errors import ModelError
from tokenlake_models.jagged import row_numbers

Preset = Literal["research", "stu"]
#: Half octaves of seconds: 2^32 s are 136 years.
BUCKETS = 64
SECOND = 1_000_000


@dataclass(frozen=True)
class HstuConfig:
    """Shape of a ranker.

    Attributes:
        token_dim: width of the stored tokens.
        labels: names of the logits.
        dim: width of the layers; a multiple of `heads`.
        layers: at least 1.
        heads: attention heads, each `dim / heads` wide.
        history: most tokens of a query; attention weights are divided by it.
        preset: `research`, the paper's own code: SiLU on U, V, Q and K, no scale, learned biases by distance and by time
            gap inside the attention, `W_o(U * LayerNorm(A))`. `stu`, its production form: SiLU on U alone,
            `1 / sqrt(d)`, distance and age as embeddings at the input, `W_o [U, A, U * LayerNorm(A)]`.
        seed: of the initial weights.
    """

    token_dim: int
    labels: tuple[str, ...]
    dim: int = 64
    layers: int = 2
    heads: int = 2
    history: int = 64
    preset: Preset = "stu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ModelError(f"dim {self.dim} is no multiple of heads {self.heads}; choose heads that divide it")
        if not self.labels:
            raise ModelError("labels is empty; a ranker predicts at least one")
        if min(self.layers, self.history) < 1:
            raise ModelError(f"layers {self.layers} and history {self.history}: both must be at least 1")


@dataclass(frozen=True, slots=True)
class RankingBatch:
    """Input of a ranker: `q` queries, each a user at a query time.

    Attributes:
        tokens: `(total, token_dim)` tokens from before each query's time, oldest first.
        timestamps: `(total,)` microseconds, each before its query's time.
        labels: `(total, L)` labels of the tokens as known at the query time: 0 unknown, 1 no, 2 yes.
        offsets: `(q + 1,)` into the above.
        as_of: `(q,)` microseconds, the time of each query.
        candidates: `(m, token_dim)` tokens of the candidates to score.
        candidate_offsets: `(q + 1,)` into the candidates.
    """

    tokens: Float32[Tensor, "total token_dim"]
    timestamps: Int64[Tensor, " total"]
    labels: Int64[Tensor, "total L"]
    offsets: Int64[Tensor, " q_1"]
    as_of: Int64[Tensor, " q"]
    candidates: Float32[Tensor, "m token_dim"]
    candidate_offsets: Int64[Tensor, " q_1"]


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
        v, q, k = rest.view(len(z), 3, self.heads, -1).unbind(1)
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


class HstuRanker(nn.Module):
    """Scores candidates, from a user's stored tokens with the labels known at the query time.

    Args:
        config: shape of the ranker; initial weights depend only on `config.seed`.
    """

    def __init__(self, config: HstuConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.adapt = token_adapter(config.token_dim, dim)
            self.candidate = token_adapter(config.token_dim, dim)
            # Row 3 l + (0: unknown, 1: no, 2: yes) of label l.
            self.labels = nn.Embedding(3 * len(config.labels), dim)
            if config.preset == "stu":
                self.places, self.ages = nn.Embedding(config.history, dim), nn.Embedding(BUCKETS, dim)
            self.layers = nn.ModuleList(HstuLayer(config) for _ in range(config.layers))
            self.head = nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, len(config.labels))
            )
        for embedding in (m for m in self.modules() if isinstance(m, nn.Embedding)):
            nn.init.normal_(embedding.weight, std=0.02, generator=torch.Generator().manual_seed(config.seed))

    def forward(self, batch: RankingBatch) -> Float32[Tensor, "m L"]:
        """One logit per candidate and label; it does not depend on other candidates or on later events."""
        candidate_offsets = batch.candidate_offsets
        x, offsets = jagged_concat(
            [self._past(batch), self.candidate(batch.candidates)], [batch.offsets, candidate_offsets]
        )
        counts = candidate_offsets.diff()
        times = torch.repeat_interleave(batch.as_of, counts)
        timestamps, _ = jagged_concat([batch.timestamps, times], [batch.offsets, candidate_offsets])
        for layer in self.layers:
            x = layer(x, offsets, counts, timestamps // SECOND)
        _, (scored, _) = jagged_split(x, offsets, batch.offsets.diff(), len(batch.tokens))
        logits: Tensor = self.head(scored)
        return logits

    def _past(self, batch: RankingBatch) -> Tensor:
        codes = batch.labels + 3 * torch.arange(len(self.config.labels), device=batch.labels.device)
        x: Tensor = self.adapt(batch.tokens) + self.labels(codes).sum(1)
        if self.config.preset != "stu":
            return x
        rows = row_numbers(batch.offsets)
        place = batch.offsets[rows + 1] - 1 - torch.arange(len(rows), device=rows.device)
        age = (batch.as_of[rows] - batch.timestamps) // SECOND
        return torch.add(x + self.places(place), self.ages(half_octave(age)))


def token_adapter(inputs: int, dim: int) -> nn.Module:
    """Projection of stored tokens, with normalisation first, since tokens drift as their encoder is trained."""
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, dim), nn.SiLU(), nn.Linear(dim, dim))


def half_octave(seconds: Int64[Tensor, " total"]) -> Int64[Tensor, " total"]:
    """Half-octave buckets of `seconds + 1`, from the bits of a float."""
    bits = (seconds + 1).clamp(min=1).float().view(torch.int32)
    return ((bits - 0x3F800000) >> 22).clamp(max=BUCKETS - 1).long()
