"""The entity rows of a retrieval, from a dataframe, an Arrow table or SQL over the lake."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as EVENT_TIMESTAMP
from feast.repo_config import RepoConfig

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.asof import Ints
from tokenlake.feast.offline.instants import as_nanos
from tokenlake.feast.sources import open_lake
from tokenlake.reading.kinds import plain
from tokenlake.times import DAY_US, Day, day_start


class Entities:
    """Entity rows.

    Attributes:
        table: all given columns, with the event timestamp in UTC.
        timestamp: name of the event timestamp column.
        times: (n,) int64 nanoseconds, clipped to their range; `EARLIEST` for a null.
    """

    def __init__(self, table: pa.Table) -> None:
        self.timestamp = _timestamp_column(table.schema)
        moments = _in_utc(table[self.timestamp], self.timestamp)
        self.times: Ints = as_nanos(moments, self.timestamp)
        self.table = table.set_column(table.schema.get_field_index(self.timestamp), self.timestamp, moments)

    @property
    def span(self) -> tuple[dt.datetime, dt.datetime] | tuple[None, None]:
        """The first and the last time, in microseconds precision; None if there is no time."""
        moments = self.table[self.timestamp].drop_null()
        if not len(moments):
            return None, None
        first, last = pc.min_max(moments).values()
        return _datetime(first), _datetime(last)

    @classmethod
    def of(cls, entity_df: Any, config: RepoConfig) -> Entities:
        """Entity rows of a dataframe, an Arrow table, or SQL over the views of the lake (docs/sql.md).

        Raises:
            SchemaError: another type, or no event timestamp column.
            ForbiddenError: SQL that is not a read-only query.
            ConfigError: SQL was given, but there is no lake.
        """
        if isinstance(entity_df, str):
            return cls(open_lake(config).sql(entity_df).to_arrow_table())
        if isinstance(entity_df, pa.Table):
            return cls(entity_df)
        if isinstance(entity_df, pd.DataFrame):
            return cls(_from_pandas(entity_df))
        raise SchemaError(
            f"entity_df: {type(entity_df).__name__} given; expected a pandas DataFrame, an Arrow table or a SQL string"
        )


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(f"entity_df: {error}; make each column of one type") from error


def _in_utc(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Convert times to timestamps in UTC, keeping their unit; times without a zone are UTC.

    Text is parsed as Feast does; dates are their midnights.

    Raises:
        SchemaError: another type.
    """
    kind = plain(column.type)
    if column.type != kind:
        column = column.cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _read(column, name)
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("s")).cast(pa.timestamp("us", "UTC"))
    if not pa.types.is_timestamp(kind):
        raise SchemaError(f"entity_df: {name} is {kind}; expected timestamps")
    return column.cast(pa.timestamp(kind.unit, "UTC"))


def _read(text: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Parse text in ISO 8601, with or without a zone."""
    try:
        try:
            moments = pa.array(pd.to_datetime(text.to_pandas(), utc=True, format="ISO8601"))
        except pd.errors.OutOfBoundsDatetime:  # pandas has nanoseconds here, which end in 2262
            read = [None if value is None else dt.datetime.fromisoformat(value) for value in text.to_pylist()]
            aware = [value if value is None or value.tzinfo else value.replace(tzinfo=dt.UTC) for value in read]
            moments = pa.array(aware, pa.timestamp("us", "UTC"))
    except ValueError as error:
        raise SchemaError(f"entity_df: {name}: {error}; expected timestamps") from error
    return pa.chunked_array([moments])


def _datetime(moment: pa.Scalar) -> dt.datetime:
    """An instant as a datetime with microseconds, clipped to the years 1 to 9999."""
    micros = moment.value * 1_000_000 // {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[moment.type.unit]
    within = min(max(micros, day_start(Day.min)), day_start(Day.max) + DAY_US - 1)
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=within)


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
