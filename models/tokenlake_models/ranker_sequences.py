"""The sequence models of a ranker: a query's steps are encoded once, then every candidate of the query reads them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import softplus

from tokenlake_kernels import jagged_concat, jagged_split
from tokenlake_models.attention import attention_layout
from tokenlake_models.embeddings import FusedTable
from tokenlake_models.hstu import BUCKETS, SECOND, HstuConfig, HstuLayer, half_octave, token_adapter
from tokenlake_models.jagged import offsets_of, row_numbers
from tokenlake_models.ranker_config import RankerConfig, SequenceConfig
from tokenlake_models.ranking import StepBatch
from tokenlake_models.sit import SIT, SitLayer
from tokenlake_models.target_attention import TargetAttention, matching_pairs

#: Learned weightings of ages for each feature and label state of a match profile.
_WEIGHTS = 2
#: Learned tokens of `longer`, and the share of the length that its last steps are.
_GLOBALS, _LAST = 4, 4


@dataclass(frozen=True, slots=True)
class CandidateRows:
    """The candidates of a batch's queries, as the sequence models see them.

    Attributes:
        queries: `(n, width)` their vectors, from their own inputs.
        offsets: `(q + 1,)` the candidates of each query.
        as_of: `(q,)` microseconds, the time of each query.
        categorical: `{name: (n,)}` their vocabulary rows.
    """

    queries: Float32[Tensor, "n width"]
    offsets: Int64[Tensor, " q_1"]
    as_of: Int64[Tensor, " q"]
    categorical: dict[str, Int64[Tensor, " n"]]


class StepEncoder(nn.Module):
    """The steps of a sequence as vectors: features or token, position from the end and, with `labels`, side information.

    Side information: the state of each label, the age at the query's time, and the gap to the step before.
    """

    def __init__(self, config: RankerConfig, sequence: SequenceConfig) -> None:
        super().__init__()
        self.sequence = sequence
        width, tokens = sequence.width, sequence.source == "tokens"
        inputs = config.embedding * len(sequence.categorical)
        self.adapt = token_adapter(sequence.token_dim, width) if tokens else nn.Linear(inputs, width)
        self.places = _embedding(BUCKETS, width)
        if sequence.labels:
            # Row 3 l + (0: unknown, 1: no, 2: yes) of label l.
            self.labels = _embedding(3 * len(config.labels), width)
            self.ages, self.gaps = _embedding(BUCKETS, width), _embedding(BUCKETS, width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, batch: StepBatch, as_of: Int64[Tensor, " q"], table: FusedTable
    ) -> Float32[Tensor, "total width"]:
        """Normalised steps."""
        if batch.tokens is not None and self.sequence.source == "tokens":
            x = self.adapt(batch.tokens.detach())
        else:
            named = {name: batch.categorical[name] for name in self.sequence.categorical}
            x = self.adapt(table.lookup(named).flatten(1))
        x = x + self.places(half_octave(places_from_end(batch)))
        if self.sequence.labels:
            codes = batch.labels + 3 * torch.arange(batch.labels.shape[1], device=batch.labels.device)
            x = x + self.labels(codes).sum(1)
            x = x + self.ages(half_octave(_ages(batch, as_of))) + self.gaps(half_octave(_gaps(batch)))
        return torch.as_tensor(self.norm(x))


class SequenceReader(nn.Module):
    """Steps -> encoder -> target attention: one vector per candidate.

    With `hstu` the candidates themselves are the last values of their query's row, and see the steps but not each other.

    Args:
        config: of the ranker.
        sequence: of this sequence.
        query: width of the candidates' vectors.
    """

    def __init__(self, config: RankerConfig, sequence: SequenceConfig, query: int) -> None:
        super().__init__()
        self.sequence = sequence
        self.compared = compared(config, sequence)
        self.steps = StepEncoder(config, sequence)
        width, heads, layers = sequence.width, sequence.heads, sequence.layers
        if sequence.model == "hstu":
            self.candidate = nn.Linear(query, width)
            shape = HstuConfig(width, heads, sequence.length)
            self.layers = nn.ModuleList(HstuLayer(shape) for _ in range(layers))
            self.norm = nn.LayerNorm(width)
            return
        if sequence.model == "longer":
            self.globals = nn.Parameter(torch.randn(_GLOBALS, width) * 0.1)
            self.cross = SitLayer(width, heads)
        if sequence.model != "din":
            self.encoder = SIT(width, layers, heads)
        self.attention = TargetAttention(query, width, heads, len(self.compared))

    def forward(
        self, batch: StepBatch, candidates: CandidateRows, table: FusedTable
    ) -> Float32[Tensor, "n {self.sequence.width}"]:
        """What each candidate reads in the steps of its query."""
        x = self.steps(batch, candidates.as_of, table)
        if self.sequence.model == "hstu":
            return self._hstu(x, batch, candidates)
        codes, offsets = _stacked(batch.categorical, self.compared, len(batch)), batch.offsets
        if self.sequence.model == "transformer":
            everything = torch.ones(len(batch), dtype=torch.bool, device=x.device)
            x = self.encoder(x, self._times(batch), offsets, everything, everything)
        elif self.sequence.model == "longer":
            x, codes, offsets = self._longer(x, codes, batch)
        own = _stacked(candidates.categorical, self.compared, len(candidates.queries))
        out: Tensor = self.attention(candidates.queries, own, candidates.offsets, x, codes, offsets)
        return out

    def _longer(self, x: Tensor, codes: Tensor, batch: StepBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The last steps and the global tokens, which stand at the end of each row and read all of it."""
        queries = len(batch.offsets) - 1
        places = torch.arange(queries + 1, device=x.device) * _GLOBALS
        x, offsets = jagged_concat([x, self.globals.repeat(queries, 1)], [batch.offsets, places])
        lengths = batch.offsets.diff()
        place = offsets[row_numbers(offsets) + 1] - 1 - torch.arange(len(x), device=x.device)
        step = place >= _GLOBALS
        last = self._times(batch).new_zeros(len(x))
        last[step] = self._times(batch)
        # A global token comes after all steps, in a second of its own or that of the query.
        last[~step] = self._end(batch, lengths).repeat_interleave(_GLOBALS)
        asks = place < _GLOBALS + self.last_steps
        everything, order, position = attention_layout(last, offsets, step)
        x = self.cross(x[order], everything.for_queries(asks, position))
        kept = offsets_of(asks.long())[offsets]
        x = self.encoder(x, last[asks], kept, torch.ones_like(asks[asks]), step[asks])
        own = codes.new_zeros(len(codes), len(asks))
        own[:, step] = codes
        return x, own[:, asks], kept

    @property
    def last_steps(self) -> int:
        """Number of last steps that `longer` keeps."""
        return max(1, self.sequence.length // _LAST)

    def _times(self, batch: StepBatch) -> Int64[Tensor, " total"]:
        """Microseconds of the steps; without side information seconds that count the distinct times."""
        return batch.timestamps if self.sequence.labels else _order_times(batch)

    def _end(self, batch: StepBatch, lengths: Tensor) -> Int64[Tensor, " q"]:
        times = torch.cat([self._times(batch), lengths.new_zeros(1)])
        final = times[(batch.offsets[1:] - 1).clamp(min=0)]
        return final.masked_fill(lengths == 0, 0) + SECOND

    def _hstu(self, x: Tensor, batch: StepBatch, candidates: CandidateRows) -> Tensor:
        counts = candidates.offsets.diff()
        asking = self.candidate(candidates.queries)
        z, offsets = jagged_concat([x, asking], [batch.offsets, candidates.offsets])
        for layer in self.layers:
            z = layer(z, offsets, counts, torch.zeros(len(z), dtype=torch.int64, device=z.device))
        _, (read, _) = jagged_split(z, offsets, batch.offsets.diff(), len(batch))
        return torch.as_tensor(self.norm(read))


class MatchProfile(nn.Module):
    """How much of the steps agrees with the candidate: by feature and label state, weighed by age.

    `log1p(sum of w[bucket of the step's age])` over the steps with the candidate's value and this state of the label;
    `w > 0` is learned, two of them for each feature and state, since a histogram itself would be many sparse inputs to
    overfit. Without side information, positions from the end take the place of ages, and there are no states.
    """

    def __init__(self, config: RankerConfig, sequence: SequenceConfig) -> None:
        super().__init__()
        self.sequence = sequence
        self.compared = compared(config, sequence)
        self.labels = len(config.labels) if sequence.labels else 1
        self.states = 3 * self.labels if sequence.labels else 1
        self.width = len(self.compared) * self.states * _WEIGHTS
        if self.compared:
            self.weights = nn.Parameter(torch.randn(len(self.compared), self.states, BUCKETS, _WEIGHTS) * 0.1 - 2)

    def forward(self, batch: StepBatch, candidates: CandidateRows) -> Float32[Tensor, "n {self.width}"]:
        """One row of numbers per candidate."""
        n, queries, steps = len(candidates.queries), row_numbers(candidates.offsets), row_numbers(batch.offsets)
        state, bucket = self._states(batch), self._buckets(batch, candidates.as_of)
        parts = []
        for feature, name in enumerate(self.compared):
            rows, at = matching_pairs(candidates.categorical[name], queries, batch.categorical[name], steps)
            weights = softplus(self.weights[feature]).flatten(0, 1)
            read = weights[state[at] * BUCKETS + bucket[at].unsqueeze(1)]
            cell = rows.unsqueeze(1) * self.states + state[at]
            sums = read.new_zeros(n * self.states, _WEIGHTS).index_add(0, cell.flatten(), read.flatten(0, 1))
            parts.append(sums.view(n, self.states * _WEIGHTS))
        return torch.cat(parts, 1).log1p() if parts else torch.zeros(n, 0, device=queries.device)

    def _states(self, batch: StepBatch) -> Int64[Tensor, "total labels"]:
        """The state of each label, numbered over all labels."""
        if not self.sequence.labels:
            return torch.zeros(len(batch), 1, dtype=torch.int64, device=batch.offsets.device)
        return batch.labels + 3 * torch.arange(self.labels, device=batch.labels.device)

    def _buckets(self, batch: StepBatch, as_of: Tensor) -> Int64[Tensor, " total"]:
        return half_octave(_ages(batch, as_of) if self.sequence.labels else places_from_end(batch))


def compared(config: RankerConfig, sequence: SequenceConfig) -> tuple[str, ...]:
    """The features of the steps that the rows have too."""
    return tuple(name for name in sequence.categorical if name in config.categorical)


def places_from_end(batch: StepBatch) -> Int64[Tensor, " total"]:
    """Number of later steps in each step's query: 0 for the last."""
    rows = row_numbers(batch.offsets)
    return batch.offsets[rows + 1] - 1 - torch.arange(len(rows), device=rows.device)


def _ages(batch: StepBatch, as_of: Tensor) -> Int64[Tensor, " total"]:
    return (as_of[row_numbers(batch.offsets)] - batch.timestamps) // SECOND


def _gaps(batch: StepBatch) -> Int64[Tensor, " total"]:
    """Seconds since the step before; 0 for the first of a query."""
    gaps = torch.zeros_like(batch.timestamps)
    gaps[1:] = batch.timestamps.diff() // SECOND
    return gaps.masked_fill(_firsts(batch), 0)


def _firsts(batch: StepBatch) -> Tensor:
    rows = row_numbers(batch.offsets)
    return batch.offsets[rows] == torch.arange(len(rows), device=rows.device)


def _order_times(batch: StepBatch) -> Int64[Tensor, " total"]:
    rows = row_numbers(batch.offsets)
    later = torch.zeros_like(batch.timestamps)
    later[1:] = (batch.timestamps.diff() > 0).long()
    count = later.masked_fill(_firsts(batch), 0).cumsum(0)
    return (count - count[batch.offsets[rows]]) * SECOND if len(rows) else count


def _stacked(categorical: dict[str, Tensor], names: tuple[str, ...], n: int) -> Int64[Tensor, "features n"]:
    return torch.stack([categorical[name] for name in names]) if names else torch.zeros(0, n, dtype=torch.int64)


def _embedding(rows: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(rows, width)
    nn.init.normal_(embedding.weight, std=0.1)
    return embedding
