"""Writes tables to files: rows of a feature view, saved datasets, and logs of served features."""

from __future__ import annotations

import glob
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingDestination
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_utils import cast_arrow_table_to_schema
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from tokenlake.errors import ConfigError, SchemaError, storage_error
from tokenlake.feast.offline.opening import delta_options, open_rows
from tokenlake.storage import atomic, disk, locks

#: Seconds that a writer waits for another one.
PATIENCE_S = 60.0
_INDEX = re.compile(r"__index_level_\d+__")
_PUSH = re.compile(r"(.*)push-(\d{12})-[0-9a-f]{8}\.parquet")


def append(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    """Append rows to a view's source (a Parquet file, a folder of them, or a Delta table); durable when it returns.

    New rows come after existing ones, so that of rows with equal times the last written is used. One writer at a time.

    Raises:
        ConfigError: the source is not a file: the lake's tables are written by its jobs.
        SchemaError: other columns than the source's, or in another order.
        LockedError: another writer kept the source locked for too long.
        StorageError: the disk is full or not writable.
    """
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise ConfigError(f"{view.name}: {type(source).__name__} is written by the lake's jobs; push to a FileSource")
    path, filesystem, place = _place(source, config)
    if filesystem is None and not Path(place).exists() and glob.has_magic(place):
        raise ConfigError(f"{view.name}: {place} stands for several files; push to a source that is a file or a folder")
    with _writing(place, filesystem, config, f"writing to {view.name}"):
        schema = open_rows(source, config).schema
        table = _fitting(table, schema, view.name)
        if isinstance(source.file_format, DeltaFormat):
            from deltalake import write_deltalake

            write_deltalake(path, table, mode="append", storage_options=delta_options(source) or None)
        elif filesystem is None and Path(place).is_dir():
            _write_whole(table, str(_behind_all(Path(place))), filesystem)
        else:
            held = pq.read_table(place, filesystem=filesystem)
            _write_whole(pa.concat_tables([held, _cast(table, held.schema)]), place, filesystem)


def _fitting(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """Cast the table to a source's types."""
    # Feast's engine leaves pandas' index column in its tables.
    given = [column for column in table.column_names if column in schema.names or not _INDEX.fullmatch(column)]
    if given != schema.names:
        raise SchemaError(f"{name}: columns {given} given; expected {schema.names}, in this order")
    return _cast(table.select(given), schema)


def _behind_all(folder: Path) -> Path:
    """A new file name that sorts after all files in a folder, since rows are read in the order of the file names."""
    paths = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    last = max((path for path in paths if path[0] not in "._"), key=lambda path: path.split("/"), default="")
    if (own := _PUSH.fullmatch(last)) is not None:
        prefix, number = own[1], int(own[2]) + 1
    else:
        prefix, number = ("" if last < "push-" else f"{last.partition('/')[0]}~"), 1
    return folder / f"{prefix}push-{number:012d}-{uuid.uuid4().hex[:8]}.parquet"


@contextmanager
def _writing(place: str, filesystem: Any, config: RepoConfig, what: str) -> Iterator[None]:
    """Hold the writer's lock of a place: it excludes this machine's processes and, for local files, all that share the disk."""
    if filesystem is None:
        whole = Path(place).resolve()
        lock = whole.with_name(f".{whole.name}.lock")
    else:
        lock = Path(config.repo_path or ".") / ".locks" / f"{quote(place, safe='')}.lock"
    try:
        with locks.hold(lock, what, timeout=PATIENCE_S):
            yield
    except OSError as error:
        raise storage_error(error) from error


def write_saved(table: pa.Table, storage: SavedDatasetStorage, config: RepoConfig, *, overwrite: bool) -> None:
    """Write a saved dataset; the errors are those of `TokenlakeRetrievalJob.persist`."""
    if not isinstance(storage, SavedDatasetFileStorage):
        raise ConfigError(f"{type(storage).__name__} given; TokenlakeOfflineStore saves to SavedDatasetFileStorage")
    source = _file_source(storage.to_data_source())
    path, filesystem, place = _place(source, config)
    with _writing(place, filesystem, config, "saving a dataset"):
        if not overwrite and Path(path).exists():
            raise SavedDatasetLocationAlreadyExists(location=storage.file_options.uri)
        if isinstance(storage.file_options.file_format, DeltaFormat):
            from deltalake import write_deltalake

            options = delta_options(source) or None
            write_deltalake(path, table, mode="overwrite", schema_mode="overwrite", storage_options=options)
        elif place.endswith(".parquet"):
            _write_whole(table, place, filesystem)
        else:
            pq.write_to_dataset(table, place, filesystem=filesystem, existing_data_behavior="delete_matching")


def write_logs(config: RepoConfig, logs: pa.Table | Path, schema: pa.Schema, destination: LoggingDestination) -> None:
    """Append served features to a log: a new file in its folder, or in each of its partitions (`logs/2024-03-01/`).

    Args:
        config: of the feature repository.
        logs: the rows, or a Parquet file or folder that holds them.
        schema: the columns of the feature service, which the rows must have; other columns are kept after them.
        destination: the log.

    Raises:
        ConfigError: the destination is not a file.
        SchemaError: a column is missing, or has another type.
    """
    if not isinstance(destination, FileLoggingDestination):
        raise ConfigError(f"{type(destination).__name__} given; TokenlakeOfflineStore logs to a FileLoggingDestination")
    table = pq.read_table(logs) if isinstance(logs, Path) else logs
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise SchemaError(f"the logs have no columns {missing}; they have {table.column_names}")
    others = [table.schema.field(name) for name in table.column_names if name not in schema.names]
    whole = pa.schema([*schema, *others])
    source = _file_source(destination.to_data_source())
    _, filesystem, place = _place(source, config)
    table = _cast(table.select(whole.names), whole)
    # Arrow drops the partition columns from the files, and the folder names do not hold them: it drops copies instead.
    copies = [f"partition {name}" for name in destination.partition_by or ()]
    for copy, name in zip(copies, destination.partition_by or (), strict=True):
        if name not in table.column_names:
            raise SchemaError(f"partition_by={name!r} is no column of the logs; they have {table.column_names}")
        table = table.append_column(copy, table[name])
    write = partial(
        pds.write_dataset,
        table,
        format="parquet",
        basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
        partitioning=copies or None,
        existing_data_behavior="overwrite_or_ignore",
    )
    if filesystem is not None:
        write(base_dir=place, filesystem=filesystem)
    else:
        _add_files(write, Path(place))


def _add_files(write: Callable[..., None], folder: Path) -> None:
    """Add complete files to a folder: they are written in a hidden folder, then moved."""
    aside = folder / f".{uuid.uuid4().hex}.new"
    try:
        aside.mkdir(parents=True)
        write(base_dir=str(aside))
        for file in sorted(aside.rglob("*.parquet")):
            target = folder / file.relative_to(aside)
            target.parent.mkdir(parents=True, exist_ok=True)
            disk.sync_file(file)
            disk.rename(file, target)
            disk.sync_folder(target.parent)
    except OSError as error:
        raise storage_error(error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _file_source(source: DataSource) -> FileSource:
    if not isinstance(source, FileSource):
        raise ConfigError(f"{type(source).__name__} given; TokenlakeOfflineStore writes to a FileSource")
    return source


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
    """Write a file; a local file is replaced atomically, so that a reader sees the old or the new one."""
    if filesystem is not None:
        pq.write_table(table, place, filesystem=filesystem)
        return
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    with atomic.file(Path(place)) as part:
        pq.write_table(table, part)
