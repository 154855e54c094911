"""IAT stage one: compresses every instance, with all its features, into one token (arXiv 2604.08933)."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from tokenlake_models.config import CompressorConfig
from tokenlake_models.errors import ModelError
from tokenlake_models.inputs import Inputs
from tokenlake_models.instances import History, Instances
from tokenlake_models.sequences import Sequences, SitBatch
from tokenlake_models.sit import SIT

__all__ = ["CompressorConfig", "InstanceCompressor"]


class Interaction(nn.Module):
    """Feature interaction: crosses `h <- h0 * W h + h` of DCN-v2 (arXiv 2008.13535, eq. 1) after a projection."""

    def __init__(self, inputs: int, width: int, layers: int = 2) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.SiLU())
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Float32[Tensor, "n inputs"]) -> Float32[Tensor, "n width"]:
        """Hidden features."""
        h: Tensor = self.project(x)
        first = h
        for cross in self.crosses:
            h = torch.addcmul(h, first, cross(h))
        return h


class InstanceCompressor(nn.Module):
    """Instance -> interaction -> token -> (SIT) -> decompress -> one logit per label.

    The token is `SiLU(W1 h + b1)`. In user-order, SIT (a causal transformer over the user's tokens) runs between the
    token and its decompression; the stored token is the one *before* SIT.
    """

    config: CompressorConfig
    #: Multiples of the learning rate: AdamW's for the dense weights, row-wise Adagrad's for the embeddings.
    lr_scales = (1.0, 50.0)

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            generator = torch.manual_seed(config.seed)
            self.inputs = Inputs(config, config.embedding, generator)
            self.interaction = Interaction(self.inputs.width, config.width)
            self.to_token = nn.Sequential(nn.Linear(config.width, config.dim), nn.SiLU())
            self.sit = SIT(config.dim, config.sit_layers, config.sit_heads) if self.is_sequential else None
            self.decompress = nn.Sequential(nn.Linear(config.dim, config.width), nn.SiLU())
            self.head = nn.Linear(config.width, len(config.labels))

    @property
    def is_sequential(self) -> bool:
        """Whether logits depend on the user's earlier instances."""
        return self.config.scheme == "user-order"

    def compress(self, instances: Instances) -> Float32[Tensor, "n {self.config.dim}"]:
        """Tokens from each instance's features only, without labels, other instances, or SIT."""
        tokens: Tensor = self.to_token(self.interaction(self.inputs(instances)))
        return tokens

    def logits(self, tokens: Float32[Tensor, "n dim"]) -> Float32[Tensor, "n L"]:
        """Decompress tokens (in user-order: SIT's output) into one logit a label."""
        logits: Tensor = self.head(self.decompress(tokens))
        return logits

    def contextual(
        self,
        tokens: Float32[Tensor, "total dim"],
        window: SitBatch,
        asks: Tensor | None = None,
    ) -> Float32[Tensor, "q dim"]:
        """SIT's output for a window's own rows (or only those where `asks` is True).

        Args:
            tokens: of `[window.past, window.context, window.own]`.
            window: from `Sequences.window`.
            asks: `(m,)` bool over `window.own`.

        Raises:
            ModelError: a model in temporal-order, which has no SIT.
        """
        if self.sit is None:
            raise ModelError(
                f"scheme {self.config.scheme!r} has no SIT: tokens go into logits() as they are; contextual() needs 'user-order'"
            )
        where = window.is_own
        if asks is not None:
            where = where.clone()
            where[window.is_own] = asks
        out: Tensor = self.sit(tokens[window.merge], window.timestamps, window.offsets, where, window.seen)
        return out

    def forward(self, instances: Instances, history: History | None = None) -> Float32[Tensor, "n L"]:
        """Logits of all instances at once.

        Args:
            instances: in any order.
            history: earlier tokens of their users, without gradients; read in user-order only.
        """
        tokens = self.compress(instances)
        if not self.is_sequential:
            return self.logits(tokens)
        past = history or History.empty(int(instances.users.max()) + 1 if len(instances) else 0, self.config.dim)
        sequences = Sequences(instances, past, self.config.history)
        window = sequences.window(torch.arange(len(sequences)))
        parts = [past.tokens.detach()[window.past], tokens.detach()[window.context], tokens[window.own]]
        logits = self.logits(self.contextual(torch.cat(parts), window))
        return torch.zeros_like(logits).index_copy(0, window.own, logits)

    def grow(self, rows: dict[str, int]) -> Tensor:
        """Extend vocabularies to the given numbers of rows; new rows start as the out-of-vocabulary row.

        Returns:
            `(total,)` the old row of each row of the embedding weight, -1 for new ones.

        Raises:
            InstancesError: an unknown feature, or fewer rows than there are.
        """
        origin = self.inputs.table.grow(rows)
        self.config = self.config.with_rows(self.inputs.table.rows)
        return origin
