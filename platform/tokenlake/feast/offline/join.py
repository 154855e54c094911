"""Joins queries with a source: reads join keys and times of all rows, then features of the matching rows only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.asof import AsOf, Ints
from tokenlake.feast.offline.keys import JoinKeys, aligned
from tokenlake.feast.offline.rows import Group, SourceRows
from tokenlake.feast.offline.select import pick
from tokenlake.feast.views import RequestedView
from tokenlake.times import EARLIEST


def join(view: RequestedView, rows: SourceRows, queries: pa.Table, times: Ints, *, known: bool) -> list[pa.Array]:
    """Get the features of a view as of some times.

    Args:
        view: the feature view to join.
        rows: the rows of its source.
        queries: a table of n rows with the view's keys.
        times: (n,) int64 nanoseconds.
        known: rows are not visible before their created time.

    Returns:
        The (n,) features, null where there is none.
    """
    numbers = see(view, rows, queries, times, known=known)
    return gather(rows, list(view.features.values()), numbers)


def see(view: RequestedView, rows: SourceRows, queries: pa.Table, times: Ints, *, known: bool) -> Ints:
    """The (n,) numbers of the rows that the queries see, -1 for none; the arguments are those of `join`."""
    missing = [c for c in (*view.keys.values(), view.timestamp, view.created) if c and c not in rows.schema.names]
    if missing:
        raise SchemaError(f"feature view {view.name}: no columns {missing} in its source; it has {rows.schema.names}")
    columns = [aligned(_one(queries[name]), rows.schema.field(column).type) for name, column in view.keys.items()]
    keys = JoinKeys(columns, len(times))
    state = AsOf(keys.queries, times, keys.count, strict=view.strict, known=known and view.created is not None)
    instants = [view.timestamp, *([view.created] if view.created else [])]

    def reader(first: int, batch: pa.RecordBatch) -> None:
        count = len(view.keys)
        made = batch.column(count + 1).to_numpy() if view.created else None
        codes = keys.codes(batch.columns[:count], batch.num_rows)
        state.feed(codes, batch.column(count).to_numpy(), made, first)

    times = times[(keys.queries >= 0) & (times != EARLIEST)]
    if len(times):
        rows.read_keys(list(view.keys.values()), instants, _promising(view, rows, keys, times), reader)
    return state.finish(view.ttl)


def gather(rows: SourceRows, columns: Sequence[str], numbers: NDArray[np.int64]) -> list[pa.Array]:
    """Read columns of the rows with these numbers; -1 gives null."""
    if not columns:
        return []
    wanted, place = np.unique(numbers, return_inverse=True)
    absent = int(len(wanted) > 0 and wanted[0] < 0)
    taken = rows.take(list(dict.fromkeys(columns)), wanted[absent:])
    return [pick(taken[column], place.ravel() - absent) for column in columns]


def _promising(view: RequestedView, rows: SourceRows, keys: JoinKeys, times: Ints) -> list[Group]:
    """The row groups that may hold visible rows, by the statistics of their files."""
    latest = int(times.max())
    oldest = EARLIEST + 1 if view.ttl is None else max(int(times.min()) - view.ttl, EARLIEST + 1)
    near = [group for group in rows.groups if group.overlaps(view.timestamp, oldest, latest)]
    return [group for group in near if _holds_keys(view, group, keys)]


def _holds_keys(view: RequestedView, group: Group, keys: JoinKeys) -> bool:
    for i, column in enumerate(view.keys.values()):
        bounds = group.bounds(column)
        if bounds is not None and isinstance(bounds[0], int | str) and not keys.may_hold(i, *bounds):
            return False
    return True


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
