"""CountRuns: sorted, immutable contributions of a stream, with the sums that answer a query by two searches.

A run is sorted by key and then by the instant from which a contribution is seen. So what a query at t sees of a key lies
between two places, and every total is the difference of two running sums. Nothing has to be added when a label matures
or a window moves on, and a run of last year answers a query of last year.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.features.aggregations.contributions import Contributions
from tokenlake.features.aggregations.hashing import Hashes
from tokenlake.features.aggregations.ranges import blocks, lower_bound
from tokenlake.features.aggregations.streams import CountStream
from tokenlake.features.keys import Ints
from tokenlake.storage.arrays import map_arrays, write_arrays
from tokenlake.storage.native_ops import hash64, sort_order
from tokenlake.times import DAY_US

#: Arrays of a run by name; which there are depends on the stream.
Arrays: TypeAlias = dict[str, NDArray[Any]]
#: Weights of decayed sums are multiples of one in so many.
WEIGHT_UNIT = 2.0**-20
#: Sums of all values are below this many units, so that adding runs up stays within 64 bits.
_LARGEST_SUM = 2.0**60
_HOUR_US = DAY_US // 24
#: What every run has; the rest is made from these.
_MADE_FROM = ("keys", "known_from", "timestamps", "values")


def bucket_us(half_life: int) -> int:
    """Length (us) of the buckets of time in which decayed weights are added up."""
    return DAY_US if half_life >= DAY_US else _HOUR_US


class CountRun:
    """Contributions by (key, known from, timestamp, event id).

    Args:
        stream: what they are contributions to.
        arrays: `keys` (uint64, hashed), `known_from` (us), `timestamps` (us; of late streams), `sums` (running sums of
            values, of valued streams), `newest` (of late streams: the place of the key's latest event so far),
            `leaves_<window>` and `left_<window>` (of late streams: instants at which contributions leave the window,
            ascending, and running sums of their values), `next_<bucket>`, `weights_<half-life>` and
            `weighed_<half-life>` (first places of the next bucket, and running sums of weights, and of weighted values).
        ids: event ids, of ordered streams.
    """

    def __init__(self, stream: CountStream, arrays: Arrays, ids: pa.Array | None = None) -> None:
        self.stream = stream
        self.arrays = arrays
        self.ids = ids
        self.keys: Hashes = arrays["keys"]
        self.known_from: Ints = arrays["known_from"]
        self.timestamps: Ints = arrays.get("timestamps", self.known_from)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def bytes(self) -> int:
        """Size of its arrays."""
        return sum(array.nbytes for array in self.arrays.values()) + (self.ids.nbytes if self.ids is not None else 0)

    @classmethod
    def of(cls, stream: CountStream, given: Contributions) -> CountRun:
        """Sort contributions."""
        order = _order(given)
        keys = hash64(given.keys[order])
        base = [array[order] for array in (given.known_from, given.timestamps, given.values)]
        ids = None if given.event_ids is None else given.event_ids.take(pa.array(order))
        return cls._made(stream, _Base(keys, *base), ids)

    @classmethod
    def merged(cls, stream: CountStream, older: CountRun, newer: CountRun) -> CountRun:
        """The contributions of two runs in one."""
        if not len(newer) or not len(older):
            return older if len(older) else newer
        places = _places_among(older, newer)
        size = len(older) + len(newer)
        mine = places + np.arange(len(newer))
        theirs = np.ones(size, np.bool_)
        theirs[mine] = False
        columns = []
        for name in _MADE_FROM:
            a, b = getattr(older._base, name), getattr(newer._base, name)
            both = np.empty(size, a.dtype)
            both[mine], both[theirs] = b, a
            columns.append(both)
        ids = None
        if older.ids is not None and newer.ids is not None:
            order = np.empty(size, np.int64)
            order[mine], order[theirs] = np.arange(len(older), size), np.arange(len(older))
            ids = pa.concat_arrays([older.ids, newer.ids]).take(pa.array(order))
        return cls._made(stream, _Base(*columns), ids)

    @classmethod
    def _made(cls, stream: CountStream, base: _Base, ids: pa.Array | None) -> CountRun:
        """Work out the sums of sorted contributions."""
        arrays: Arrays = {"keys": base.keys, "known_from": base.known_from}
        if stream.valued:
            _check_sum(stream, base.values)
            arrays["sums"] = _sums(stream, base.values)
        if stream.late:
            arrays["timestamps"] = base.timestamps
            arrays["newest"] = _newest(base, ids)
            for window in stream.windows:
                leaves = np.maximum(base.timestamps + window, base.known_from)
                order = np.lexsort((leaves, _group(base.keys)))
                arrays[f"leaves_{window}"] = leaves[order]
                if stream.valued:
                    arrays[f"left_{window}"] = _sums(stream, base.values[order])
        for half_life in stream.half_lives:
            arrays |= _decayed(stream, base, half_life)
        return cls(stream, arrays, ids)

    @cached_property
    def _base(self) -> _Base:
        return _Base(self.keys, self.known_from, self.timestamps, self.values)

    @property
    def values(self) -> Ints:
        """int64 (n,), what each contributes, in units."""
        if not self.stream.valued:
            return np.ones(len(self), np.int64)
        return np.diff(self.arrays["sums"], prepend=0).astype(np.int64, copy=False)

    def values_at(self, places: Ints) -> Ints:
        """What the contributions at places contribute, in units."""
        if not self.stream.valued:
            return np.ones(len(places), np.int64)
        return self.sums_before(places + 1) - self.sums_before(places)

    @cached_property
    def least(self) -> list[Ints]:
        """Values and the least of blocks of them."""
        return [self.values, *blocks(self.values, np.minimum)]

    @cached_property
    def greatest(self) -> list[Ints]:
        """Values and the greatest of blocks of them."""
        return [self.values, *blocks(self.values, np.maximum)]

    def sums_before(self, places: Ints, name: str = "sums") -> Ints:
        """Running sums of what stands before places."""
        sums = self.arrays[name]
        if not len(sums):
            return np.zeros(len(places), np.int64)
        return np.where(places > 0, sums[places - 1], 0).astype(np.int64, copy=False)

    def spans(self, keys: Hashes) -> tuple[Ints, Ints]:
        """First places of keys, and last ones (exclusive); keys that ascend are found several times as fast."""
        return np.searchsorted(self.keys, keys), np.searchsorted(self.keys, keys, side="right")

    def save(self, path: Path, **facts: float) -> None:
        """Write it to a file, atomically, with facts about how it was made."""
        arrays = {name: pa.array(array) for name, array in self.arrays.items()}
        if self.ids is not None:
            arrays["event_ids"] = self.ids
        write_arrays(path, arrays, {"stream": self.stream.digest, "rows": len(self), **facts})

    @classmethod
    def load(cls, stream: CountStream, path: Path) -> CountRun:
        """Map a file that `save` wrote into memory.

        Raises:
            NotFoundError: there is no such file.
            CorruptionError: the file is damaged.
        """
        arrays, _ = map_arrays(path)
        ids = arrays.pop("event_ids", None)
        return cls(stream, {name: array.to_numpy() for name, array in arrays.items()}, ids)


@dataclass(frozen=True, slots=True)
class _Base:
    """Sorted contributions, of which everything else is made."""

    keys: Hashes
    known_from: Ints
    timestamps: Ints
    values: Ints


def fractions(stream: CountStream) -> int:
    """Parts of a unit of which decayed values of a numeric feature are multiples: a thousandth, but not below 2 ** -20."""
    return max(1, min(1 << 10, int(stream.unit / WEIGHT_UNIT)))


def _sums(stream: CountStream, values: Ints) -> NDArray[Any]:
    """Running sums; those of labels, which are no more than there are contributions, in half the bytes."""
    few = stream.numeric is None and len(values) < 1 << 31
    return np.cumsum(values, dtype=np.int32 if few else np.int64)


def _check_sum(stream: CountStream, values: Ints) -> None:
    largest = _LARGEST_SUM / (fractions(stream) if stream.half_lives else 1)
    if np.abs(values).sum(dtype=np.float64) >= largest:
        raise SchemaError(
            f"{stream.numeric}: its values add up to more than {largest * stream.unit:g}, the largest sum at unit "
            f"{stream.unit:g}; give the definitions of it a larger `unit`, such as `of: {{numeric: {stream.numeric}, unit: 1}}`"
        )


def _order(given: Contributions) -> Ints:
    """Order by (hash of the key, known from, timestamp, event id)."""
    rows = np.arange(len(given.keys))
    if given.event_ids is not None:
        table = pa.table({"t": given.timestamps, "id": given.event_ids})
        rows = pc.sort_indices(table, [("t", "ascending"), ("id", "ascending")]).to_numpy().astype(np.int64)
    elif (given.known_from != given.timestamps).any():
        rows = np.argsort(given.timestamps, kind="stable")
    return rows[sort_order(given.keys[rows], given.known_from[rows])]


def _group(keys: Hashes) -> Ints:
    """Number the runs of equal keys."""
    return np.cumsum(np.concatenate([[0], keys[1:] != keys[:-1]])[: len(keys)])


def _newest(base: _Base, ids: pa.Array | None) -> Ints:
    """Of each contribution and those of its key before it: the place of the one with the latest (timestamp, event id)."""
    size = len(base.keys)
    by_id = np.arange(size)
    if ids is not None:
        by_id = np.empty(size, np.int64)
        by_id[pc.sort_indices(ids).to_numpy().astype(np.int64)] = np.arange(size)
    order = np.lexsort((by_id, base.timestamps, _group(base.keys)))
    rank = np.empty(size, np.int64)
    rank[order] = np.arange(size)
    # Ranks of a key lie above those of all keys before it, so one running maximum serves all keys.
    return order[np.maximum.accumulate(rank)] if size else order


def _decayed(stream: CountStream, base: _Base, half_life: int) -> Arrays:
    """Running sums of weights: that of a contribution as of the start of the bucket in which it became known."""
    length = bucket_us(half_life)
    bucket = base.known_from // length
    weights = np.exp2((base.timestamps - bucket * length) / half_life)
    arrays: Arrays = {f"weights_{half_life}": np.cumsum(np.rint(weights / WEIGHT_UNIT).astype(np.int64))}
    if stream.numeric is not None:
        arrays[f"weighed_{half_life}"] = np.cumsum(np.rint(weights * base.values * fractions(stream)).astype(np.int64))
    elif stream.valued:
        arrays[f"weighed_{half_life}"] = np.cumsum(np.rint(weights / WEIGHT_UNIT).astype(np.int64) * base.values)
    group = _group(base.keys)
    last = np.ones(len(group), np.bool_)
    last[:-1] = (group[1:] != group[:-1]) | (bucket[1:] != bucket[:-1])
    ends = np.flatnonzero(last) + 1
    sizes = np.diff(ends, prepend=0)
    arrays[f"next_{length}"] = np.repeat(ends, sizes)
    return arrays


def _places_among(older: CountRun, newer: CountRun) -> Ints:
    """Before how many contributions of an older run each one of a newer run stands, minus none: int64 (len(newer),)."""
    start, stop = older.spans(newer.keys)
    if not older.stream.late and older.ids is None:
        return lower_bound(older.known_from, start, stop, newer.known_from + 1)
    return _places_in_full_order(older, newer, start, stop)


def _places_in_full_order(older: CountRun, newer: CountRun, start: Ints, stop: Ints) -> Ints:
    """The same where ties of `known_from` go by timestamp and event id."""
    first = lower_bound(older.known_from, start, stop, newer.known_from)
    end = lower_bound(older.known_from, first, stop, newer.known_from + 1)
    places = lower_bound(older.timestamps, first, end, newer.timestamps + 1)
    if older.ids is None or newer.ids is None:
        return places
    first = lower_bound(older.timestamps, first, end, newer.timestamps)
    for i in np.flatnonzero(first < places):
        tied = older.ids.slice(first[i], places[i] - first[i]).to_pylist()
        mine = newer.ids[i].as_py()
        places[i] = first[i] + sum(other < mine for other in tied)
    return places


def total_bytes(runs: Sequence[CountRun]) -> int:
    """Size of the arrays of runs."""
    return sum(run.bytes for run in runs)
