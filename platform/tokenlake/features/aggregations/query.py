"""The columns of definitions at given keys and instants, from the runs of their streams."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.config import CountColumn
from tokenlake.features.aggregations.hashing import Hashes, keys_of
from tokenlake.features.aggregations.ranges import extremes, lower_bound
from tokenlake.features.aggregations.run import WEIGHT_UNIT, CountRun, bucket_us, fractions
from tokenlake.features.aggregations.streams import CountStream, Recipe
from tokenlake.features.keys import Ints
from tokenlake.storage.native_ops import expand_ranges, hash64
from tokenlake.times import EARLIEST, NEVER

Floats: TypeAlias = NDArray[np.float64]
#: The runs of each stream.
CountRuns: TypeAlias = Mapping[CountStream, Sequence[CountRun]]
#: Means are smoothed: the global mean counts as this many contributions.
STRENGTH = 10.0
#: Half-lives after which a contribution weighs nothing: 2 ** -24 is where float32 ends.
_LIFETIME = 24
_MICRO = dt.timedelta(microseconds=1)
_SECOND_US = 1_000_000
#: Contributions that are looked at one by one at a time, which bounds the memory.
_PLACES = 1 << 22


def answer(recipes: Sequence[Recipe], runs: CountRuns, rows: pa.Table, at: Ints) -> dict[str, Floats]:
    """Every column of definitions, strictly before each row's instant.

    Args:
        recipes: how the definitions are computed.
        runs: the runs of all their streams.
        rows: n rows with the columns of the keys.
        at: int64 (n,), the instants (us).

    Returns:
        A column's name -> float64 (n,), NaN where there is nothing.
    """
    questions: dict[CountStream | None, Question] = {}
    out: dict[str, Floats] = {}
    for recipe in recipes:
        for stream in recipe.streams():
            if stream not in questions:
                questions[stream] = Question.of(runs[stream], stream, rows, at)
        for column in recipe.columns:
            out[column.name] = _column(recipe, column, questions)
    return out


def _column(recipe: Recipe, column: CountColumn, questions: Mapping[CountStream | None, Question]) -> Floats:
    question, stream = questions[recipe.values], recipe.values
    of_label = stream.label is not None
    match column.aggregate:
        case "count":
            return question.total(column, values=of_label)
        case "known":
            return question.total(column, values=False)
        case "sum":
            return stream.numbers(question.total(column, values=True))
        case "mean":
            return _mean(question, questions[recipe.everything], column, of_label=of_label)
        case "min" | "max":
            return question.extreme(column)
        case "last":
            return question.last(column)
        case "recency":
            return questions[recipe.positives or stream].recency(column)


def _mean(own: Question, everything: Question, column: CountColumn, *, of_label: bool) -> Floats:
    """Means drawn to the global one."""
    total, known = own.total(column, values=True), own.total(column, values=False)
    global_total, global_known = everything.total(column, values=True), everything.total(column, values=False)
    if of_label:
        prior = (global_total + 1) / (global_known + 2)
    else:
        total, global_total = own.stream.numbers(total), own.stream.numbers(global_total)
        prior = np.divide(global_total, global_known, out=np.full(len(total), np.nan), where=global_known > 0)
    means: Floats = (total + STRENGTH * prior) / (known + STRENGTH)
    return means


@dataclass(frozen=True)
class _Part:
    """Where a run holds what the occurrences see: places [start, seen) of each key's [start, stop)."""

    run: CountRun
    start: Ints
    seen: Ints
    stop: Ints


@dataclass(frozen=True)
class _Newest:
    """Newest events: the rows that ask, the events' instants, values and ids; of one length."""

    rows: Ints
    stamps: Ints
    values: Ints
    ids: NDArray[np.object_]


class Question:
    """What rows ask of one stream: an occurrence for each combination of a row's values.

    Attributes:
        stream: the stream.
        size: number of rows.
        rows: int64 (m,), the row of each occurrence, in the order of the occurrences' keys.
        at: int64 (m,), its instant.
    """

    def __init__(
        self, runs: Sequence[CountRun], stream: CountStream, size: int, rows: Ints, keys: Hashes, at: Ints
    ) -> None:
        self.stream, self.size = stream, size
        order = np.argsort(keys)
        self.rows, self.at = rows[order], at[rows[order]]
        self._parts = list(_parts(runs, keys[order], self.at))

    @classmethod
    def of(cls, runs: Sequence[CountRun], stream: CountStream, rows: pa.Table, at: Ints) -> Question:
        """Ask for the keys of rows at instants."""
        owners, keys = keys_of(rows, stream.by)
        return cls(runs, stream, rows.num_rows, owners, hash64(keys), at)

    def total(self, column: CountColumn, *, values: bool) -> Floats:
        """How many contributions each row sees, or the sum of their values in units."""
        if column.half_life is not None:
            return self._pooled(self._decayed(column.half_life // _MICRO, values=values))
        window = None if column.window is None else column.window // _MICRO
        values = values and self.stream.valued
        totals = np.zeros(len(self.rows), np.int64)
        for part in self._parts:
            totals += self._total(part, window, values=values)
        return self._pooled(totals)

    def _total(self, part: _Part, window: int | None, *, values: bool) -> Ints:
        run = part.run
        if window is None:
            left, name = part.start, "sums"
        elif self.stream.late:
            left = lower_bound(run.arrays[f"leaves_{window}"], part.start, part.stop, self.at)
            name = f"left_{window}"
        else:
            left, name = lower_bound(run.known_from, part.start, part.seen, self.at - window), "sums"
        if not values:
            return part.seen - left
        return run.sums_before(part.seen) - run.sums_before(left, name)

    def _decayed(self, half_life: int, *, values: bool) -> Floats:
        """Sum of decayed weights: bucket by bucket, from the oldest on, so that the runs' borders change nothing."""
        length = bucket_us(half_life)
        weighed = values and self.stream.valued
        name = f"weighed_{half_life}" if weighed else f"weights_{half_life}"
        unit = 1 / fractions(self.stream) if weighed and self.stream.numeric is not None else WEIGHT_UNIT
        oldest = (self.at - _LIFETIME * half_life) // length * length
        walks = [
            _Walk(part, length, name, lower_bound(part.run.known_from, part.start, part.seen, oldest))
            for part in self._parts
        ]
        total = np.zeros(len(self.rows))
        open_ = np.arange(len(total))
        while len(open_):
            buckets = [walk.bucket(open_) for walk in walks]
            bucket = np.minimum.reduce([np.full(len(open_), NEVER), *buckets])
            some = bucket < NEVER
            open_, bucket = open_[some], bucket[some]
            sums = np.zeros(len(open_), np.int64)
            for walk, own in zip(walks, buckets, strict=True):
                here = own[some] == bucket
                sums[here] += walk.advance(open_[here])
            total[open_] += sums * np.exp2((bucket * length - self.at[open_]) / half_life)
        return total * unit

    def extreme(self, column: CountColumn) -> Floats:
        """The least or greatest value that each row sees."""
        least = column.aggregate == "min"
        extreme, nothing = (np.minimum, NEVER) if least else (np.maximum, EARLIEST)
        window = None if column.window is None else column.window // _MICRO
        found = np.full(len(self.rows), nothing, np.int64)
        for part in self._parts:
            found = extreme(found, self._extreme(part, window, extreme, nothing, least=least))
        out = np.full(self.size, nothing, np.int64)
        extreme.at(out, self.rows, found)
        return np.where(out == nothing, np.nan, self.stream.numbers(out.astype(np.float64)))

    def _extreme(self, part: _Part, window: int | None, extreme: np.ufunc, nothing: int, *, least: bool) -> Ints:
        run, start = part.run, part.start
        if window is not None:
            # What is known within the window may have happened before it; what is known earlier has happened earlier.
            start = lower_bound(run.known_from, start, part.seen, self.at - window)
        if window is None or not self.stream.late:
            return extremes(run.least if least else run.greatest, start, part.seen, extreme, nothing)
        found = np.full(len(self.rows), nothing, np.int64)
        for some in _portions(part.seen - start):
            owner = np.repeat(some, (part.seen - start)[some])
            place = expand_ranges(start[some], (part.seen - start)[some])
            inside = run.timestamps[place] >= self.at[owner] - window
            extreme.at(found, owner[inside], run.values_at(place[inside]))
        return found

    def recency(self, column: CountColumn) -> Floats:
        """Seconds since the newest event that each row sees."""
        when = np.full(self.size, EARLIEST, np.int64)
        for newest in self._newest(column):
            np.maximum.at(when, newest.rows, newest.stamps)
        at = np.zeros(self.size, np.int64)
        at[self.rows] = self.at
        nothing = when == EARLIEST
        age: Floats = np.where(nothing, np.nan, (at - np.where(nothing, at, when)) / _SECOND_US)
        return age

    def last(self, column: CountColumn) -> Floats:
        """Value of the newest event that each row sees; of several at one instant, that of the greatest event id."""
        found = list(self._newest(column))
        rows, stamps, values = (
            np.concatenate([np.zeros(0, np.int64), *(getattr(newest, name) for newest in found)])
            for name in ("rows", "stamps", "values")
        )
        ids: NDArray[np.object_] = np.concatenate([np.zeros(0, np.object_), *(newest.ids for newest in found)])
        order = np.lexsort((stamps, rows))
        rows, stamps, values, ids = rows[order], stamps[order], values[order], ids[order]
        last = np.ones(len(rows), np.bool_)
        last[:-1] = rows[1:] != rows[:-1]
        out = np.full(self.size, np.nan)
        for i in np.flatnonzero(last[1:] & (stamps[1:] == stamps[:-1]) & (rows[1:] == rows[:-1])) + 1:
            tied = slice(int(np.searchsorted(rows, rows[i])), i + 1)
            best = max((j for j in range(tied.start, tied.stop) if stamps[j] == stamps[i]), key=ids.__getitem__)
            values[i] = values[best]
        out[rows[last]] = self.stream.numbers(values[last].astype(np.float64))
        return out

    def _newest(self, column: CountColumn) -> Iterator[_Newest]:
        """The newest event that each occurrence sees in each run, where there is one."""
        window = None if column.window is None else column.window // _MICRO
        for part in self._parts:
            run, some = part.run, np.flatnonzero(part.seen > part.start)
            place = part.seen[some] - 1
            if self.stream.late:
                place = run.arrays["newest"][place]
            if window is not None:
                inside = run.timestamps[place] >= self.at[some] - window
                some, place = some[inside], place[inside]
            ids = np.full(len(place), None) if run.ids is None else run.ids.take(pa.array(place)).to_pylist()
            yield _Newest(self.rows[some], run.timestamps[place], run.values_at(place), np.array(ids, np.object_))

    def _pooled(self, totals: NDArray[np.int64] | Floats) -> Floats:
        """Add up the occurrences of each row."""
        if totals.dtype == np.float64:
            return np.bincount(self.rows, weights=totals, minlength=self.size).astype(np.float64)
        out = np.zeros(self.size, np.int64)
        np.add.at(out, self.rows, totals)
        return out.astype(np.float64)


class _Walk:
    """Goes through what occurrences see of a run, a bucket of time at a time."""

    def __init__(self, part: _Part, length: int, name: str, start: Ints) -> None:
        self._run, self._seen, self._length = part.run, part.seen, length
        self._next, self._name = part.run.arrays[f"next_{length}"], name
        self._place = start

    def bucket(self, index: Ints) -> Ints:
        """The bucket in which each occurrence stands; NEVER at its end."""
        place, seen = self._place[index], self._seen[index]
        inside = place < seen
        out = np.full(len(index), NEVER)
        out[inside] = self._run.known_from[place[inside]] // self._length
        return out

    def advance(self, index: Ints) -> Ints:
        """Move occurrences to the next bucket; the sums of what lies between."""
        place = self._place[index]
        end = np.minimum(self._next[place], self._seen[index])
        self._place[index] = end
        return self._run.sums_before(end, self._name) - self._run.sums_before(place, self._name)


def _parts(runs: Sequence[CountRun], keys: Hashes, at: Ints) -> Iterator[_Part]:
    for run in runs:
        start, stop = run.spans(keys)
        yield _Part(run, start, lower_bound(run.known_from, start, stop, at), stop)


def _portions(sizes: Ints) -> Iterator[Ints]:
    """Numbers of ranges, in groups of about `_PLACES` places together."""
    group = np.cumsum(sizes) // _PLACES
    borders = np.flatnonzero(group[1:] != group[:-1]) + 1
    yield from np.split(np.arange(len(sizes)), borders)
