"""Scans of a source for materialization: all rows of a time range, or the latest row of each key."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.asof import AsOf, Ints
from tokenlake.feast.offline.instants import as_nanos, nanos_of
from tokenlake.feast.offline.rows import Group, SourceRows
from tokenlake.feast.offline.select import pick
from tokenlake.times import EARLIEST

_LAST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class ScanRequest:
    """The rows and columns of a scan, by the source's own column names.

    Attributes:
        keys: join keys.
        features: other columns; empty: all columns of the source.
        timestamp: column of the event time.
        created: column of the created time, or None.
        start: first event time, included; None: no lower bound.
        end: last event time, included; None: no upper bound.
        standing: of rows with equal keys, event time and created time, keep only the last one.
    """

    keys: Sequence[str]
    features: Sequence[str]
    timestamp: str
    created: str | None
    start: dt.datetime | None
    end: dt.datetime | None
    standing: bool = False

    @property
    def times(self) -> list[str]:
        """Names of the time columns."""
        return [self.timestamp, *([self.created] if self.created else [])]

    def columns(self, rows: SourceRows) -> list[str]:
        """Names of the result's columns.

        Raises:
            SchemaError: a column that the source lacks.
        """
        # A view without entities may name Feast's dummy key, which `_finished` adds.
        features = [name for name in self.features if name != DUMMY_ENTITY_ID]
        others = features or [name for name in rows.schema.names if name not in self.keys]
        names = list(dict.fromkeys([*self.keys, *others, *self.times]))
        if missing := [name for name in names if name not in rows.schema.names]:
            raise SchemaError(f"the source has no columns {missing}; it has {rows.schema.names}")
        return names

    @property
    def range(self) -> tuple[int, int]:
        """First and last nanosecond of the range."""
        first = EARLIEST + 1 if self.start is None else nanos_of(self.start)
        return first, _LAST if self.end is None else nanos_of(self.end) + 999

    def groups(self, rows: SourceRows) -> list[Group]:
        """The row groups that may hold rows of the range."""
        if self.start is None and self.end is None:
            return rows.groups
        return [group for group in rows.groups if group.overlaps(self.timestamp, *self.range)]


def pull_all(rows: SourceRows, pull: ScanRequest) -> pa.Table:
    """Read all rows of the range."""
    names, (first, last) = pull.columns(rows), pull.range
    found: list[Ints] = []

    def reader(start: int, batch: pa.RecordBatch) -> None:
        times = batch.column(0).to_numpy()
        inside = (times >= first) & (times <= last)
        # A row without a time is in no range, but it is included if there is no bound.
        if pull.start is None and pull.end is None:
            inside |= times == EARLIEST
        found.append(np.flatnonzero(inside) + start)

    rows.read_keys([], [pull.timestamp], pull.groups(rows), reader)
    wanted = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
    table = rows.take(names, wanted)
    return _finished(_standing(table, pull) if pull.standing else table, pull)


def _standing(table: pa.Table, pull: ScanRequest) -> pa.Table:
    """Of rows with equal keys and times keep the last one; rows of a view without entities are compared by time."""
    times = as_nanos(table[pull.timestamp], pull.timestamp)
    made = as_nanos(table[pull.created], pull.created) if pull.created else np.zeros(len(times), np.int64)
    codes, _ = _group(table, pull.keys)
    order = np.lexsort((made, times, codes))
    fields = [field[order] for field in (codes, times, made)]
    replaced = np.logical_and.reduce([field[1:] == field[:-1] for field in fields])
    kept = order[np.flatnonzero(~np.append(replaced, False))] if len(order) else order
    if pull.keys:
        kept = np.sort(kept)
        if len(kept) == len(order):
            return table
    return pa.table({name: pick(table[name], kept) for name in table.column_names})


def pull_latest(rows: SourceRows, pull: ScanRequest) -> pa.Table:
    """Read the latest row of each key in the range; ties are broken by created time, then by position."""
    names, (first, last) = pull.columns(rows), pull.range
    parts: dict[int, pa.RecordBatch] = {}
    rows.read_keys(pull.keys, pull.times, pull.groups(rows), parts.__setitem__)
    order = sorted(parts)
    fields = [*(rows.schema.field(name) for name in pull.keys), *((name, pa.int64()) for name in pull.times)]
    table = pa.Table.from_batches([parts[start] for start in order], pa.schema(fields))
    numbers = np.concatenate([np.arange(s, s + parts[s].num_rows) for s in order] or [np.empty(0, np.int64)])
    codes, count = _group(table, pull.keys)
    state = AsOf(np.arange(count, dtype=np.int32), np.full(count, last), count)
    times = table.column(len(pull.keys)).to_numpy()
    times = np.where(times < first, EARLIEST, times)
    made = table.column(len(pull.keys) + 1).to_numpy() if pull.created else None
    state.feed(codes, times, made, 0)
    found = state.finish()
    return _finished(rows.take(names, np.sort(numbers[found[found >= 0]])), pull)


def _group(table: pa.Table, keys: Sequence[str]) -> tuple[np.ndarray[tuple[int], np.dtype[np.int32]], int]:
    """A number for each row's key, and the number of keys."""
    if not keys:
        return np.zeros(table.num_rows, np.int32), 1
    codes, count = _number(table[keys[0]])
    for key in keys[1:]:
        more, width = _number(table[key])
        codes, count = _number(pa.chunked_array([pa.array(codes.astype(np.int64) * width + more)]))
    return codes, count


def _number(column: pa.ChunkedArray) -> tuple[np.ndarray[tuple[int], np.dtype[np.int32]], int]:
    encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], encoded.type)
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False), len(encoded.dictionary)


def _finished(table: pa.Table, pull: ScanRequest) -> pa.Table:
    """Convert times to UTC, and add Feast's dummy key to views without entities."""
    for name in pull.times:
        column = table[name]
        if pa.types.is_timestamp(column.type) and column.type.tz != "UTC":
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, column.cast(pa.timestamp(column.type.unit, "UTC")))
    if pull.keys:
        return table
    return table.append_column(DUMMY_ENTITY_ID, pa.repeat(pa.scalar(DUMMY_ENTITY_VAL), table.num_rows))
