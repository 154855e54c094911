"""The publishing job: a day's rows of `instance_tokens` into the token store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import OrderError
from tokenlake.features.vectors import token_matrix
from tokenlake.features.versions import encoder_of
from tokenlake.lake.project import Project
from tokenlake.storage.locks import hold
from tokenlake.times import NEVER, Day
from tokenlake.tokens.store import TokenStore

#: Seconds that a process waits for another to make the store.
_PATIENCE = 60.0


def publish_day(lake: Project, day: Day, version: str) -> dict[str, int | float | str | None]:
    """Replace a day of the token store by the day's rows of the Delta table.

    Raises:
        OrderError: the day is not encoded yet.
    """
    rows = lake.instance_tokens.read(day=day, version=version)
    if rows.num_rows == 0:
        raise OrderError(f"{day} of {version} has events but no tokens yet; `tokenlake run {day}` encodes them first")
    rows = rows.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")])
    labels = tuple(lake.config.events.labels)
    store = open_or_create(lake, version)
    store.write_day(
        day,
        rows["user_id"],
        rows["timestamp"],
        token_matrix(rows["token"]),
        side={label: pc.fill_null(rows[label], 0).to_numpy() for label in labels},
        known_at={label: _known_at(rows[f"{label}_known_at"]) for label in labels},
    )
    return {
        "rows": rows.num_rows,
        "users": pc.count_distinct(rows["user_id"]).as_py(),
        "uri": str(lake.store_path(version)),
    }


def open_or_create(lake: Project, version: str) -> TokenStore:
    """Open a version's store; the first publish creates it."""
    path = lake.store_path(version)
    if TokenStore.exists(path):
        return TokenStore.open(path)
    labels = list(lake.config.events.labels)
    dim = encoder_of(lake, version).dim
    with hold(lake.data / "locks" / f"create-{version}.lock", f"making the store of {version}", timeout=_PATIENCE):
        if TokenStore.exists(path):  # another process was first
            return TokenStore.open(path)
        return TokenStore.create(
            path,
            dim=dim,
            dtype=lake.config.tokens.dtype,
            side=dict.fromkeys(labels, "int8"),
            known_at=labels,
            tail=lake.config.tokens.tail,
        )


def _known_at(column: pa.ChunkedArray) -> NDArray[np.int64]:
    micros: NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), NEVER).to_numpy()
    return micros
