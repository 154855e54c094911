"""Identity of events: a hash of an event's content, ids derived from it, and the search for duplicates.

An event id is unique in the whole lake. Of rows with the same id the first one is kept; a later one with
the same content is a duplicate, one with other content is quarantined. Content is everything declared but the id:
user, item, timestamp, features, labels, and the time at which a positive became known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from tokenlake.config import Config
from tokenlake.lake.schema import known_at_column
from tokenlake.lake.tables import Table
from tokenlake.reading.arrays import flat, numpy, true, valid, where
from tokenlake.reading.kinds import is_list, is_string
from tokenlake.times import DAY_US, Day, day_of

_Hashes = NDArray[np.uint64]
#: A large odd number, so that positions in a list count: the golden ratio in 64 bits.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_OUTSIDE = frozenset({"event_id", "ds", "ingested_at"})


class Verdict(IntEnum):
    """What ingest does with a valid row."""

    ACCEPT = 0
    DUPLICATE = 1
    CONFLICT = 2


def content_hash(config: Config, columns: Mapping[str, pa.Array]) -> _Hashes:
    """A stable 64-bit hash of each row's content.

    Columns are added up by name, and nulls add nothing: neither the order of columns nor a new, empty one matters.
    """
    total = np.zeros(len(columns["timestamp"]), np.uint64)
    known_at = {known_at_column(label): label for label in config.events.labels}
    for name, column in columns.items():
        if name in _OUTSIDE:
            continue
        if (label := known_at.get(name)) is not None:
            # Without such a column the instant is computed from the timestamp and the config's window, which may change.
            positive = true(pc.equal(columns[label], 1)) & (config.events.labels[label].known_at is not None)
            column = where(column, positive)
        seed = np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
        total += np.where(valid(column), _mix(_hash(column) ^ seed), np.uint64(0))
    return _mix(total)


def derived_ids(content: _Hashes) -> pa.Array:
    """Non-negative int64 ids for events without one."""
    return pa.array((content >> np.uint64(1)).astype(np.int64))


class Deduplicator:
    """Finds out which valid rows of one ingest are new events, by their ids.

    Holds 24 bytes a row (40 for string ids) and sorts them once. It reads ids of the lake only for the days that may
    hold one of them, and whole rows only where a declared id is in the lake already.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._keys: list[NDArray[np.uint64]] = []
        self._content: list[_Hashes] = []
        self._range: tuple[Any, Any] | None = None
        self._days: set[int] = set()

    def add(self, ids: pa.Array, content: _Hashes, days: NDArray[np.int32]) -> None:
        """Add rows; `days` are days since 1970."""
        if not len(ids):
            return
        self._keys.append(_keys(ids))
        self._content.append(content)
        self._days.update(np.unique(days).tolist())
        low, high = pc.min_max(ids).as_py().values()
        self._range = (low, high) if self._range is None else (min(low, self._range[0]), max(high, self._range[1]))

    def verdicts(self, events: Table) -> NDArray[np.uint8]:
        """`Verdict` of each row, in the order in which the rows were added."""
        if not self._keys:
            return np.zeros(0, np.uint8)
        keys, content = np.concatenate(self._keys), np.concatenate(self._content)
        self._keys, self._content = [], []
        order = np.lexsort((keys[:, 1], keys[:, 0])) if keys.shape[1] == 2 else np.argsort(keys[:, 0], kind="stable")
        keys = keys[order]
        new = np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)])
        first = np.flatnonzero(new)
        keys, standing = keys[first], content[order[first]]
        taken = self._known(events, keys, standing)
        group = np.cumsum(new, dtype=np.int64) - 1
        same = content[order] == standing[group]
        sorted_verdicts = np.where(same, Verdict.DUPLICATE, Verdict.CONFLICT).astype(np.uint8)
        sorted_verdicts[first[~taken]] = Verdict.ACCEPT
        verdicts = np.empty_like(sorted_verdicts)
        verdicts[order] = sorted_verdicts
        return verdicts

    def _known(self, events: Table, keys: NDArray[np.uint64], standing: _Hashes) -> NDArray[np.bool_]:
        """Mask of the keys that the lake holds already; the hash of their stored content is written into `standing`."""
        taken = np.zeros(len(keys), np.bool_)
        for day in self._candidates(events):
            hit = False
            for batch in events.batches(day=day, columns=["event_id"]):
                at, found = _find(keys, _keys(flat(batch.column(0))))
                taken[at[found]] = True
                hit = hit or bool(found.any())
            if hit and self._config.events.id is not None:
                self._compare(events, day, keys, standing)
        return taken

    def _compare(self, events: Table, day: Day, keys: NDArray[np.uint64], standing: _Hashes) -> None:
        for batch in events.batches(day=day):
            at, found = _find(keys, _keys(flat(batch.column("event_id"))))
            if found.any():
                rows = batch.filter(pa.array(found))
                columns = {name: flat(rows.column(name)) for name in rows.schema.names}
                standing[at[found]] = content_hash(self._config, columns)

    def _candidates(self, events: Table) -> list[Day]:
        if self._config.events.id is None:  # the id holds the timestamp, so its day is the only one
            mine = {day_of(day * DAY_US) for day in self._days}
            return [day for day in events.days() if day in mine]
        return [] if self._range is None else events.days_with("event_id", *self._range)


def hash_text(texts: list[bytes]) -> _Hashes:
    """xxh3 of each UTF-8 text."""
    digest: Callable[[bytes], int] = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(text) for text in texts), np.uint64, len(texts))


def _keys(ids: pa.Array) -> NDArray[np.uint64]:
    """Ids as uint64 `(rows, 1)`, or `(rows, 2)` of 128-bit hashes for strings."""
    if pa.types.is_integer(ids.type):
        return numpy(ids, np.int64).view(np.uint64)[:, None]
    digest: Callable[[bytes], bytes] = xxhash.xxh3_128_digest
    return np.frombuffer(b"".join(digest(text) for text in ids.cast(pa.binary()).to_pylist()), np.uint64).reshape(-1, 2)


def _find(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position of each wanted key among the sorted keys, and a mask of those that are there."""
    at = np.minimum(np.searchsorted(keys[:, 0], wanted[:, 0]), len(keys) - 1)
    return at, (keys[at] == wanted).all(axis=1)


def _mix(x: _Hashes) -> _Hashes:
    """The finalizer of splitmix64: every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(column: pa.Array) -> _Hashes:
    """A hash of each value; undefined for nulls."""
    kind = column.type
    if is_list(kind):
        lengths = numpy(pc.list_value_length(column), np.int64)
        inner = column.flatten()
        starts = np.concatenate([[0], np.cumsum(lengths)])
        place = (np.arange(len(inner)) - np.repeat(starts[:-1], lengths)).astype(np.uint64)
        values = np.where(valid(inner), _hash(inner), np.uint64(0))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mix(values + (place + np.uint64(1)) * _STEP))])
        return np.asarray(sums[starts[1:]] - sums[starts[:-1]] + lengths.astype(np.uint64) * _STEP, np.uint64)
    if is_string(kind):
        encoded = column.dictionary_encode()
        hashes = hash_text(encoded.dictionary.cast(pa.binary()).to_pylist())
        return np.take(hashes, numpy(encoded.indices, np.int64)) if len(hashes) else np.zeros(len(column), np.uint64)
    if pa.types.is_floating(kind):
        numbers = numpy(column, np.float64) + 0.0  # -0.0 is 0.0
        return _mix(numbers.view(np.uint64))
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    return _mix(numpy(column, np.int64).view(np.uint64))
