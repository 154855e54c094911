"""Plain views: pulls the newest values of each entity and writes them column by column, without Feast's engine.

`FeatureStore.materialize` creates two protobuf objects per row first, and of a table with several chunks it writes only
the first one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, TypeAlias

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _get_column_names, _run_pyarrow_field_mapping

from tokenlake.errors import SchemaError
from tokenlake.feast.kinds import source_of, tokens_of
from tokenlake.feast.online import encode
from tokenlake.feast.sequences import portions
from tokenlake.feast.sources import TokenSource, open_lake
from tokenlake.progress import Progress
from tokenlake.tokens.store import TokenStore

#: Rows of one write to the online store.
BATCH_ROWS = 20_000
Row: TypeAlias = tuple[EntityKey, dict[str, Value], dt.datetime, dt.datetime | None]


def copy(
    store: FeatureStore, view: FeatureView, start: dt.datetime, end: dt.datetime, progress: Progress | None = None
) -> int | None:
    """Write the newest value of each entity from `start` to `end`, both included.

    Returns:
        Rows written; None where nothing is copied, since Tokenlake's online store reads the lake's token store itself.
    """
    online: Any = store.provider.online_store
    tokens = tokens_of(view)
    if tokens is None:
        return _put(store, view, pull(store, view, start, end))
    if hasattr(online, "write_arrow") or not _published(store, tokens):
        return None
    rows = 0
    for table, done, users in _sequences(store, view, tokens, start, end):
        rows += _put(store, view, table)
        if progress is not None:
            progress(view.name, done, users)
    return rows


def pull(store: FeatureStore, view: FeatureView, start: dt.datetime, end: dt.datetime) -> pa.Table:
    """The newest row of each entity from `start` to `end`, both included: the columns of the view's source, renamed."""
    source = source_of(view)
    if source is None:
        raise SchemaError(f"feature view {view.name!r} has no batch source, and so nothing to pull")
    keys, features, timestamp, created = _columns(store, view)
    job = store.provider.offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=keys,
        feature_name_columns=features,
        timestamp_field=timestamp,
        created_timestamp_column=created,
        start_date=start,
        end_date=end,
    )
    return _run_pyarrow_field_mapping(job.to_arrow(), source.field_mapping or {})


def _put(store: FeatureStore, view: FeatureView, table: pa.Table) -> int:
    online: Any = store.provider.online_store
    if hasattr(online, "write_arrow"):
        rows: int = online.write_arrow(store.config, view, table) if table.num_rows else 0
        return rows
    for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
        online.online_write_batch(store.config, view, _rows(view, batch), None)
    return int(table.num_rows)


def _published(store: FeatureStore, source: TokenSource) -> bool:
    lake = open_lake(store.config)
    return TokenStore.exists(lake.store_path(lake.resolve(source.version or source.stream)))


def _sequences(
    store: FeatureStore, view: FeatureView, source: TokenSource, start: dt.datetime, end: dt.datetime
) -> Iterator[tuple[pa.Table, int, int]]:
    keys, features, _, _ = _columns(store, view)
    mapping = source.field_mapping or {}
    for table, done, users in portions(source, open_lake(store.config), [*keys, *features], start, end):
        yield _run_pyarrow_field_mapping(table, mapping), done, users


def _columns(store: FeatureStore, view: FeatureView) -> Any:
    """Join keys, features, event time and created time, by their column names in the view's source."""
    return _get_column_names(view, [store.registry.get_entity(name, store.project) for name in view.entities])


def _rows(view: FeatureView, batch: pa.RecordBatch) -> list[Row]:
    """Rows for `online_write_batch`, built from wire bytes in a hundredth of the time of Feast's own code."""
    source: Any = source_of(view)
    keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    values = {field.name: field.dtype.to_value_type() for field in view.features}
    columns = encode.columns_of(batch, [*keys, *values])
    protos = {
        name: [Value.FromString(data) for data in encode.encode_values(columns[name], kind).to_pylist()]
        for name, kind in (keys | values).items()
    }
    times = _instants(batch, source.timestamp_field)
    made = _instants(batch, source.created_timestamp_column) if source.created_timestamp_column else [None] * len(times)
    names = sorted(keys)
    entities = zip(*(protos[name] for name in names), strict=True)
    features = zip(*(protos[name] for name in values), strict=True)
    return [
        (EntityKey(join_keys=names, entity_values=entity), dict(zip(values, row, strict=True)), time, create)
        for entity, row, time, create in zip(entities, features, times, made, strict=True)
    ]


def _instants(batch: pa.RecordBatch, name: str) -> list[Any]:
    column = encode.one(batch.column(name))
    found: list[Any] = column.cast(pa.timestamp("us", column.type.tz or "UTC")).to_pylist()
    return found
