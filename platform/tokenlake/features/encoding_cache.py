"""A cache of events and items as one checkpoint encodes them, each day once: shared by days of embeddings and by queries.

A vector's last bits depend on what was computed beside it. So units of days are encoded each by itself, and which days
are a unit follows from the checkpoint alone: a re-run, a bucket and a query get the very numbers that a back-fill got.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from cachetools import LRUCache
from numpy.typing import NDArray

from tokenlake.features import checkpoints
from tokenlake.features.activity import EventDay, EventLog
from tokenlake.features.keys import Ints, factorize, flat
from tokenlake.features.user_inputs import UserFeaturizer
from tokenlake.features.versions import path_of
from tokenlake.lake.project import Project
from tokenlake.times import Day
from tokenlake_models.activity import Encoded

#: Rows of encoded events kept of a source, unless one call needs more: 2 GB at a width of 64.
_MAX_ROWS = 1 << 22
_CHECKPOINTS = 2
#: Days of a unit of the past.
_BLOCK = 7
Vectors: TypeAlias = NDArray[np.float32]


def encoding_cache(lake: Project, version: str, checkpoint: str) -> EncodingCache:
    """The encoding cache of a checkpoint; those of the last few checkpoints are kept."""
    kept, path = lake.shared(_cache), path_of(lake, version, checkpoint)
    if path not in kept:
        kept[path] = EncodingCache(lake, version, checkpoint)
    return kept[path]


def _cache(_lake: Project) -> LRUCache[Path, EncodingCache]:
    return LRUCache(_CHECKPOINTS)


def block_start(day: Day) -> Day:
    """First day of the block that holds a day; events from `day` on must be read from this day on."""
    return day - dt.timedelta(days=day.toordinal() % _BLOCK)


class EncodingCache:
    """Event days and items encoded by one checkpoint.

    Attributes:
        checkpoint: the checkpoint whose encoder is used.
        featurizer: makes the encoder's inputs.
    """

    def __init__(self, lake: Project, version: str, checkpoint: str) -> None:
        self._config = lake.config
        self._schemas = lake.events.schema, lake.item_embeddings.schema
        self.checkpoint = checkpoints.load_users(lake, version, checkpoint)
        self.featurizer = UserFeaturizer(lake.config)
        record = lake.catalog.checkpoint(version, checkpoint)
        # Days that the checkpoint was trained on are past; but the first of all encodes the very days it is trained on.
        self._trained_to = record.trained_to if record.parent else None
        config = self.checkpoint.learner.config
        self._values = [_GrowingMatrix(2 * config.width) for _ in config.sources]
        self._positions: dict[str, list[list[Ints]]] = {}
        self._vectors = _GrowingMatrix(config.dim)
        self._items: dict[str, int] = {}

    def events(self, log: EventLog, first: Day = Day.min, last: Day = Day.max) -> list[Encoded]:
        """Keys and values of the events of a log from one day to another, one for each source.

        The log holds the blocks that these days are in from their beginning on.
        """
        if len(self._values[0]) > _MAX_ROWS:
            self._positions.clear()
            for values in self._values:
                values.clear()
        parts = [part for part in log.days if (first == Day.min or part.day >= block_start(first)) and part.day <= last]
        units = self._units(parts)
        missing = [unit for unit in units if unit[0] not in self._positions]
        if missing:
            self._encode(missing)
        known = {part.day: (key, i) for key, unit in units for i, part in enumerate(unit)}
        found = [
            self._positions[known[part.day][0]][known[part.day][1]] if part.day in known else self._no_positions(part)
            for part in log.days
        ]
        return [
            Encoded(values.all(), torch.from_numpy(log.in_log_order([places[i] for places in found])))
            for i, values in enumerate(self._values)
        ]

    def items(self, log: EventLog, first: Day) -> tuple[pa.Array, Vectors]:
        """Ids of the items met in a log since a day, in order, and their vectors by the features that each had last."""
        units = self._units(log.days)
        missing = [unit for unit in units if unit[0] not in self._items]
        if missing:
            self._add_items(missing)
        ids, rows = [], []
        for key, unit in units:
            start = self._items[key]
            for part in unit:
                own_items = part.items(self._config)["item_id"].combine_chunks()
                if part.day >= first:
                    ids.append(own_items)
                    rows.append(start + np.arange(len(own_items)))
                start += len(own_items)
        column = pa.chunked_array(ids, self._schemas[1].field("item_id").type)
        codes, distinct = factorize(flat(column))
        latest = np.zeros(len(distinct), np.int64)
        latest[codes] = np.concatenate([np.zeros(0, np.int64), *rows])  # days are in order: of several the last stays
        order = pc.array_sort_indices(distinct)
        return distinct.take(order), self._vectors.all()[torch.from_numpy(latest[order.to_numpy()])].numpy()

    def _units(self, parts: Sequence[EventDay]) -> list[tuple[str, list[EventDay]]]:
        """Days that are encoded together: past ones a block at a time, later ones each by itself."""
        units: dict[Day, list[EventDay]] = {}
        for part in parts:
            block = block_start(part.day)
            past = self._trained_to is not None and block + dt.timedelta(days=_BLOCK - 1) <= self._trained_to
            units.setdefault(block if past else part.day, []).append(part)
        return [("+".join(part.fingerprint for part in unit), unit) for unit in units.values()]

    def _no_positions(self, part: EventDay) -> list[Ints]:
        return [np.zeros(len(part), np.int64)] * len(self._values)

    def _encode(self, units: list[tuple[str, list[EventDay]]]) -> None:
        """Encode units, each by itself; only the features are looked up for all at once."""
        log = EventLog(self._config, self._schemas[0], [part for _, unit in units for part in unit])
        activity = self.featurizer.activity(log, self.checkpoint.vocabulary, self.checkpoint.quantizers)
        unit_of = np.repeat(np.arange(len(units)), [len(unit) for _, unit in units])[log.day_number]
        days = [unit_of[stream.rows[stream.ties[stream.offsets[:-1]]].numpy()] for stream in activity.streams]
        where = np.zeros((len(self._values), len(log)), np.int64)
        for number in range(len(units)):
            mine = [torch.from_numpy(np.flatnonzero(of == number)) for of in days]
            streams = [stream.of(chosen) for stream, chosen in zip(activity.streams, mine, strict=True)]
            for i, values in enumerate(self.checkpoint.learner.encode(activity, streams)):
                where[i, streams[i].rows.numpy()] = self._values[i].add(values) + np.arange(len(values))
        back = np.empty(len(log), np.int64)
        back[log.order] = np.arange(len(log))
        ends = np.cumsum([0, *(len(part) for part in log.days)])
        parts = iter(range(len(log.days)))
        for key, unit in units:
            self._positions[key] = [
                [where[i, back[ends[n] : ends[n + 1]]] for i in range(len(self._values))]
                for n in (next(parts) for _ in unit)
            ]

    def _add_items(self, units: list[tuple[str, list[EventDay]]]) -> None:
        tables = [[part.items(self._config) for part in unit] for _, unit in units]
        joined = pa.concat_tables([table for unit in tables for table in unit])
        items = self.featurizer.items(joined, self.checkpoint.vocabulary, self.checkpoint.quantizers)
        start = 0
        for (key, _), unit in zip(units, tables, strict=True):
            count = sum(table.num_rows for table in unit)
            chosen = items.select(torch.arange(start, start + count))
            self._items[key] = self._vectors.add(self.checkpoint.learner.items(chosen))
            start += count


class _GrowingMatrix:
    """A matrix to which rows are appended."""

    def __init__(self, width: int) -> None:
        self._memory = torch.zeros(0, width)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def all(self) -> torch.Tensor:
        """All rows, in the order in which they were added."""
        return self._memory[: self._count]

    def clear(self) -> None:
        self._count = 0

    def add(self, rows: torch.Tensor) -> int:
        """Append rows; returns the number of the first."""
        start = self._count
        self._count += len(rows)
        if self._count > len(self._memory):
            memory = self._memory.new_zeros(max(self._count, 2 * len(self._memory)), self._memory.shape[1])
            memory[:start] = self._memory[:start]
            self._memory = memory
        self._memory[start : self._count] = rows
        return start
