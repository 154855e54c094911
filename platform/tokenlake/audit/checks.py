"""The rules of an audit: every check returns the rows that break its rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.audit.columns import ColumnRoles
from tokenlake.audit.written import OWN
from tokenlake.errors import SchemaError
from tokenlake.reading.kinds import is_list
from tokenlake.reading.times import as_instants, beyond, is_instant, known_at
from tokenlake.times import DAY_US, as_micros
from tokenlake.tokens.batch import TokenBatch, side_arrays
from tokenlake.tokens.store import TokenStore


class Leaks(NamedTuple):
    """Rows that break one rule.

    Attributes:
        what: name of the rule.
        column: column that breaks it.
        rows: (k,) row numbers.
        at: (k,) the instants that are too late, in microseconds; -1 if the rule is not about instants.
    """

    what: str
    column: str
    rows: NDArray[np.int64]
    at: NDArray[np.int64]


class Lists(NamedTuple):
    """Lists of all rows, concatenated; `rows` is the row of each value."""

    values: pa.Array
    offsets: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """(total,) the row of each value."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def check(table: pa.Table, columns: ColumnRoles, store: TokenStore | None) -> Iterator[Leaks]:
    """Check all rules; yields the rows that break each, numbered from 0.

    Raises:
        SchemaError: a column has a type that does not fit its role.
    """
    far = beyond(table[columns.time])
    yield Leaks("the row's time is not of the years 1 to 9999", columns.time, *_numbered(far))
    before = _instants(table[columns.time], columns.time)
    for name in columns.timestamps:
        times = lists_of(table, name)
        instants = _instants(times.values, name)
        until = before[times.rows]
        yield _leaks("token not before the row's time", name, times.rows, instants, instants >= until)
        if columns.available == "daily":
            late = (instants >= until - until % DAY_US) & (instants < until)
            yield _leaks(
                "token of the row's own day, which comes with the nightly job", name, times.rows, instants, late
            )
        if store is not None:
            yield from _beside_store(table, columns, name, store, before)
    for label, column in columns.known_at.items():
        values, known = lists_of(table, label), lists_of(table, column)
        if not np.array_equal(values.offsets, known.offsets):
            raise SchemaError(
                f"{label!r} and {column!r} have lists of different lengths; expected one time for each value"
            )
        until = before[values.rows]
        yield _immature("label not known before the row's time", label, values, known, until)
    for label, column in columns.targets.items():
        values, known = lists_of(table, label), lists_of(table, column)
        yield _immature(
            "target not known before as_of", label, values, known, np.full(len(values.values), columns.as_of)
        )


def lists_of(table: pa.Table, name: str) -> Lists:
    """A column as lists: a single value is a list of one, a null is an empty list."""
    column = table[name].combine_chunks()
    if not is_list(column.type):
        return Lists(column, np.arange(len(column) + 1))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return Lists(pc.list_flatten(column), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def _immature(what: str, label: str, values: Lists, known: Lists, until: NDArray[np.int64]) -> Leaks:
    instants = known_at(known.values, label)
    given = values.values.is_valid().to_numpy(zero_copy_only=False)
    return _leaks(what, label, values.rows, instants, given & (instants >= until))


def _instants(column: pa.Array | pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    """Microseconds of a time column without nulls, clipped to the range of int64."""
    if is_instant(column.type) and not column.null_count:
        return as_instants(column)[0]
    return as_micros(column, name)


def _leaks(what: str, column: str, rows: NDArray[np.int64], at: NDArray[np.int64], bad: NDArray[np.bool_]) -> Leaks:
    return Leaks(what, column, rows[bad], at[bad])


def _beside_store(
    table: pa.Table, columns: ColumnRoles, name: str, store: TokenStore, before: NDArray[np.int64]
) -> Iterator[Leaks]:
    """Compare the lists with the store's present result for the same queries."""
    times = lists_of(table, name)
    lengths = np.diff(times.offsets)
    length = columns.length or max(1, int(lengths.max(initial=0)))
    batch = store.fetch(table[columns.user], before=before, length=length, available=columns.available)
    keep = batch.lengths if columns.length else np.minimum(batch.lengths, lengths)
    same = keep == lengths
    place, comparable = _aligned(batch, keep, same), np.repeat(same, lengths)
    differs = ~same
    differs |= _rows_with(
        times.rows[comparable], batch.timestamps[place] != _instants(times.values, name)[comparable], len(table)
    )
    yield Leaks("other tokens than the store has before this time", name, *_numbered(differs))
    prefix = name.removesuffix("timestamps")
    for column, wrong in _payload(table, prefix, batch, place, comparable, times, store):
        yield Leaks("other values than the store has", column, *_numbered(wrong & ~differs))


def _aligned(batch: TokenBatch, keep: NDArray[np.int64], same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions in the batch of the last `keep` rows of each query that is `same`."""
    counts = np.where(same, keep, 0)
    starts = batch.offsets[1:] - counts
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    places: NDArray[np.int64] = np.repeat(starts, counts) + within
    return places


def _payload(
    table: pa.Table, prefix: str, batch: TokenBatch, place: NDArray[np.int64], comparable: NDArray[np.bool_], times: Lists,
    store: TokenStore,
) -> Iterator[tuple[str, NDArray[np.bool_]]]:  # fmt: skip
    rows, count = times.rows[comparable], len(table)
    expected = side_arrays(batch, OWN)
    for name in [n for n in expected if prefix + n in table.column_names]:
        held = lists_of(table, prefix + name)
        if len(held.values) != len(comparable):
            raise SchemaError(f"{prefix + name!r} has lists of other lengths than the token times beside it")
        # A null is an unknown label, which the store returns as 0.
        values = pc.fill_null(held.values, pa.scalar(0).cast(held.values.type)).to_numpy(zero_copy_only=False)
        yield prefix + name, _rows_with(rows, values[comparable] != expected[name][place], count)
    if prefix + "tokens" in table.column_names:
        held = lists_of(table, prefix + "tokens")
        dim = store.schema.dim
        if len(held.values) != len(comparable) * dim:
            raise SchemaError(
                f"{prefix + 'tokens'!r} has {len(held.values)} numbers of {len(comparable)} tokens; expected {dim} each"
            )
        values = held.values.to_numpy(zero_copy_only=False).reshape(-1, dim)
        yield prefix + "tokens", _rows_with(rows, (values[comparable] != batch.floats()[place]).any(axis=1), count)


def _rows_with(rows: NDArray[np.int64], wrong: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    found = np.zeros(count, np.bool_)
    found[rows[wrong]] = True
    return found


def _numbered(wrong: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = np.flatnonzero(wrong)
    return rows, np.full(len(rows), -1)
