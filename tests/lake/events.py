"""Events as people bring them, and the config that they fit."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

T0 = 1_488_330_000
EVENTS = {"features": {"kind": "categorical"}, "labels": ["clicked"]}
SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("timestamp", pa.int64()),
        ("kind", pa.string()),
        ("clicked", pa.int8()),
    ]
)


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


def simple(n: int = 100) -> pa.Table:
    return table([(i % 7, i, T0 + i * 3_600, "a", i % 2) for i in range(n)])


def dense(n: int) -> pa.Table:
    return table([(i % 7, i, T0 + i * 60, "a", i % 2) for i in range(n)])
