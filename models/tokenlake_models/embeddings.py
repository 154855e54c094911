"""One embedding table for all features, and the scaling of numeric ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from tokenlake_models.errors import InstancesError

#: Knots of a number's grid, and their distance.
_KNOTS, _STEP = 73, 0.5


class FusedTable(nn.Module):
    """The embeddings of many features as blocks of one weight, so that a single lookup reads all of them.

    Row 0 of each block stands for ids out of vocabulary. Every other row starts as a copy of it, initially and after
    `grow`: an untrained id has the embedding of an unknown one.

    Gradients are sparse; `tokenlake_models.optimizers.RowwiseAdagrad` applies them.
    """

    weight: nn.Parameter

    def __init__(self, rows: Mapping[str, int], width: int, *, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.rows = dict(rows)
        self.starts = _starts(self.rows)
        unknown = torch.randn(len(self.rows), width, generator=generator) * scale
        self.weight = nn.Parameter(unknown.repeat_interleave(torch.tensor([*self.rows.values()], dtype=torch.int64), 0))

    def lookup(self, rows: dict[str, Int64[Tensor, " n"]]) -> Float32[Tensor, "n features width"]:
        """Embeddings of single-valued features, in the order given."""
        index = torch.stack([local + self.starts[name] for name, local in rows.items()], dim=1)
        return embedding(index, self.weight, sparse=True)

    def sums(self, rows: dict[str, Int64[Tensor, " n"]]) -> Float32[Tensor, "n width"]:
        """Sum of `lookup` over the features, without creating its `(n, features, width)` result."""
        index = torch.stack([local + self.starts[name] for name, local in rows.items()], dim=1)
        return embedding_bag(index, self.weight, mode="sum", sparse=True)

    def means(
        self, bags: dict[str, tuple[Int64[Tensor, " _"], Int64[Tensor, " n_1"]]]
    ) -> Float32[Tensor, "n features width"]:
        """Mean embeddings of multi-valued features, in the order given; zero where there is no value."""
        index = torch.cat([values + self.starts[name] for name, (values, _) in bags.items()])
        ends = itertools.accumulate((len(values) for values, _ in bags.values()), initial=0)
        offsets = torch.cat([begin[:-1] + end for (_, begin), end in zip(bags.values(), ends, strict=False)])
        mean = embedding_bag(index, self.weight, offsets, mode="mean", sparse=True)
        return mean.view(len(bags), -1, mean.shape[1]).transpose(0, 1)

    def grow(self, rows: Mapping[str, int]) -> Int64[Tensor, " new_total"]:
        """Extend blocks to the numbers of rows given; features not named stay as they are.

        Returns:
            For each row of the new weight its old row, or -1 for a new one; used to extend other state per row.

        Raises:
            InstancesError: an unknown feature, or fewer rows than there are.
        """
        target = grown(self.rows, rows)
        unknown, origin = [], []
        for name, start in self.starts.items():
            old, new = self.rows[name], target[name] - self.rows[name]
            kept = torch.arange(start, start + old)
            unknown.append(torch.cat([kept, kept[:1].expand(new)]))
            origin.append(torch.cat([kept, kept.new_full((new,), -1)]))
        if target != self.rows:
            self.weight = nn.Parameter(self.weight.detach()[torch.cat(unknown)])
            self.rows, self.starts = target, _starts(target)
        return torch.cat(origin)


def grown(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    """Merge the numbers of rows of `new` into `old`.

    Raises:
        InstancesError: `new` names an unknown feature, or fewer rows than `old`.
    """
    for name, count in new.items():
        if name not in old:
            raise InstancesError(f"no embedded feature {name!r} to grow; the model has {sorted(old)}")
        if count < old[name]:
            raise InstancesError(f"{name!r} has {old[name]} rows and can only grow, got {count}")
    return {**old, **new}


class Standardize(nn.Module):
    """Numeric inputs on one scale, by statistics of the training data seen so far.

    Each column gives three inputs: the value and its signed logarithm `sign(x) log(1 + |x|)`, both standardised and
    clipped at 8 deviations (raw values distinguish small numbers, logarithms compress heavy tails), and a flag for a
    missing value, in which case the other two are 0, the mean.
    """

    seen: Float64[Tensor, " features"]
    mean: Float64[Tensor, " features"]
    squares: Float64[Tensor, " features"]

    def __init__(self, columns: int) -> None:
        super().__init__()
        for name in ("seen", "mean", "squares"):
            self.register_buffer(name, torch.zeros(2 * columns, dtype=torch.float64))

    @property
    def width(self) -> int:
        """Columns of `forward`'s output."""
        return len(self.seen) // 2 * 3

    def update(self, x: Float32[Tensor, "n columns"]) -> None:
        """Update the statistics with more training data (the parallel form of Welford's sums)."""
        values = _with_logarithm(x.double())
        there = ~values.isnan()
        count = there.sum(0).double()
        mean = values.nan_to_num(0.0).sum(0) / count.clamp(min=1)
        squares = (values - mean).square().nan_to_num(0.0).sum(0)
        total = (self.seen + count).clamp(min=1)
        delta = mean - self.mean
        self.squares += squares + delta.square() * self.seen * count / total
        self.mean += delta * count / total
        self.seen += count

    def forward(self, x: Float32[Tensor, "n columns"]) -> Float32[Tensor, "n inputs"]:
        """Scaled values, scaled logarithms, and flags of missing values."""
        deviation = (self.squares / self.seen.clamp(min=1)).sqrt()
        inverse = torch.where(deviation > 0, 1 / deviation, 1.0)
        scaled = ((_with_logarithm(x) - self.mean) * inverse).float().clamp(-8.0, 8.0)
        return torch.cat([scaled.nan_to_num(0.0), x.isnan().float()], dim=1)


class NumberGrid(nn.Module):
    """Numeric inputs as embeddings: each number is interpolated between the learned rows of the two knots around it.

    Knots stand every half from -18 to 18 on the scale of `sign(x) log(1 + |x|)`, of counts, durations in seconds and
    other numbers, of such logarithms themselves, or of `log(x / (1 - x))`, of rates. They are fixed, so nothing is
    fitted or drifts; numbers beyond them are as the last. A missing number has a row of its own.

    Args:
        columns: numbers a row.
        width: of a number's embedding.
        rates: columns that hold rates, from 0 to 1.
        logarithms: columns that hold logarithms already.
        generator: of the initial embeddings.
    """

    weight: nn.Parameter
    _rates: Bool[Tensor, " columns"]
    _logarithms: Bool[Tensor, " columns"]

    def __init__(
        self, columns: int, width: int, rates: Sequence[int], logarithms: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.columns, self.width = columns, columns * width
        self.weight = nn.Parameter(torch.randn(columns * (_KNOTS + 1), width, generator=generator) * 0.05)
        for name, chosen in (("_rates", rates), ("_logarithms", logarithms)):
            holds = torch.zeros(columns, dtype=torch.bool)
            holds[list(chosen)] = True
            self.register_buffer(name, holds, persistent=False)

    def forward(self, x: Float32[Tensor, "n {self.columns}"]) -> Float32[Tensor, "n {self.width}"]:
        """The embeddings of a row's numbers, concatenated."""
        missing = x.isnan()
        place = (self._scaled(x.nan_to_num(0.0)) / _STEP + _KNOTS // 2).clamp(0, _KNOTS - 1)
        low = place.long().clamp(max=_KNOTS - 2)
        start = torch.arange(self.columns, device=x.device) * (_KNOTS + 1)
        below = embedding(start + low.masked_fill(missing, _KNOTS), self.weight)
        above = embedding(start + (low + 1).masked_fill(missing, _KNOTS), self.weight)
        return torch.lerp(below, above, (place - low).unsqueeze(2)).flatten(1)

    def _scaled(self, x: Tensor) -> Tensor:
        logarithm = torch.where(self._logarithms, x, x.sign() * x.abs().log1p())
        return torch.where(self._rates, x.logit(eps=1e-4), logarithm)


def _with_logarithm(x: Tensor) -> Tensor:
    return torch.cat([x, x.sign() * x.abs().log1p()], dim=1)


def _starts(rows: Mapping[str, int]) -> dict[str, int]:
    return dict(zip(rows, itertools.accumulate(rows.values(), initial=0), strict=False))
