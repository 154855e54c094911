"""Rows as people hand them over: as an Arrow table, a frame or a mapping, with columns called as in the source or in `events`."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tokenlake.config import Config
from tokenlake.errors import SchemaError


def as_table(rows: Any, what: str = "rows") -> pa.Table:
    """Turn rows into an Arrow table.

    Raises:
        SchemaError: neither a table nor a frame nor a mapping of columns of one length.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if hasattr(rows, "to_records") and hasattr(rows, "columns"):  # a pandas frame; pandas is slow to import
        return pa.Table.from_pandas(rows, preserve_index=False)
    if isinstance(rows, dict):
        try:
            return pa.table(rows)
        except pa.ArrowException as error:
            raise SchemaError(f"{what}: a mapping of columns that are no table ({error})") from error
    raise SchemaError(
        f"{what}: {type(rows).__name__} given; expected an Arrow table, a pandas frame, or a mapping such as "
        '{"user_id": [1], "item_id": [7]}'
    )


def source_names(config: Config) -> dict[str, str]:
    """What the source calls the columns of `events` that hold ids, the timestamp and features."""
    events = config.events
    own = {"user_id": events.user, "item_id": events.item, "timestamp": events.timestamp}
    return own | {feature: spec.column or feature for feature, spec in events.features.items()}
