"""Copy runs of rows into a batch, and mask the labels that were not known at the query's time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.storage.loops import expand
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.find import Runs
from tokenlake.tokens.schema import StoreSchema, known_at_column
from tokenlake.tokens.tail import Tail


def gather(
    schema: StoreSchema, runs: Runs, tail: Tail | None, known_before: NDArray[np.int64], out: TokenBatch | None
) -> TokenBatch:
    """Copy rows.

    Args:
        schema: columns of the store.
        runs: the rows to copy, in this order.
        tail: the source -1.
        known_before: (queries,) the time of each query: a label is known iff its `known_at` is below.
        out: a batch whose buffers are used again where they suffice.
    """
    counts = runs.counts()
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    batch = out if out is not None else TokenBatch.empty(schema)
    columns = batch.reserve(schema, offsets)
    places = np.cumsum(runs.count) - runs.count
    moment = np.repeat(known_before, counts) if schema.known_at else None
    for number in np.unique(runs.source).tolist():
        here = runs.source == number
        rows = expand(runs.start[here], runs.count[here])
        at = expand(places[here], runs.count[here])
        source = runs.segments[number].columns if number >= 0 else _of(tail).columns
        for name, column in columns.items():
            column[at] = source[name][rows]
        for label in schema.known_at:
            batch.known[label][at] = source[known_at_column(label)][rows] < _of(moment)[at]
    for label in schema.known_at:
        batch.side[label][~batch.known[label]] = 0
    return batch


def _of(value: Any) -> Any:
    assert value is not None  # a source -1 comes from a tail, a moment from labels
    return value
