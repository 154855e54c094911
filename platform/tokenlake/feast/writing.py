"""Tables into files: more rows of a feature view, and saved datasets."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_utils import cast_arrow_table_to_schema
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from tokenlake.errors import ConfigError, SchemaError
from tokenlake.feast.opening import delta_options, open_rows


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
    scratch = Path(f"{place}.{uuid.uuid4().hex}.new")
    try:
        pq.write_table(table, scratch)
        scratch.replace(place)
    finally:
        scratch.unlink(missing_ok=True)
