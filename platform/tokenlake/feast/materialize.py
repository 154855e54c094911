"""Materializing: the newest values of every view into Feast's online store.

`FeatureStore.materialize` is not what runs here, for three reasons. It marks a view as being materialized, and readers
are refused until it is done, or for good when it was killed. A rerun of an old day would write that day's values over
newer ones: only the range's newest are pulled, and Feast's SQLite store takes what comes last. And a table of several
chunks loses all but the first on its way into the store.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.data_source import DataSource
from feast.errors import FeastError
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _get_column_names, _run_pyarrow_field_mapping

from tokenlake.errors import ConfigError, ServiceError
from tokenlake.feast import LakeSource, TokenSource
from tokenlake.feast.apply import register
from tokenlake.feast.online import encode
from tokenlake.feast.repository import STORE_FILE
from tokenlake.feast.sequences import portions
from tokenlake.feast.sources import open_lake
from tokenlake.progress import Progress
from tokenlake.tokens.store import TokenStore

#: Rows that go into the online store at a time.
_BATCH_ROWS = 20_000
_ONE_DAY = dt.timedelta(days=1)
_BEGINNING = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
Row: TypeAlias = tuple[EntityKey, dict[str, Value], dt.datetime, dt.datetime | None]


@dataclass(frozen=True)
class Span:
    """What has to be written of a view: the newest value of each entity from `start` to `end`, both included."""

    view: FeatureView
    source: DataSource
    start: dt.datetime
    end: dt.datetime


def materialize(
    repo: Path, since: dt.datetime | None, until: dt.datetime, progress: Progress | None = None
) -> dict[str, int]:
    """Register what a repository defines, and bring its online store up to a time.

    Args:
        repo: folder of the `feature_store.yaml`.
        since: nothing that became available earlier has changed since the last time; None where that is not known,
            and everything is pulled.
        until: what became available later is left out, unless the store holds newer values already: then it is
            brought up to those, so that nothing old is written over them.
        progress: told of views that are copied portion by portion.

    Returns:
        Rows written, by view.

    Raises:
        ConfigError: a file of the repository that Feast refuses.
        ServiceError: the registry or the online store does not answer.
    """
    with _opened(repo) as store:
        emptied = register(store, repo)
        spans = [
            _span(view, view.batch_source, None if view.name in emptied else since, until)
            for view in sorted(store.list_batch_feature_views(), key=lambda view: view.name)
            if view.online and view.batch_source is not None
        ]
        return {span.view.name: _write(store, span, progress) for span in spans}


@contextmanager
def _opened(repo: Path) -> Iterator[FeatureStore]:
    """A store whose connections are closed afterwards, and whose errors are ours."""
    import redis.exceptions
    import sqlalchemy.exc

    store = None
    try:
        store = FeatureStore(repo_path=str(repo))
        if hasattr(store.config.online_store, "skip_dedup"):
            # Feast's Redis store takes no value of the time that it holds, and so none of a day that was run again.
            # What is written here is never older than what is there, so it need not look.
            store.config.online_store.skip_dedup = True
        yield store
    except (sqlalchemy.exc.OperationalError, redis.exceptions.ConnectionError) as error:
        raise ServiceError(
            f"the registry or the online store of {repo / STORE_FILE} does not answer ({type(error).__name__}); start "
            "it, or mend its address there. A lake that was moved has its registry's path of before"
        ) from error
    except FeastError as error:
        raise ConfigError(f"Feast refuses {repo}: {error}") from error
    finally:
        if store is not None:
            _close(store)


def _close(store: FeatureStore) -> None:
    engine = getattr(store._registry, "write_engine", None)
    if engine is not None:
        engine.dispose()
    online = getattr(store._provider, "online_store", None) if store._provider is not None else None
    connection = getattr(online, "_conn", None)  # of Feast's SQLite store
    if connection is not None:
        connection.close()


def _span(view: FeatureView, source: DataSource, since: dt.datetime | None, until: dt.datetime) -> Span:
    held: dt.datetime | None = view.most_recent_end_time
    if held is None or since is None:
        return Span(view, source, _BEGINNING, max(until, held or until))
    # A lake's table tells which days have changed. Of any other source only what came after the last time is new.
    start = since if isinstance(source, LakeSource) else min(since, held)
    if isinstance(source, TokenSource):
        start -= _ONE_DAY  # a day's tokens bear times of that day, and may be published after its other rows
    return Span(view, source, start, max(until, held))


def _write(store: FeatureStore, span: Span, progress: Progress | None) -> int:
    view = span.view
    online: Any = store.provider.online_store
    rows = 0
    if isinstance(span.source, TokenSource):
        if hasattr(online, "write_arrow") or not _published(store, span.source):
            return 0  # our online store reads the lake's token store itself
        for table, done, users in _sequences(store, span, span.source):
            rows += _put(store, span, table)
            if progress is not None:
                progress(view.name, done, users)
    else:
        rows = _put(store, span, _pull(store, span))
    if view.most_recent_end_time is None or span.end > view.most_recent_end_time:
        store.registry.apply_materialization(view, store.project, span.start, span.end)
    return rows


def _put(store: FeatureStore, span: Span, table: pa.Table) -> int:
    online: Any = store.provider.online_store
    if hasattr(online, "write_arrow"):
        rows: int = online.write_arrow(store.config, span.view, table) if table.num_rows else 0
        return rows
    for batch in table.combine_chunks().to_batches(max_chunksize=_BATCH_ROWS):
        online.online_write_batch(store.config, span.view, _rows(span, batch), None)
    return int(table.num_rows)


def _published(store: FeatureStore, source: TokenSource) -> bool:
    lake = open_lake(store.config)
    return TokenStore.exists(lake.store_path(lake.resolve(source.version or source.stream)))


def _sequences(store: FeatureStore, span: Span, source: TokenSource) -> Iterator[tuple[pa.Table, int, int]]:
    keys, features, _, _ = _columns(store, span.view)
    mapping = source.field_mapping or {}
    for table, done, users in portions(source, open_lake(store.config), [*keys, *features], span.start, span.end):
        yield _run_pyarrow_field_mapping(table, mapping), done, users


def _columns(store: FeatureStore, view: FeatureView) -> Any:
    """Join keys, features, event and created time, as the view's source calls them."""
    return _get_column_names(view, [store.registry.get_entity(name, store.project) for name in view.entities])


def _pull(store: FeatureStore, span: Span) -> pa.Table:
    keys, features, timestamp, created = _columns(store, span.view)
    job = store.provider.offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=span.source,
        join_key_columns=keys,
        feature_name_columns=features,
        timestamp_field=timestamp,
        created_timestamp_column=created,
        start_date=span.start,
        end_date=span.end,
    )
    return _run_pyarrow_field_mapping(job.to_arrow(), span.source.field_mapping or {})


def _rows(span: Span, batch: pa.RecordBatch) -> list[Row]:
    """Rows as `online_write_batch` takes them; built from wire bytes, which takes a hundredth of Feast's own time."""
    view, source = span.view, span.source
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
