"""The tables of a lake: which there are, and what they hold."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
from deltalake.exceptions import TableNotFoundError

from tokenlake.config import count_states
from tokenlake.errors import ConfigError
from tokenlake.lake.log import open_delta
from tokenlake.lake.schema import (
    IdTypes,
    count_states_schema,
    count_totals_schema,
    edges_schema,
    embeddings_schema,
    events_schema,
    predictions_schema,
    quarantine_schema,
    statistics_schema,
    tokens_schema,
)
from tokenlake.lake.tables import Table

if TYPE_CHECKING:
    from tokenlake.config import Config


class HasTables(Protocol):
    """What `open_tables` needs of a lake."""

    data: Path
    config: Config


def open_tables(lake: HasTables) -> dict[str, Table]:
    """The tables of a lake by name; each is created at its first write."""
    if strange := re.search(r"[\[\]]|%[0-9A-Fa-f]{2}", str(lake.data)):
        raise ConfigError(
            f"Delta cannot write below {lake.data}, because of {strange[0]!r}; choose a folder without it"
        )
    config, locks = lake.config, lake.data / "locks"
    events_path = lake.data / "tables" / "events"
    ids = _StoredIds(events_path)

    def make(name: str, schema: pa.Schema | Callable[[], pa.Schema], partition_by: tuple[str, ...]) -> Table:
        return Table(lake.data / "tables" / name, schema, partition_by, locks)

    tables = {
        "events": make("events", lambda: events_schema(config, ids()), ("ds",)),
        "quarantine": make("quarantine", quarantine_schema(), ("ds",)),
        "instance_tokens": make("instance_tokens", lambda: tokens_schema(config, ids()), ("version", "ds")),
        "predictions": make("predictions", lambda: predictions_schema(ids()), ("version", "ds")),
        "user_embeddings": make("user_embeddings", lambda: embeddings_schema("user", ids()), ("version", "ds")),
        "item_embeddings": make("item_embeddings", lambda: embeddings_schema("item", ids()), ("version", "ds")),
        "edges": make("edges", lambda: edges_schema(ids()), ("version", "ds")),
        "user_statistics": make("user_statistics", lambda: statistics_schema(config, ids()), ("ds",)),
    }

    def states_schema(name: str) -> Callable[[], pa.Schema]:
        return lambda: count_states_schema(config, name, ids())

    for name in config.served_counts:
        states, totals = count_states.states_table(name), count_states.totals_table(name)
        tables[states] = make(states, states_schema(name), ("version", "ds"))
        tables[totals] = make(totals, count_totals_schema(config, name), ("version", "ds"))
    return tables


class _StoredIds:
    """Id types of the events table; int64 until it exists."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: IdTypes | None = None

    def __call__(self) -> IdTypes:
        if self._known is None and (self._path / "_delta_log").is_dir():
            with contextlib.suppress(TableNotFoundError):  # the log's folder is made before its first commit
                self._known = IdTypes.of(pa.schema(open_delta(self._path).schema().to_arrow()))
        return self._known or IdTypes()
