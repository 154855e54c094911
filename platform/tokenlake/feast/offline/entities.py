"""The entity rows of a retrieval: a dataframe, an Arrow table, SQL over the lake, or none but a range of time."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as EVENT_TIMESTAMP
from feast.repo_config import RepoConfig

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.asof import NONE, Ints
from tokenlake.feast.offline.instants import as_nanos
from tokenlake.feast.sources import open_lake


class Entities:
    """Entity rows.

    Attributes:
        table: all columns, the event timestamp in UTC.
        timestamp: its column.
        times: (n,) int64 nanoseconds, `asof.NONE` where it is null.
    """

    def __init__(self, table: pa.Table) -> None:
        self.timestamp = _timestamp_column(table.schema)
        self.times: Ints = as_nanos(_as_times(table[self.timestamp], self.timestamp), self.timestamp)
        place = table.schema.get_field_index(self.timestamp)
        nanos = pa.array(self.times, mask=self.times == NONE).cast(pa.timestamp("ns", "UTC"))
        given = table.schema.field(self.timestamp).type
        kind = pa.timestamp(given.unit if pa.types.is_timestamp(given) else "us", "UTC")
        self.table = table.set_column(place, self.timestamp, nanos.cast(kind))

    @classmethod
    def of(cls, given: Any, config: RepoConfig) -> Entities:
        """Entity rows of a dataframe, an Arrow table, or SQL over the views of the lake (docs/sql.md).

        Raises:
            SchemaError: something else, or no column that is the event timestamp.
            ForbiddenError: SQL that is no question.
            ConfigError: SQL, and no lake.
        """
        if isinstance(given, str):
            return cls(open_lake(config).sql(given).to_arrow_table())
        if isinstance(given, pa.Table):
            return cls(given)
        if isinstance(given, pd.DataFrame):
            return cls(_from_pandas(given))
        raise SchemaError(
            f"entity_df: {type(given).__name__} given; expected a pandas DataFrame, an Arrow table or a SQL string"
        )


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(f"entity_df: {error}; make each column of one type") from error


def _as_times(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Times that were given as text are read as Feast reads them; without a zone they are UTC."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        return pa.chunked_array([pa.array(pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601"))])
    except ValueError as error:
        raise SchemaError(f"entity_df: {name}: {error}; expected timestamps") from error


def _timestamp_column(schema: pa.Schema) -> str:
    if EVENT_TIMESTAMP in schema.names:
        return EVENT_TIMESTAMP
    found = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    if len(found) != 1:
        raise SchemaError(
            f"entity_df: no column {EVENT_TIMESTAMP!r}, and {len(found)} others with times ({found}); name the one that "
            f"is meant {EVENT_TIMESTAMP!r}"
        )
    return str(found[0])
