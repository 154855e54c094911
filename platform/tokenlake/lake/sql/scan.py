"""A Delta table as a SELECT of DuckDB: files and columns are those of the log, so that no file is opened for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenlake.names import folded, unlike

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from tokenlake.lake.tables import Table

#: Schema of what lies in DuckDB's own memory; people ask the views in `main`.
STORED = "stored"
#: Types of the columns of the lake's tables (lake/schema.py); lists of these too.
_TYPES = {
    "int8": "TINYINT",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "date32[day]": "DATE",
    "timestamp[us, tz=UTC]": "TIMESTAMP WITH TIME ZONE",
}


def store(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Put a table into DuckDB's memory, in place of an older one of that name."""
    connection.register("incoming", rows)
    connection.execute(f"CREATE OR REPLACE TABLE {STORED}.{name} AS FROM incoming")
    connection.unregister("incoming")


def types(schema: pa.Schema) -> dict[str, str]:
    """DuckDB's type of each column of a table of the lake.

    Its own answer would take a registered Arrow table, for which DuckDB imports pandas.
    """
    return {field.name: _type(field.type) for field in schema}


def _type(arrow: pa.DataType) -> str:
    if arrow.num_fields:  # a list, which has one
        return f"{_type(arrow.field(0).type)}[]"
    return _TYPES[str(arrow)]


def select(connection: duckdb.DuckDBPyConnection, name: str, table: Table) -> str:
    """A SELECT of a table's newest commit, with the columns and types of its schema.

    Columns that older files lack are null. Days and versions are read from the paths, so a filter of them leaves files out
    before they are opened. Columns are qualified, since DuckDB would take a bare one for the parameter of a macro that has
    the same name.

    Args:
        connection: keeps the empty table for a table without files.
        name: its name in SQL.
        table: the table.
    """
    schema = table.schema
    kinds = types(schema)
    columns = ", ".join(f"t.{quoted_name(column)}" for column in schema.names)
    files = ", ".join(map(quoted, table.uris()))
    if not files:
        named = ", ".join(f"{quoted_name(column)} {kind}" for column, kind in kinds.items())
        connection.execute(f"CREATE OR REPLACE TABLE {STORED}.{name} ({named})")
        return f"SELECT {columns} FROM {STORED}.{name} AS t"
    file = unlike("filename", list(map(folded, schema.names)))
    stored = ", ".join(
        f"{quoted(column)}: {{name: {quoted(column)}, type: {quoted(kind)}, default_value: NULL}}"
        for column, kind in kinds.items()
        if column not in table.partition_by
    )
    parts = ", ".join(f"{_of_path(file, key, kinds[key])} AS {key}" for key in table.partition_by)
    # `schema` names the columns, so that DuckDB does not open every file to find them.
    reading = (
        f"read_parquet([{files}], schema = MAP {{{stored}}}, filename = {quoted(file)}, hive_partitioning = false)"
    )
    return f"SELECT {columns} FROM (SELECT *, {parts} FROM {reading}) AS t"


def _of_path(file: str, key: str, kind: str) -> str:
    value = f"url_decode(regexp_extract({quoted_name(file)}, '.*/{key}=([^/]+)/', 1))"
    return value if kind == "VARCHAR" else f"{value}::{kind}"


def quoted_name(name: str) -> str:
    """A name as SQL writes it, whatever its characters."""
    return '"' + name.replace('"', '""') + '"'


def quoted(value: object) -> str:
    """A text as SQL writes it."""
    return "'" + str(value).replace("'", "''") + "'"
