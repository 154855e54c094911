"""Streams: what definitions have in common on disk. A stream holds one contribution an event, key and fact."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tokenlake.config import Config, Count, CountColumn, Filter
from tokenlake.config.counts import column_of

_MICRO = dt.timedelta(microseconds=1)
_FORMAT = 1
#: How far a unit may be from one part of a whole number.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class CountStream:
    """What the contributions of a stream are, and which sums are kept beside them.

    Attributes:
        by: the keys; none for the stream of all events, which gives the global means.
        where: filters of which an event passes any; none: all events.
        label: the label that is counted, if any.
        numeric: the numeric feature, if any.
        unit: values of the feature are kept as multiples of it.
        positives: whether only positives of the label contribute.
        late: whether a contribution may become known later than its event happened.
        windows: windows (us) of streams that are `late`, for which the instants of leaving are kept.
        half_lives: half-lives (us) of decayed sums.
        ordered: whether event ids are kept, to tell which of several events at one instant is the last.
    """

    by: tuple[str, ...]
    where: tuple[Filter, ...] = ()
    label: str | None = None
    numeric: str | None = None
    unit: float = 1.0
    positives: bool = False
    late: bool = False
    windows: tuple[int, ...] = ()
    half_lives: tuple[int, ...] = ()
    ordered: bool = False

    @property
    def identity(self) -> CountStream:
        """The stream without what is kept beside the contributions: equal for definitions that can share one."""
        return dataclasses.replace(self, windows=(), half_lives=(), ordered=False)

    @property
    def valued(self) -> bool:
        """Whether contributions have values, or each counts one."""
        return self.numeric is not None or (self.label is not None and not self.positives)

    def numbers(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Multiples of the unit as numbers; units such as a hundredth are divided by, so that 3 of them are .03 and no less."""
        parts = round(1 / self.unit)
        return units / parts if parts > 1 and abs(parts * self.unit - 1) < _ROUNDING else units * self.unit

    @property
    def columns(self) -> list[str]:
        """Columns of `events` that it is made of."""
        labels = {f.label for f in self.where if f.label} | ({self.label} if self.label else set())
        features = {f.feature for f in self.where if f.feature} | ({self.numeric} if self.numeric else set())
        known = {f"{label}_known_at" for label in labels}
        names = {"timestamp", *map(column_of, self.by), *labels, *known, *features}
        return sorted(names | ({"event_id"} if self.ordered else set()))

    def __hash__(self) -> int:
        """That of the digest, which is worked out once: streams are looked up at every question."""
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Name of its folder: it changes with everything that the state depends on."""
        made_of = dataclasses.asdict(self) | {"where": [f.model_dump(mode="json") for f in self.where]}
        return hashlib.sha256(json.dumps([_FORMAT, made_of], sort_keys=True).encode()).hexdigest()[:12]

    def joined(self, other: CountStream) -> CountStream:
        """One stream that serves both."""
        return dataclasses.replace(
            self,
            windows=tuple(sorted({*self.windows, *other.windows})),
            half_lives=tuple(sorted({*self.half_lives, *other.half_lives})),
            ordered=self.ordered or other.ordered,
        )


@dataclass(frozen=True)
class Recipe:
    """How the columns of a definition are computed.

    Attributes:
        name: of the definition.
        count: the definition.
        values: the stream of what it counts.
        positives: for the recency of a label: the stream of its positives.
        everything: for means: the stream of all events.
    """

    name: str
    count: Count
    values: CountStream
    positives: CountStream | None
    everything: CountStream | None

    @property
    def columns(self) -> list[CountColumn]:
        """Its columns, in order."""
        return list(self.count.columns(self.name))

    def streams(self) -> Iterator[CountStream]:
        """The streams that it reads."""
        yield from (s for s in (self.values, self.positives, self.everything) if s is not None)


def recipes(config: Config, definitions: dict[str, Count]) -> list[Recipe]:
    """How definitions are computed; those that can share a stream do."""
    made = [_recipe(config, name, count) for name, count in definitions.items()]
    shared: dict[CountStream, CountStream] = {}
    for stream in (s for recipe in made for s in recipe.streams()):
        known = shared.get(stream.identity)
        shared[stream.identity] = known.joined(stream) if known else stream
    return [
        dataclasses.replace(
            recipe,
            values=shared[recipe.values.identity],
            positives=recipe.positives and shared[recipe.positives.identity],
            everything=recipe.everything and shared[recipe.everything.identity],
        )
        for recipe in made
    ]


def _recipe(config: Config, name: str, count: Count) -> Recipe:
    of, columns = count.of, list(count.columns(name))
    labels = {f.label for f in of.where if f.label} | ({of.label} if of.label else set())
    base = CountStream(
        by=count.by,
        where=of.where,
        label=of.label,
        numeric=of.numeric,
        unit=of.unit if of.numeric else 1.0,
        late=any(config.events.labels[label].known_at is not None for label in labels),
    )
    means = [column for column in columns if column.aggregate == "mean"]
    values = _with_sums(base, [c for c in columns if of.label is None or c.aggregate != "recency"])
    needs_positives = of.label is not None and "recency" in count.aggregates
    return Recipe(
        name,
        count,
        values,
        _with_sums(dataclasses.replace(base, positives=True), []) if needs_positives else None,
        _with_sums(dataclasses.replace(base, by=()), means) if means else None,
    )


def _with_sums(stream: CountStream, columns: Iterable[CountColumn]) -> CountStream:
    """A stream that keeps what some columns need."""
    columns = list(columns)
    summed = [column for column in columns if column.aggregate in ("count", "known", "mean", "sum")]
    windows = {column.window // _MICRO for column in summed if column.window is not None and stream.late}
    half_lives = {column.half_life // _MICRO for column in summed if column.half_life is not None}
    return dataclasses.replace(
        stream,
        windows=tuple(sorted(windows)),
        half_lives=tuple(sorted(half_lives)),
        ordered=any(column.aggregate == "last" for column in columns),
    )
