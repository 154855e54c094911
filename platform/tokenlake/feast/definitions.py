"""Helpers for a lake's `definitions.py`: types of ids, and the fields that depend on the config."""

from __future__ import annotations

import pyarrow as pa
from feast import Field, ValueType
from feast.types import Array, Bool, Float64, Int32, Int64, UnixTimestamp

from tokenlake.errors import SchemaError
from tokenlake.feast.sources import OWN_COLUMNS
from tokenlake.lake.project import Project
from tokenlake.tokens.batch import list_columns


def id_type(lake: Project, of: str) -> ValueType:
    """Feast's type of the lake's user or item ids; the first ingest fixes it, and it is int64 until then.

    Args:
        lake: the lake.
        of: `user` or `item`.

    Raises:
        SchemaError: `of` is neither `user` nor `item`.
    """
    if of not in ("user", "item"):
        raise SchemaError(f"ids of {of!r} asked for; a lake has those of user and item")
    kind = lake.events.schema.field(f"{of}_id").type
    return ValueType.STRING if kind == pa.string() else ValueType.INT64


def statistics(lake: Project) -> list[Field]:
    """Fields of the view `user_statistics`: three for every label of the config."""
    counts = ["events", "active_days"]
    counts += [f"{name}_{what}" for name in lake.config.events.labels for what in ("known", "count")]
    return [
        *(Field(name=name, dtype=Int64) for name in counts),
        *(Field(name=f"{name}_rate", dtype=Float64) for name in lake.config.events.labels),
        Field(name="last_event_at", dtype=UnixTimestamp),
    ]


def label_lists(lake: Project) -> list[Field]:
    """Fields of a `TokenSource` with `side=True`: for every label two lists with one number per token."""
    labels = list(lake.config.events.labels)
    values, known = list_columns(labels, labels, OWN_COLUMNS)
    return [
        field
        for name in labels
        for field in (Field(name=values[name], dtype=Array(Int32)), Field(name=known[name], dtype=Array(Bool)))
    ]
