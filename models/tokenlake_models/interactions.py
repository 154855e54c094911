"""The interactions of a ranker's inputs: one hidden vector of all of them."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from tokenlake_models.errors import ModelError

#: Tokens of the mixer, which divide its width.
_TOKENS = 8


class TokenMixer(nn.Module):
    """Token mixing as in RankMixer (arXiv 2507.15551): inputs in equal chunks -> tokens -> blocks -> mean.

    A block mixes without parameters, each token split into heads and head h of all tokens making the new token h, then
    sends every token through a feed-forward layer of its own; both with a residual and LayerNorm.

    Args:
        inputs: number of inputs.
        width: `4 x` the width of a token; the tokens' widths are a multiple of their number, 8.
        layers: blocks.
    """

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        if width % (4 * _TOKENS):
            raise ModelError(f"width {width}: the interaction 'mixer' needs a multiple of {4 * _TOKENS}")
        self.width = width // 4
        self.chunk = -(-inputs // _TOKENS)
        self.inputs = inputs
        self.project = PerToken(self.chunk, self.width)
        self.norm = nn.LayerNorm(self.width)
        self.blocks = nn.ModuleList(MixerBlock(self.width) for _ in range(layers))

    def forward(self, x: Float32[Tensor, "n {self.inputs}"]) -> Float32[Tensor, "n {self.width}"]:
        """Mean of the tokens after the last block."""
        chunks = pad(x, (0, _TOKENS * self.chunk - self.inputs)).view(len(x), _TOKENS, self.chunk)
        tokens = self.norm(self.project(chunks))
        for block in self.blocks:
            tokens = block(tokens)
        return torch.as_tensor(tokens.mean(1))


class MixerBlock(nn.Module):
    """One block of `TokenMixer`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixed, self.fed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = PerToken(width, 2 * width), PerToken(2 * width, width)

    def forward(self, tokens: Float32[Tensor, "n tokens width"]) -> Float32[Tensor, "n tokens width"]:
        """Mixed, then fed forward token by token."""
        mixed = tokens.view(len(tokens), _TOKENS, _TOKENS, tokens.shape[2] // _TOKENS).transpose(1, 2).flatten(2)
        tokens = self.mixed(tokens + mixed)
        return torch.as_tensor(self.fed(tokens + self.down(silu(self.up(tokens)))))


class PerToken(nn.Module):
    """A linear layer of its own for each token."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(_TOKENS, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(_TOKENS, 1, outputs))

    def forward(self, tokens: Float32[Tensor, "n tokens inputs"]) -> Float32[Tensor, "n tokens outputs"]:
        """Each token by its own weight."""
        return torch.baddbmm(self.bias, tokens.transpose(0, 1), self.weight).transpose(0, 1)
