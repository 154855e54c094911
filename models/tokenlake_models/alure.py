"""ALURE: asynchronously learned user representations (arXiv 2406.05898), with the item tower they are trained against."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from tokenlake_kernels import jagged_cross_attention
from tokenlake_models.activity import Activity, Categorical, Items, Moments, Multi
from tokenlake_models.embeddings import FusedTable
from tokenlake_models.errors import CheckpointError, ModelError
from tokenlake_models.jagged import row_numbers, take_rows
from tokenlake_models.sit import SIT

#: Powers of two of seconds, for ages and gaps: 2^31 s are 68 years.
_AGES = 32
_SECOND = 1_000_000


@dataclass(frozen=True)
class AlureConfig:
    """Inputs and shape of a user encoder and its item tower.

    Attributes:
        sources: names of the activity sources, each with an encoder of its own.
        categorical: `{name: vocabulary rows}` of events, row 0 out of vocabulary; `item_id` among them.
        multi: likewise for multi-valued features.
        item_features: those of the above that describe the item; `item_id` among them.
        labels: names of `Activity.labels`' columns.
        dim: width of the embeddings.
        width: width of the hidden layers.
        layers: of self-attention in each source.
        heads: attention heads; divides `width`.
        queries: learned queries that pool a source.
        history: events that a source reads at most.
        time: ages, gaps, hours and weekdays among the inputs (off for the ablation).
        id_dropout: share of ids that training replaces by row 0.
        temperature: initial divisor of the cosines in the loss; learned from there.
        seed: of the initial weights.
    """

    sources: tuple[str, ...] = ("events",)
    categorical: dict[str, int] = field(default_factory=dict)
    multi: dict[str, int] = field(default_factory=dict)
    item_features: tuple[str, ...] = ("item_id",)
    labels: tuple[str, ...] = ()
    dim: int = 64
    width: int = 64
    layers: int = 1
    heads: int = 2
    queries: int = 4
    history: int = 64
    time: bool = True
    id_dropout: float = 0.1
    temperature: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise ModelError("sources is empty; a user encoder reads at least one activity source")
        if "item_id" not in self.categorical or "item_id" not in self.item_features:
            raise ModelError("item_id must be among categorical and item_features")
        if unknown := set(self.item_features) - self.rows.keys():
            raise ModelError(f"item_features {sorted(unknown)} are no embedded features; there are {sorted(self.rows)}")
        if self.width % self.heads:
            raise ModelError(f"width {self.width} is no multiple of heads {self.heads}; choose heads that divide it")

    @property
    def rows(self) -> dict[str, int]:
        """Rows of every embedded feature."""
        return {**self.categorical, **self.multi}

    def with_rows(self, rows: dict[str, int]) -> AlureConfig:
        """The same with other vocabulary sizes."""
        return dataclasses.replace(
            self,
            categorical={name: rows[name] for name in self.categorical},
            multi={name: rows[name] for name in self.multi},
        )

    @classmethod
    def from_dict(cls, data: Any) -> AlureConfig:
        """From `dataclasses.asdict`, lists standing for tuples.

        Raises:
            CheckpointError: unknown or missing fields, or values that no config has.
        """
        try:
            return cls(**_tupled(data))
        except (AttributeError, TypeError, ModelError) as error:
            raise CheckpointError(f"no user encoder's config: {error}") from error


def _tupled(data: Any) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


class TimeEncoder(nn.Module):
    """Several encodings of an event's time at once, summed: rank from the end, age, gap, hour, weekday.

    Args:
        history: ranks are told apart up to here.
        width: of the encoding.
        clock: with False the rank alone.
    """

    def __init__(self, history: int, width: int, *, clock: bool) -> None:
        super().__init__()
        sizes = {"rank": history} | ({"age": _AGES, "gap": _AGES, "hour": 24, "weekday": 7} if clock else {})
        self.tables = nn.ParameterDict({name: torch.randn(size, width) * 0.02 for name, size in sizes.items()})
        self.out = nn.Linear(width, width)

    def forward(
        self, timestamps: Int64[Tensor, " total"], now: Int64[Tensor, " total"], offsets: Int64[Tensor, " q_1"]
    ) -> Float[Tensor, "total width"]:
        """Encode events of jagged histories; `now` is the moment of each event's question."""
        rows = row_numbers(offsets)
        place = torch.arange(len(rows), device=rows.device)
        previous = torch.where(place == offsets[rows], timestamps, timestamps.roll(1))
        hours = timestamps // (3600 * _SECOND)
        index = {
            "rank": (offsets[rows + 1] - 1 - place).clamp(max=len(self.tables["rank"]) - 1),
            "age": _log_bucket(now - timestamps),
            "gap": _log_bucket(timestamps - previous),
            "hour": hours % 24,
            "weekday": hours // 24 % 7,
        }
        out: Tensor = self.out(torch.stack([table[index[name]] for name, table in self.tables.items()]).sum(0))
        return out


class _Source(nn.Module):
    """Encoder of one activity source: jagged self-attention, then pooling by learned queries."""

    def __init__(self, config: AlureConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention = SIT(config.width, config.layers, config.heads)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.queries = nn.Parameter(torch.randn(config.queries, config.width) * config.width**-0.5)

    def forward(self, x: Tensor, timestamps: Tensor, offsets: Tensor) -> Tensor:
        """Jagged events `(total, width)` to `(q, queries * width)`; zeros where there are none."""
        everything = torch.ones_like(timestamps, dtype=torch.bool)
        x = self.attention(x, timestamps, offsets, everything, everything)
        k, v = self.key_value(x).unflatten(-1, (2, self.heads, -1)).unbind(1)
        queries = self.queries.view(len(self.queries), self.heads, -1).expand(len(offsets) - 1, -1, -1, -1)
        return jagged_cross_attention(queries, k.contiguous(), v.contiguous(), offsets).flatten(1)


class AlureEncoder(nn.Module):
    """Users by what they did, and items by what they are, in one space of unit vectors.

    An event is the sum of the embeddings of its features and known labels, and of its time. One encoder a source
    attends and pools; the concatenation is compressed. The item tower shares the items' embeddings.
    """

    def __init__(self, config: AlureConfig) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            width, joined = config.width, len(config.sources) * config.queries * config.width
            self.table = FusedTable(config.rows, width, scale=0.1, generator=generator)
            # Row 3 l + (0: unknown, 1: no, 2: yes) of label l.
            self.labels = nn.Embedding(3 * len(config.labels), width)
            self.clock = TimeEncoder(config.history, width, clock=config.time)
            self.sources = nn.ModuleList(_Source(config) for _ in config.sources)
            self.compress = nn.Sequential(
                nn.LayerNorm(joined), nn.Linear(joined, 2 * width), nn.SiLU(), nn.Linear(2 * width, config.dim)
            )
            self.tower = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, config.dim)
            )
            nn.init.normal_(self.labels.weight, std=0.02)
        # Weight of an item's popularity in the loss, learned: so vectors need not tell it.
        self.popularity = nn.Parameter(torch.ones(()))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def users(self, activity: Activity, moments: Moments) -> Float32[Tensor, "q dim"]:
        """Unit vectors of users at moments, from what their histories hold."""
        pooled = [
            self._pool(source, activity, moments.now, rows, offsets)
            for source, (rows, offsets) in zip(self.sources, moments.histories, strict=True)
        ]
        return normalize(self.compress(torch.cat(pooled, dim=1)), dim=1)

    def items(self, items: Items) -> Float32[Tensor, "m dim"]:
        """Unit vectors of items."""
        names = set(self.config.item_features)
        categorical = {name: rows for name, rows in items.categorical.items() if name in names}
        multi = {name: bag for name, bag in items.multi.items() if name in names}
        return normalize(self.tower(self._summed(categorical, multi)), dim=1)

    def grow(self, rows: dict[str, int]) -> Int64[Tensor, " new_total"]:
        """Extend vocabularies to the numbers of rows given; returns what `FusedTable.grow` does."""
        origin = self.table.grow(rows)
        self.config = self.config.with_rows(self.table.rows)
        return origin

    def _pool(self, source: nn.Module, activity: Activity, now: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
        distinct, where = torch.unique(rows, return_inverse=True)
        events = self._summed(
            {name: values[distinct] for name, values in activity.categorical.items()},
            {name: take_rows(values, begins, distinct) for name, (values, begins) in activity.multi.items()},
        )
        timestamps, asked = activity.timestamps[rows], now[row_numbers(offsets)]
        x = events[where] + self.clock(timestamps, asked, offsets)
        if self.config.labels:
            known = activity.known_at[rows] < asked.unsqueeze(1)
            codes = torch.where(known, activity.labels[rows] + 1, 0)
            x = x + self.labels(codes + 3 * torch.arange(codes.shape[1], device=codes.device)).sum(1)
        out: Tensor = source(x, timestamps, offsets)
        return out

    def _summed(self, categorical: Categorical, multi: Multi) -> Tensor:
        summed = self.table.lookup(categorical).sum(1)
        return summed + self.table.means(multi).sum(1) if multi else summed


def _log_bucket(micros: Tensor) -> Tensor:
    """floor(log2(seconds + 1)), as the exponent of a float."""
    seconds = torch.div(micros, _SECOND, rounding_mode="floor").clamp(min=0)
    return torch.frexp((seconds + 1).double())[1].sub(1).clamp(0, _AGES - 1).long()
