"""Canonical Arrow schemas of the lake's tables, whatever the source called its columns (docs/lake.md).

Ids are int64 or string, decided by the first ingest and then fixed: `IdTypes` carries that decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tokenlake.config import Config, count_states
from tokenlake.errors import ConfigError, SchemaError
from tokenlake.names import folded

INT64 = pa.int64()
TIMESTAMP = pa.timestamp("us", tz="UTC")
TOKEN = pa.list_(pa.float32())
KIND_TYPES = {
    "categorical": pa.string(),
    "multi": pa.list_(pa.string()),
    "numeric": pa.float64(),
    "vector": TOKEN,
}
#: Last columns of what is written a day at a time, by version.
_DAILY: list[Any] = [("version", pa.string()), ("ds", pa.date32()), ("available_at", TIMESTAMP)]


@dataclass(frozen=True)
class IdTypes:
    """Arrow types of the id columns: `pa.int64()` or `pa.string()` each.

    >>> IdTypes(user=pa.string()).user
    DataType(string)
    """

    event: pa.DataType = INT64
    user: pa.DataType = INT64
    item: pa.DataType = INT64

    def __post_init__(self) -> None:
        for name in ("event", "user", "item"):
            if getattr(self, name) not in (INT64, pa.string()):
                raise SchemaError(f"{name} ids of type {getattr(self, name)}; a lake holds int64 or string ids")

    @classmethod
    def of(cls, schema: pa.Schema) -> IdTypes:
        """The id types of a schema that has `event_id`, `user_id` and `item_id`."""
        return cls(*(schema.field(name).type for name in ("event_id", "user_id", "item_id")))


def events_schema(config: Config, ids: IdTypes | None = None) -> pa.Schema:
    """Columns of `events`; `ids` defaults to int64."""
    ids = ids or IdTypes()
    fields: list[Any] = [
        ("event_id", ids.event),
        ("user_id", ids.user),
        ("item_id", ids.item),
        ("timestamp", TIMESTAMP),
        ("ds", pa.date32()),
        ("ingested_at", TIMESTAMP),
    ]
    fields += [(name, KIND_TYPES[feature.kind]) for name, feature in config.events.features.items()]
    return pa.schema(fields + _label_fields(config))


def tokens_schema(config: Config, ids: IdTypes | None = None) -> pa.Schema:
    """Columns of `instance_tokens`; the token's values are already rounded to the store's dtype."""
    ids = ids or IdTypes()
    head: list[Any] = [
        ("user_id", ids.user),
        ("timestamp", TIMESTAMP),
        ("event_id", ids.event),
        ("token", TOKEN),
    ]
    tail = [("item_id", ids.item), ("version", pa.string()), ("checkpoint", pa.string()), ("ds", pa.date32())]
    return pa.schema(head + _label_fields(config) + tail)


def predictions_schema(ids: IdTypes | None = None) -> pa.Schema:
    """Columns of `predictions`: one row per event, model and label.

    `value` is the probability, `target` the label itself; a sampled negative has no event id.
    """
    ids = ids or IdTypes()
    return pa.schema(
        [
            ("event_id", ids.event),
            ("user_id", ids.user),
            ("timestamp", TIMESTAMP),
            ("model", pa.string()),
            ("label", pa.string()),
            ("value", pa.float64()),
            ("target", pa.int8()),
            ("version", pa.string()),
            ("ds", pa.date32()),
        ]
    )


def embeddings_schema(of: str, ids: IdTypes | None = None) -> pa.Schema:
    """Columns of `user_embeddings` and `item_embeddings`: unit vectors of one day by one checkpoint.

    Args:
        of: `user` or `item`.
        ids: defaults to int64.
    """
    kind = getattr(ids or IdTypes(), of)
    return pa.schema(
        [
            (f"{of}_id", kind),
            ("embedding", TOKEN),
            ("version", pa.string()),
            ("checkpoint", pa.string()),
            ("ds", pa.date32()),
            ("available_at", TIMESTAMP),
        ]
    )


def edges_schema(ids: IdTypes | None = None) -> pa.Schema:
    """Columns of `edges`: pairs of similar users at the end of a day; each user's weights sum to 1."""
    user = (ids or IdTypes()).user
    return pa.schema(
        [
            ("src", user),
            ("dst", user),
            ("weight", pa.float64()),
            ("version", pa.string()),
            ("ds", pa.date32()),
        ]
    )


def statistics_schema(config: Config, ids: IdTypes | None = None) -> pa.Schema:
    """Columns of `user_statistics`: recent activity of each user, as it was known at the end of a day.

    Every label adds three: `<label>_known`, the number of events whose label was known by then; `<label>_count`, the
    positive ones among them; and `<label>_rate`, the share of the positive ones, null where no label is known.
    """
    fields: list[Any] = [
        ("user_id", (ids or IdTypes()).user),
        ("events", INT64),
        ("active_days", INT64),
        ("last_event_at", TIMESTAMP),
    ]
    for name in config.events.labels:
        fields += [(f"{name}_known", INT64), (f"{name}_count", INT64), (f"{name}_rate", pa.float64())]
    return pa.schema([*fields, ("ds", pa.date32()), ("available_at", TIMESTAMP)])


def count_states_schema(config: Config, name: str, ids: IdTypes | None = None) -> pa.Schema:
    """Columns of `count_states_<name>`: what is held of each key whose numbers changed on a day, as of the day's end.

    Instants among them are int64 microseconds: Feast's own type of times keeps whole seconds only.
    """
    count, kinds = config.served_counts[name], ids or IdTypes()
    keys = {"user_id": kinds.user, "item_id": kinds.item}
    fields: list[Any] = [(column, keys.get(column, pa.string())) for column in count_states.key_columns(count)]
    for column in count_states.state_columns(name, count):
        kind = INT64 if column.aggregate == "recency" else pa.float64()
        fields.append((count_states.held_name(name, column), kind))
    return pa.schema([*fields, (count_states.changed_at(name), INT64), *_DAILY])


def count_totals_schema(config: Config, name: str) -> pa.Schema:
    """Columns of `count_totals_<name>`: a row a day, with the sums over all keys that the definition's means need."""
    columns = count_states.total_columns(name, config.served_counts[name])
    fields: list[Any] = [(count_states.total_name(column), pa.float64()) for column in columns]
    return pa.schema([*fields, (count_states.counted_until(name), INT64), *_DAILY])


def quarantine_schema() -> pa.Schema:
    """Columns of `quarantine`; `row` is the source row as JSON, `row_number` counts from 1 within its source."""
    return pa.schema(
        [
            ("source", pa.string()),
            ("row", pa.string()),
            ("row_number", pa.int64()),
            ("reason", pa.string()),
            ("ingested_at", TIMESTAMP),
            ("ds", pa.date32()),
        ]
    )


def known_at_column(label: str) -> str:
    """Name of the column with the instant at which a label becomes known."""
    return f"{label}_known_at"


def label_columns(config: Config) -> tuple[str, ...]:
    """Both columns of every label, in order: its value, and the instant at which it becomes known."""
    return tuple(name for name, _ in _label_fields(config))


def check_names(config: Config) -> None:
    """Check that features and labels of the config do not use names of the tables' own columns.

    Raises:
        ConfigError: a table would have two columns of one name.
    """
    tables = {
        "events": events_schema(config),
        "instance_tokens": tokens_schema(config),
        "user_statistics": statistics_schema(config),
        **{count_states.states_table(name): count_states_schema(config, name) for name in config.served_counts},
    }
    for table, schema in tables.items():
        seen: dict[str, str] = {}
        for name in schema.names:
            if (other := seen.get(folded(name))) is not None:
                raise ConfigError(
                    f"events: the table {table} would have the columns {other!r} and {name!r}, which are one to SQL; call "
                    "the feature or label something else (a feature's `column:` says what the source calls it)"
                )
            seen[folded(name)] = name


def _label_fields(config: Config) -> list[tuple[str, pa.DataType]]:
    return [field for name in config.events.labels for field in ((name, pa.int8()), (known_at_column(name), TIMESTAMP))]
