"""Tables into files: more rows of a feature view, saved datasets, and logs of what was served."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingDestination
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_utils import cast_arrow_table_to_schema
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from tokenlake.errors import ConfigError, SchemaError
from tokenlake.feast.offline.opening import delta_options, open_rows
from tokenlake.storage import atomic


def append(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    """Add rows to a view's source, a Parquet file, a folder of them, or a Delta table.

    Raises:
        ConfigError: a source that is no file: the lake's tables are written by its jobs.
        SchemaError: other columns than the source's, or another order.
    """
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise ConfigError(f"{view.name}: {type(source).__name__} is written by the lake's jobs; push to a FileSource")
    schema = open_rows(source, config).schema
    names = schema.names
    if names != table.column_names:
        raise SchemaError(f"{view.name}: columns {table.column_names} given; expected {names}, in this order")
    path, filesystem, place = _place(source, config)
    if isinstance(source.file_format, DeltaFormat):
        from deltalake import write_deltalake

        write_deltalake(path, _cast(table, schema), mode="append", storage_options=delta_options(source) or None)
        return
    if filesystem is None and Path(place).is_dir():
        pq.write_table(_cast(table, schema), Path(place) / f"{uuid.uuid4().hex}.parquet")
        return
    held = pq.read_table(place, filesystem=filesystem)
    _write_whole(pa.concat_tables([_cast(table, held.schema), held]), place, filesystem)


def write_saved(table: pa.Table, storage: SavedDatasetStorage, config: RepoConfig, *, overwrite: bool) -> None:
    """Write a saved dataset; the errors are those of `Retrieval.persist`."""
    if not isinstance(storage, SavedDatasetFileStorage):
        raise ConfigError(f"{type(storage).__name__} given; TokenlakeOfflineStore saves to SavedDatasetFileStorage")
    source = storage.to_data_source()
    assert isinstance(source, FileSource)
    path, filesystem, place = _place(source, config)
    if not overwrite and Path(path).exists():
        raise SavedDatasetLocationAlreadyExists(location=storage.file_options.uri)
    if isinstance(storage.file_options.file_format, DeltaFormat):
        from deltalake import write_deltalake

        write_deltalake(
            path, table, mode="overwrite", schema_mode="overwrite", storage_options=delta_options(source) or None
        )
    elif place.endswith(".parquet"):
        _write_whole(table, place, filesystem)
    else:
        pq.write_to_dataset(table, place, filesystem=filesystem, existing_data_behavior="delete_matching")


def write_logs(config: RepoConfig, logs: pa.Table | Path, schema: pa.Schema, destination: LoggingDestination) -> None:
    """Add served features to a log: one more file in its folder, or in each of its partitions (`logs/2024-03-01/`).

    Args:
        config: of the feature repository.
        logs: the rows, or a Parquet file or folder that holds them.
        schema: columns that they must have, as the feature service tells; others are kept behind them.
        destination: where the log is.

    Raises:
        ConfigError: a destination that is no file.
        SchemaError: a column is missing, or of another type.
    """
    if not isinstance(destination, FileLoggingDestination):
        raise ConfigError(f"{type(destination).__name__} given; TokenlakeOfflineStore logs to a FileLoggingDestination")
    table = pq.read_table(logs) if isinstance(logs, Path) else logs
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise SchemaError(f"the logs have no columns {missing}; they have {table.column_names}")
    others = [table.schema.field(name) for name in table.column_names if name not in schema.names]
    whole = pa.schema([*schema, *others])
    source = destination.to_data_source()
    assert isinstance(source, FileSource)
    _, filesystem, place = _place(source, config)
    table = _cast(table.select(whole.names), whole)
    # Arrow leaves a partition's column out of its files, and a reader could not name it: copies of them go instead.
    copies = [f"partition {name}" for name in destination.partition_by or ()]
    for copy, name in zip(copies, destination.partition_by or (), strict=True):
        if name not in table.column_names:
            raise SchemaError(f"partition_by={name!r} is no column of the logs; they have {table.column_names}")
        table = table.append_column(copy, table[name])
    pds.write_dataset(
        table,
        place,
        filesystem=filesystem,
        format="parquet",
        basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
        partitioning=copies or None,
        existing_data_behavior="overwrite_or_ignore",
    )


def _place(source: FileSource, config: RepoConfig) -> tuple[str, Any, str]:
    path = FileSource.get_uri_for_file_path(config.repo_path, source.file_options.uri)
    filesystem, place = FileSource.create_filesystem_and_path(
        path, source.file_options.s3_endpoint_override, source.resolve_credentials()
    )
    return path, filesystem, place


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return cast_arrow_table_to_schema(table, schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"{error}; expected\n{schema}") from error


def _write_whole(table: pa.Table, place: str, filesystem: Any) -> None:
    """A local file is replaced at once, so that a reader sees the old or the new one."""
    if filesystem is not None:
        pq.write_table(table, place, filesystem=filesystem)
        return
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    with atomic.file(Path(place)) as part:
        pq.write_table(table, part)
