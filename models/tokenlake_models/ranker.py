"""The ranker: a row's inputs, and what it reads in its query's sequences, interact to one logit per label."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from tokenlake_models.embeddings import NumberGrid
from tokenlake_models.iat import Interaction
from tokenlake_models.inputs import ByName, Inputs
from tokenlake_models.instances import Instances
from tokenlake_models.interactions import TokenMixer
from tokenlake_models.ranker_config import RankerConfig
from tokenlake_models.ranker_sequences import CandidateRows, MatchProfile, SequenceReader
from tokenlake_models.ranking import RankingRows


class RankerNetwork(nn.Module):
    """Inputs and sequences -> interaction -> one logit per label.

    Every sequence gives one more input before the interaction, and one of events its match profile too. A row never sees
    the other rows of its query.

    Args:
        config: inputs and shape; initial weights follow from `config.seed` alone.
    """

    config: RankerConfig
    #: As `InstanceCompressor.lr_scales`; the best for Complete Journey's first eight weeks.
    lr_scales = (1.0, 100.0)

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            generator = torch.manual_seed(config.seed)
            self.inputs = Inputs(config, config.embedding, generator)
            self.grid = _grid(config, generator)
            own = self.inputs.width + (self.grid.width if self.grid is not None else 0)
            self.profiles = ByName({sequence.name: MatchProfile(config, sequence) for sequence in config.sequences})
            read = sum(sequence.width + self.profiles[sequence.name].width for sequence in config.sequences)
            mix = Interaction if config.interaction == "dcn" else TokenMixer
            self.interaction = mix(own + read, config.width, config.layers)
            self.head = nn.Linear(self.interaction.width, len(config.labels))
            query = 2 * max((sequence.width for sequence in config.sequences), default=0)
            if config.sequences:
                self.compress = nn.Sequential(nn.Linear(own, query), nn.LayerNorm(query), nn.SiLU())
            readers = {sequence.name: SequenceReader(config, sequence, query) for sequence in config.sequences}
            self.sequences = ByName(readers)

    def forward(self, rows: RankingRows, read: Instances | None = None) -> Float32[Tensor, "n L"]:
        """Logits of the rows.

        Args:
            rows: queries with their rows and sequences.
            read: the rows' inputs where they differ from `rows.instances`, as with dropped ids in training; what matches
                a step is seen by the ids of `rows.instances` in any case.
        """
        x = self._own(rows.instances if read is None else read)
        parts = [x]
        if self.config.sequences:
            candidates = CandidateRows(self.compress(x), rows.offsets, rows.as_of, rows.instances.categorical)
            for name in self.sequences:
                batch = rows.sequences[name]
                parts += [
                    self.sequences[name](batch, candidates, self.inputs.table),
                    self.profiles[name](batch, candidates),
                ]
        logits: Tensor = self.head(self.interaction(torch.cat(parts, 1)))
        return logits

    def _own(self, instances: Instances) -> Float32[Tensor, "n own"]:
        """A row's own inputs."""
        x: Tensor = self.inputs(instances)
        return x if self.grid is None else torch.cat([x, self.grid(self.inputs.numbers(instances))], 1)

    def grow(self, rows: dict[str, int]) -> Tensor:
        """As `InstanceCompressor.grow`."""
        origin = self.inputs.table.grow(rows)
        self.config = self.config.with_rows(self.inputs.table.rows)
        return origin


def _grid(config: RankerConfig, generator: torch.Generator) -> NumberGrid | None:
    numbers = (*config.numeric, *config.counts)
    if not (numbers and config.grid):
        return None
    rates, logarithms = ([numbers.index(name) for name in names] for names in (config.rates, config.logarithms))
    return NumberGrid(len(numbers), config.grid, rates, logarithms, generator)
