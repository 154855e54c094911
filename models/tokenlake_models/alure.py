"""ALURE: asynchronously learned user representations (arXiv 2406.05898), with the item tower they are trained against."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from tokenlake_kernels import jagged_attention, jagged_cross_attention
from tokenlake_models.activity import Activity, Categorical, Encoded, Items, Multi, Stream, UserQueries
from tokenlake_models.embeddings import FusedTable, Standardize
from tokenlake_models.errors import CheckpointError, InstancesError, ModelError
from tokenlake_models.jagged import row_numbers, take_rows

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
        numeric: names of `Activity.numeric`'s columns.
        item_features: names of the features above that describe the item; `item_id` among them.
        labels: names of `Activity.labels`' columns.
        dim: width of the embeddings.
        width: width of the hidden layers.
        layers: self-attention layers of each source, over a user's events of one day.
        heads: attention heads; divides `width`.
        queries: learned queries that pool a source.
        history: most events that a source reads.
        time: whether ages, gaps, hours and weekdays are inputs (False for the ablation).
        id_dropout: share of ids that training replaces by row 0.
        temperature: initial divisor of the cosines in the loss; learned from there.
        seed: of the initial weights.
    """

    sources: tuple[str, ...] = ("events",)
    categorical: dict[str, int] = field(default_factory=dict)
    multi: dict[str, int] = field(default_factory=dict)
    numeric: tuple[str, ...] = ()
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
        known = {*self.rows, *self.numeric}
        if unknown := set(self.item_features) - known:
            raise ModelError(f"item_features {sorted(unknown)} are no features of the model; there are {sorted(known)}")
        if self.width % self.heads:
            raise ModelError(f"width {self.width} is no multiple of heads {self.heads}; choose heads that divide it")

    @property
    def rows(self) -> dict[str, int]:
        """Rows of every embedded feature."""
        return {**self.categorical, **self.multi}

    @property
    def item_numeric(self) -> tuple[str, ...]:
        """Names of `Items.numeric`'s columns."""
        return tuple(name for name in self.numeric if name in self.item_features)

    def with_rows(self, rows: dict[str, int]) -> AlureConfig:
        """A copy with other vocabulary sizes."""
        return dataclasses.replace(
            self,
            categorical={name: rows[name] for name in self.categorical},
            multi={name: rows[name] for name in self.multi},
        )

    @classmethod
    def from_dict(cls, data: Any) -> AlureConfig:
        """Create a config from `dataclasses.asdict`; lists are read as tuples.

        Raises:
            CheckpointError: unknown or missing fields, or invalid values.
        """
        try:
            return cls(**_tupled(data))
        except (AttributeError, TypeError, ModelError) as error:
            raise CheckpointError(f"no user encoder's config: {error}") from error


def _tupled(data: Any) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


class _DayLayer(nn.Module):
    """Pre-norm causal attention and feed-forward; both branches start at zero, so an untrained layer is the identity."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        back = nn.Linear(2 * width, width)
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), back)
        for branch in (self.out, back):
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Map jagged rows `(total, width)` to the same shape."""
        q, k, v = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(1)
        seen = jagged_attention(q, k, v, offsets, causal=True, window=self.window)
        x = x + self.out(seen.flatten(1))
        return torch.add(x, self.feed(x))


class _SourceEncoder(nn.Module):
    """Encoder of one activity source.

    Events are encoded once for all queries, by jagged causal self-attention over the instants of a user's day, so that
    later events do not change them. A query then pools its history with learned queries; features that depend on the
    query time (rank, age, gap, labels known by then) are added to keys and values at that point.
    """

    def __init__(self, config: AlureConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.layers = nn.ModuleList(_DayLayer(width, config.heads, config.history) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.key_value = nn.Linear(width, 2 * width)
        self.queries = nn.Parameter(torch.randn(config.queries, width) * width**-0.5)
        self.clock = TimeEncoder(config.history, 2 * width, len(config.labels), clock=config.time)

    def encode(self, x: Tensor, stream: Stream) -> Tensor:
        """Events `(m, width)` of a stream to keys and values `(m, 2 * width)`."""
        groups = row_numbers(stream.ties)
        sizes = stream.ties.diff().unsqueeze(1)
        instants = x.new_zeros(len(sizes), x.shape[1]).index_add(0, groups, x) / sizes
        for layer in self.layers:
            instants = layer(instants, stream.offsets)
        out: Tensor = self.key_value(self.norm(x + instants.index_select(0, groups)))
        return out

    def pool(self, encoded: Tensor, time_features: Tensor, offsets: Tensor) -> Tensor:
        """Keys and values `(total, 2 * width)` of jagged histories to `(q, queries * width)`; zeros without events."""
        k, v = (encoded + self.clock(time_features)).unflatten(-1, (2, self.heads, -1)).unbind(1)
        queries = self.queries.view(len(self.queries), self.heads, -1).expand(len(offsets) - 1, -1, -1, -1)
        return jagged_cross_attention(queries, k, v, offsets).flatten(1)


class TimeEncoder(nn.Module):
    """Encoding of an event relative to the query time: the sum of table rows for rank, age, gap and known labels.

    Args:
        history: largest rank with its own row.
        width: width of the encoding.
        labels: number of labels.
        clock: whether ages and gaps are included.
    """

    def __init__(self, history: int, width: int, labels: int, *, clock: bool) -> None:
        super().__init__()
        self.history, self.ages = history, _AGES if clock else 0
        # Ranks, ages, gaps, then label l's 3: unknown, no, yes.
        self.table = nn.Parameter(torch.randn(history + 2 * self.ages + 3 * labels, width) * 0.02)

    def time_features(
        self, activity: Activity, now: Int64[Tensor, " total"], rows: Int64[Tensor, " total"], offsets: Tensor
    ) -> Int64[Tensor, "total marks"]:
        """Table rows for the events `rows` of jagged histories; `now` is the query time of each event."""
        timestamps, place = activity.timestamps[rows], torch.arange(len(rows), device=rows.device)
        query = row_numbers(offsets)
        columns = [(offsets[query + 1] - 1 - place).clamp(max=self.history - 1)]
        if self.ages:
            previous = torch.where(place == offsets[query], timestamps, timestamps.roll(1))
            columns.append(self.history + _log_bucket(now - timestamps))
            columns.append(self.history + self.ages + _log_bucket(timestamps - previous))
        for label in range(activity.labels.shape[1]):
            known = activity.known_at[rows, label] < now
            code = torch.where(known, activity.labels[rows, label] + 1, 0)
            columns.append(self.history + 2 * self.ages + 3 * label + code)
        return torch.stack(columns, dim=1)

    def forward(self, features: Int64[Tensor, "total marks"]) -> Float32[Tensor, "total width"]:
        """Sum the rows of the table."""
        return embedding_bag(features, self.table, mode="sum")


class AlureEncoder(nn.Module):
    """Encodes users by their events, and items by their features, to unit vectors of one space.

    An event is the sum of the embeddings of its features, its hour and its weekday. One encoder per source attends and
    pools; the concatenation is compressed. The item tower shares the items' embeddings.
    """

    def __init__(self, config: AlureConfig) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            width, joined = config.width, len(config.sources) * config.queries * config.width
            self.table = FusedTable(config.rows, width, scale=0.1, generator=generator)
            self.hours = nn.Parameter(torch.randn(24 + 7 if config.time else 0, width) * 0.02)
            self.scale, self.item_scale = Standardize(len(config.numeric)), Standardize(len(config.item_numeric))
            self.numbers = nn.Linear(self.scale.width, width, bias=False) if config.numeric else None
            self.item_numbers = nn.Linear(self.item_scale.width, width, bias=False) if config.item_numeric else None
            self.sources = nn.ModuleList(_SourceEncoder(config) for _ in config.sources)
            self.compress = nn.Sequential(
                nn.LayerNorm(joined), nn.Linear(joined, 2 * width), nn.SiLU(), nn.Linear(2 * width, config.dim)
            )
            self.tower = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, config.dim)
            )
        # Learned weight of an item's popularity in the loss, so that the vectors need not encode popularity.
        self.popularity = nn.Parameter(torch.ones(()))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def users(self, activity: Activity, queries: UserQueries) -> Float32[Tensor, "q dim"]:
        """Unit vectors of users at query times, from their histories."""
        return self.pool(activity, queries, self.encode_for(activity, queries))

    def encode_for(self, activity: Activity, queries: UserQueries) -> list[Encoded]:
        """Encode only the events that the histories of some queries need."""
        parts = []
        for stream, (rows, _) in zip(activity.streams, queries.histories, strict=True):
            place = stream.rows.new_zeros(len(activity))
            place[stream.rows] = torch.arange(len(stream.rows), device=place.device)
            parts.append(stream.until(torch.unique(place[rows])))
        return self.encode(activity, parts)

    def encode(self, activity: Activity, streams: Sequence[Stream]) -> list[Encoded]:
        """Keys and values of every event of some streams, one for each source."""
        distinct = torch.unique(torch.cat([stream.rows for stream in streams]))
        place = distinct.new_zeros(len(activity))
        place[distinct] = torch.arange(len(distinct), device=place.device)
        events = self._events(activity, distinct)
        out = []
        for source, stream in zip(self._sources(), streams, strict=True):
            values = source.encode(events.index_select(0, place[stream.rows]), stream)
            where = place.new_zeros(len(activity))
            where[stream.rows] = torch.arange(len(stream.rows), device=where.device)
            out.append(Encoded(values, where))
        return out

    def pool(self, activity: Activity, queries: UserQueries, encoded: Sequence[Encoded]) -> Float32[Tensor, "q dim"]:
        """Unit vectors of queries from encoded events; reads only times and labels of `activity`."""
        pooled = []
        for source, (rows, offsets), one in zip(self._sources(), queries.histories, encoded, strict=True):
            marks = source.clock.time_features(activity, queries.as_of[row_numbers(offsets)], rows, offsets)
            pooled.append(source.pool(one.values.index_select(0, one.positions[rows]), marks, offsets))
        return normalize(self.compress(torch.cat(pooled, dim=1)), dim=1)

    def items(self, items: Items) -> Float32[Tensor, "m dim"]:
        """Unit vectors of items."""
        names = set(self.config.item_features)
        categorical = {name: rows for name, rows in items.categorical.items() if name in names}
        multi = {name: bag for name, bag in items.multi.items() if name in names}
        summed = self._summed(categorical, multi)
        if self.item_numbers is not None:
            numbers = _given(items.numeric, self.config.item_numeric, "items")
            summed = summed + self.item_numbers(self.item_scale(numbers))
        return normalize(self.tower(summed), dim=1)

    def grow(self, rows: dict[str, int]) -> Int64[Tensor, " new_total"]:
        """Extend vocabularies to the given numbers of rows; returns the result of `FusedTable.grow`."""
        origin = self.table.grow(rows)
        self.config = self.config.with_rows(self.table.rows)
        return origin

    def _sources(self) -> list[_SourceEncoder]:
        return cast(list[_SourceEncoder], list(self.sources))  # a ModuleList does not declare its element type

    def _events(self, activity: Activity, rows: Tensor) -> Tensor:
        summed = self._summed(
            {name: values[rows] for name, values in activity.categorical.items()},
            {name: take_rows(values, begins, rows) for name, (values, begins) in activity.multi.items()},
        )
        if self.numbers is not None:
            numbers = _given(activity.numeric, self.config.numeric, "events")
            summed = summed + self.numbers(self.scale(numbers[rows]))
        if self.config.time:
            hours = activity.timestamps[rows] // (3600 * _SECOND)
            clock = torch.stack([hours % 24, 24 + hours // 24 % 7], dim=1)
            summed = summed + embedding_bag(clock, self.hours, mode="sum")
        return summed

    def _summed(self, categorical: Categorical, multi: Multi) -> Tensor:
        summed = self.table.sums(categorical)
        return summed + self.table.means(multi).sum(1) if multi else summed


def _given(numbers: Tensor | None, names: tuple[str, ...], rows: str) -> Tensor:
    """The numeric features that the model reads."""
    if numbers is None or numbers.shape[1] != len(names):
        given = "none" if numbers is None else f"shape {tuple(numbers.shape)}"
        raise InstancesError(f"numeric of the {rows}: shape (n, {len(names)}) expected for {list(names)}, got {given}")
    return numbers


def _log_bucket(micros: Tensor) -> Tensor:
    """floor(log2(seconds + 1)), as the exponent of a float."""
    seconds = torch.div(micros, _SECOND, rounding_mode="floor").clamp(min=0)
    return torch.frexp((seconds + 1).double())[1].sub(1).clamp(0, _AGES - 1).long()
