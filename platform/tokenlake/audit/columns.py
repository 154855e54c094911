"""Roles of a table's columns: from the caller, from the table's own description, or from the column names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from tokenlake.audit.written import read_description
from tokenlake.errors import SchemaError
from tokenlake.reading.kinds import is_list

_USERS = ("user_id", "user")
_TIMES = ("event_timestamp", "timestamp", "before", "query_time")


@dataclass(frozen=True)
class ColumnRoles:
    """The roles of a training set's columns.

    Attributes:
        user: user ids; needed only to compare with a store.
        time: times of the rows.
        timestamps: columns of token times: lists, or one time per row. The part of a name before `timestamps` is the
            prefix of its other columns (`tokens`, side columns, `<label>_known`).
        available: `realtime`: tokens strictly before the row's time; `daily`: of days before it.
        length: most tokens of a row; None: unknown, so as many are fetched from the store as the row has.
        known_at: label -> column of the times at which it became known: both are lists parallel to the token times, or
            both have one value per row.
        targets: likewise for the targets of training, which must be known before `as_of` instead of the row's time.
        as_of: the instant of training, microseconds UTC.
    """

    user: str | None
    time: str
    timestamps: tuple[str, ...]
    available: Literal["realtime", "daily"] = "realtime"
    length: int | None = None
    known_at: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)
    as_of: int | None = None

    @classmethod
    def of(
        cls,
        schema: pa.Schema,
        *,
        user: str | None = None,
        time: str | None = None,
        timestamps: Sequence[str] = (),
        available: Literal["realtime", "daily"] | None = None,
        length: int | None = None,
        known_at: Mapping[str, str] | None = None,
        targets: Mapping[str, str] | None = None,
        as_of: int | None = None,
    ) -> ColumnRoles:
        """Determine the roles: arguments come first, then the table's description, then the column names.

        Raises:
            SchemaError: a column is missing, or its role must be given.
        """
        described: dict[str, Any] = read_description(schema)
        found = cls(
            user=user or described.get("user") or _first(schema, _USERS),
            time=time or described.get("before") or _needed(_first(schema, _TIMES), "--time", schema),
            timestamps=tuple(timestamps) or _described_timestamps(described) or _lists_of_times(schema),
            available=available or described.get("available") or "realtime",
            length=length or described.get("length"),
            known_at=dict(known_at or {}),
            targets=dict(targets or described.get("targets") or {}),
            as_of=as_of if as_of is not None else described.get("as_of"),
        )
        if not found.timestamps and not found.known_at and not found.targets:
            _needed(None, "--timestamps", schema)
        named = [found.time, *found.timestamps, *([found.user] if found.user else [])]
        named += [c for pairs in (found.known_at, found.targets) for pair in pairs.items() for c in pair]
        if missing := sorted(set(named) - set(schema.names)):
            raise SchemaError(f"there are no columns {missing}; there are {schema.names}")
        if found.targets and found.as_of is None:
            raise SchemaError("targets are given without the instant before which they must be known; add --as-of")
        return found


def _described_timestamps(description: dict[str, Any]) -> tuple[str, ...]:
    return (f"{description['prefix']}timestamps",) if "prefix" in description else ()


def _lists_of_times(schema: pa.Schema) -> tuple[str, ...]:
    return tuple(f.name for f in schema if f.name.endswith("timestamps") and is_list(f.type))


def _first(schema: pa.Schema, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in schema.names), None)


def _needed(name: str | None, option: str, schema: pa.Schema) -> str:
    if name is None:
        raise SchemaError(f"no column has the expected name; name it by {option}. There are {schema.names}")
    return name
