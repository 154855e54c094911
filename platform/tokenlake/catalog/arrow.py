"""The catalog's tables as Arrow tables; an empty table has the same schema as a filled one."""

from __future__ import annotations

import functools

import pyarrow as pa
import sqlalchemy as sa

from tokenlake.catalog.connect import to_json
from tokenlake.catalog.models import Base, Instant

_TYPES: list[tuple[type, pa.DataType]] = [
    (Instant, pa.timestamp("us", tz="UTC")),
    (sa.Text, pa.string()),
    (sa.JSON, pa.string()),
    (sa.Integer, pa.int64()),
    (sa.Float, pa.float64()),
    (sa.Boolean, pa.bool_()),
    (sa.Date, pa.date32()),
]


def _arrow_type(column: sa.Column[object]) -> pa.DataType:
    return next(arrow for kind, arrow in _TYPES if isinstance(column.type, kind))


@functools.cache
def schemas() -> dict[str, pa.Schema]:
    """Arrow schema of every table, by name."""
    return {
        name: pa.schema([pa.field(c.name, _arrow_type(c), c.nullable) for c in table.columns])
        for name, table in sorted(Base.metadata.tables.items())
    }


def tables(connection: sa.Connection) -> dict[str, pa.Table]:
    """All rows of every table, in the order of their keys."""
    return {name: _table(connection, Base.metadata.tables[name], schema) for name, schema in schemas().items()}


def _table(connection: sa.Connection, table: sa.Table, schema: pa.Schema) -> pa.Table:
    rows = connection.execute(sa.select(table).order_by(*table.primary_key.columns)).all()
    values = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [
        pa.array(
            [v if v is None else to_json(v) for v in column] if _is_json(table, field.name) else column, field.type
        )
        for column, field in zip(values, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _is_json(table: sa.Table, name: str) -> bool:
    return isinstance(table.columns[name].type, sa.JSON)
