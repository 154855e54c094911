"""The implementation of `lake.counts`: rows as people have them, and the answer as a table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tokenlake.errors import SchemaError
from tokenlake.features.aggregations.engine import Aggregations
from tokenlake.features.keys import Ints
from tokenlake.lake.arguments import as_table, source_names
from tokenlake.lake.project import Project
from tokenlake.lake.schema import IdTypes
from tokenlake.lake.validate import converted
from tokenlake.times import as_micros


def counts(lake: Project, rows: Any, at: Any, names: Sequence[str] | None) -> pa.Table:
    """Every column of definitions, strictly before each row's instant, of all that was ingested so far."""
    aggregations, given = lake.shared(Aggregations), as_table(rows)
    keys = _keys(lake, given, aggregations.key_columns(names))
    instants = _instants(lake, given, at)
    values = aggregations.features(keys, instants, lake.watermark(), names=names)
    columns = {name: pa.array(column, pa.float64(), from_pandas=True) for name, column in values.items()}
    return pa.table(columns)


def _keys(lake: Project, rows: pa.Table, wanted: Collection[str]) -> pa.Table:
    """The columns of keys under their names in `events`, with its types."""
    ids = IdTypes.of(lake.events.schema)
    found = {name: converted(lake.config, ids, name, _column(lake, rows, name)) for name in wanted}
    return pa.table(found) if found else rows.select([])


def _column(lake: Project, rows: pa.Table, name: str) -> pa.ChunkedArray:
    """A column by its name in `events`, or by the source's."""
    own = source_names(lake.config)[name]
    for candidate in (name, own):
        if candidate in rows.column_names:
            return rows[candidate]
    either = f"{name!r}" if own == name else f"{name!r} or {own!r}"
    raise SchemaError(f"counts need a column {either}; the rows have {', '.join(rows.column_names) or 'none'}")


def _instants(lake: Project, rows: pa.Table, at: Any) -> Ints:
    """int64 (n,), the instant of each row."""
    if at is None:
        return np.array(as_micros(_column(lake, rows, "timestamp"), "timestamp"))
    instants = as_micros(at, "at")
    if instants.shape not in ((), (rows.num_rows,)):
        raise SchemaError(
            f"at: shape {instants.shape} given; expected one instant, or one for each of {rows.num_rows} rows"
        )
    return np.array(np.broadcast_to(instants, rows.num_rows))
