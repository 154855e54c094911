"""Declared aggregations of a lake: rolls their streams on from watermark to watermark, and answers from them."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.config import CountColumn
from tokenlake.config.counts import column_of
from tokenlake.errors import LockedError, SchemaError
from tokenlake.features.aggregations.contributions import contributions
from tokenlake.features.aggregations.query import Floats, answer
from tokenlake.features.aggregations.run import CountRun
from tokenlake.features.aggregations.state import Builder, Made, StreamState, drop_others, gathered
from tokenlake.features.aggregations.streams import CountStream, Recipe, recipes
from tokenlake.features.keys import Ints
from tokenlake.lake.project import Project
from tokenlake.progress import Progress
from tokenlake.storage.arrays import header
from tokenlake.storage.locks import hold
from tokenlake.times import NEVER, Day

#: Events that are read at once.
_BATCH_ROWS = 1_000_000


@dataclass(frozen=True)
class StreamUse:
    """What a stream takes.

    Attributes:
        contributions: how many contributions its state holds.
        keys: of how many keys.
        bytes: size of its files.
        until: the watermark (us) that the state reaches; 0 where there is none yet.
        added: how many contributions the last update added.
        seconds: CPU seconds that it took.
    """

    contributions: int
    keys: int
    bytes: int
    until: int
    added: int
    seconds: float


class Aggregations:
    """The declared aggregations of a lake.

    The state is derived from the events alone: it can be deleted, and the next job makes it again.
    """

    def __init__(self, lake: Project) -> None:
        self._lake = lake
        self._root = lake.data / "aggregations"
        self._kept: dict[CountStream, _Kept] = {}
        self._rolled_to = -1

    @cached_property
    def _recipes(self) -> dict[str, Recipe]:
        return {recipe.name: recipe for recipe in recipes(self._lake.config, self._lake.config.definitions)}

    def columns(self, names: Collection[str] | None = None) -> list[CountColumn]:
        """What the columns of `features` are, in order."""
        return [column for recipe in self._chosen(names) for column in recipe.columns]

    def key_columns(self, names: Collection[str] | None = None) -> list[str]:
        """Columns of `events` that hold the definitions' keys."""
        return list(dict.fromkeys(column_of(key) for recipe in self._chosen(names) for key in recipe.count.by))

    def features(
        self,
        rows: pa.Table,
        at: Ints,
        watermark: int,
        *,
        extra: pa.Table | None = None,
        names: Collection[str] | None = None,
    ) -> dict[str, Floats]:
        """Compute the columns of definitions strictly before each row's instant; changes nothing on the disk.

        Args:
            rows: n rows with the columns of the keys, named as in `events`.
            at: int64 (n,), the instants (us).
            watermark: bound on `ingested_at` (us) of the events that count.
            extra: rows of `events` that count as well, whenever they were ingested.
            names: the definitions; all by default.

        Returns:
            A column's name -> float64 (n,), NaN where there is nothing.

        Raises:
            SchemaError: a definition that is not declared, or a key that the rows lack.
        """
        chosen = self._chosen(names)
        for name in self.key_columns(names):
            if name not in rows.column_names:
                raise SchemaError(f"counts are asked for rows without {name!r}; they have {rows.column_names}")
        streams = _streams(chosen)
        runs: Mapping[CountStream, Sequence[CountRun]] = self._runs(streams, watermark)
        if extra is not None and extra.num_rows:
            runs = {s: [*runs[s], CountRun.of(s, contributions(s, extra))] for s in streams}
        return answer(chosen, runs, rows, at)

    def roll_on(self, watermark: int, names: Collection[str] | None = None, progress: Progress | None = None) -> None:
        """Bring the state on the disk up to a watermark, at a cost in proportion to the events since the last one.

        Another process that does so at the moment is left to it.
        """
        if names is None and watermark <= self._rolled_to:
            return
        streams = _streams(self._chosen(names))
        with suppress(LockedError), hold(self._root / "aggregations.lock", "counting"):
            if names is None:
                drop_others(self._root, streams)
            ends = {stream: self._state(stream).reached(watermark) for stream in streams}
            for since, group in _by_end(ends, watermark).items():
                for stream, made in self._made(group, since, watermark, progress).items():
                    self._state(stream).append(made, since, watermark)
            if names is None:
                self._rolled_to = watermark

    def streams(self, name: str) -> list[CountStream]:
        """The streams that a definition reads, that of its own values first."""
        return list(self._chosen([name])[0].streams())

    def use(self, name: str) -> dict[CountStream, StreamUse]:
        """What the streams of a definition take on the disk."""
        return {stream: self._use(stream) for stream in self.streams(name)}

    def _use(self, stream: CountStream) -> StreamUse:
        files = self._state(stream).chain(NEVER)
        runs = [CountRun.load(stream, file.path) for file in files]
        keys = np.concatenate([np.zeros(0, np.uint64), *(run.keys for run in runs)])
        return StreamUse(
            len(keys),
            len(np.unique(keys)),
            sum(file.path.stat().st_size for file in files),
            files[-1].until if files else 0,
            *((len(runs[-1]), header(files[-1].path).get("seconds", 0.0)) if files else (0, 0.0)),
        )

    def _chosen(self, names: Collection[str] | None) -> list[Recipe]:
        if names is None:
            return list(self._recipes.values())
        if unknown := [name for name in names if name not in self._recipes]:
            raise SchemaError(f"no declared counts {unknown[0]!r}; `counts:` declares {', '.join(self._recipes)}")
        return [self._recipes[name] for name in names]

    def _runs(self, streams: Sequence[CountStream], watermark: int) -> dict[CountStream, list[CountRun]]:
        """The runs of streams as of a watermark: those on the disk, and in memory the events since."""
        for stream in streams:
            if stream not in self._kept or self._kept[stream].until > watermark:
                self._kept[stream] = _Kept(*self._state(stream).load(watermark))
        ends = {stream: self._kept[stream].until for stream in streams}
        for since, group in _by_end(ends, watermark).items():
            for stream, made in self._made(group, since, watermark).items():
                self._kept[stream] = _Kept(gathered(stream, [*self._kept[stream].runs, made.run]), watermark)
        return {stream: self._kept[stream].runs for stream in streams}

    def _state(self, stream: CountStream) -> StreamState:
        return StreamState(self._root, stream)

    def _made(
        self, streams: Sequence[CountStream], since: int, until: int, progress: Progress | None = None
    ) -> dict[CountStream, Made]:
        """The contributions of the events that were ingested after one watermark, up to another."""
        with tempfile.TemporaryDirectory(prefix="tokenlake-counts-") as scratch:
            builders = {stream: Builder(stream, Path(scratch)) for stream in streams}
            for events in self._ingested(streams, since, until, progress):
                for builder in builders.values():
                    builder.add(events)
            return {stream: builder.finish() for stream, builder in builders.items()}

    def _ingested(
        self, streams: Sequence[CountStream], since: int, until: int, progress: Progress | None
    ) -> Iterator[pa.Table]:
        """Those events, some days at a time; a table without rows where there are none."""
        columns = sorted({name for stream in streams for name in stream.columns})
        low, high = (dt.datetime.fromtimestamp(micros / 1e6, dt.UTC) for micros in (since, until))
        batches = list(_batches(self._lake.events.days_with("ingested_at", low, high), self._lake.events.counts()))
        if not batches:
            yield self._lake.events.schema.empty_table().select(columns)
        within = (pc.field("ingested_at") > _instant(since)) & (pc.field("ingested_at") <= _instant(until))
        for i, days in enumerate(batches):
            yield self._lake.events.read(between=(days[0], days[-1]), columns=columns, filter=within)
            if progress:
                progress("counting", i + 1, len(batches))


@dataclass(frozen=True)
class _Kept:
    """Runs in memory, and the watermark (us) that they reach."""

    runs: list[CountRun]
    until: int


def _streams(chosen: Iterable[Recipe]) -> list[CountStream]:
    return list(dict.fromkeys(stream for recipe in chosen for stream in recipe.streams()))


def _by_end(ends: Mapping[CountStream, int], watermark: int) -> dict[int, list[CountStream]]:
    """The streams that are behind a watermark, by where they stand."""
    out: dict[int, list[CountStream]] = {}
    for stream, end in ends.items():
        if end < watermark:
            out.setdefault(end, []).append(stream)
    return out


def _batches(days: Sequence[Day], rows: Mapping[Day, int]) -> Iterator[list[Day]]:
    """Days in order, in groups of about `_BATCH_ROWS` events; a day is never divided."""
    batch, size = list[Day](), 0
    for day in days:
        batch.append(day)
        size += rows.get(day, 0)
        if size >= _BATCH_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _instant(micros: int) -> pa.Scalar:
    return pa.scalar(micros, pa.timestamp("us", "UTC"))
