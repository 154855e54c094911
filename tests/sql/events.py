"""The config of the SQL tests' lakes, and rows for their tables."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

YAML = """
project: test
events:
  features: {kind: categorical, tags: multi, price: numeric, image: vector}
  labels: {clicked: {}, bought: {known_at: bought_at, window: 7d}}
tokens:
  encoders: {iat: {scheme: user-order}, other: {scheme: temporal-order}}
embeddings: {}
"""
#: An older version of the embeddings, of which nothing may be served.
RETIRED = "alure-00000000"
DAY = dt.date(2017, 3, 1)


def at(day: dt.date, seconds: float = 0) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC) + dt.timedelta(seconds=seconds)


def rows_of(schema: pa.Schema, rows: list[dict[str, object]]) -> pa.Table:
    """Rows with null in every column that they don't name."""
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def an_event(user: int, number: int, day: dt.date, seconds: float, **more: object) -> dict[str, object]:
    moment = at(day, seconds)
    return {
        "event_id": number,
        "user_id": user,
        "item_id": number % 3,
        "timestamp": moment,
        "ds": day,
        "ingested_at": moment,
        "clicked": number % 2,
        "clicked_known_at": moment,
        "bought": number % 2,
        "bought_known_at": moment + dt.timedelta(days=7),
        **more,
    }
