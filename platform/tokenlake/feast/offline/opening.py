"""The rows behind a Feast data source."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from tokenlake.errors import ConfigError, CorruptionError, NotFoundError
from tokenlake.feast.offline.rows import Rows, parquet_rows
from tokenlake.feast.sources import LakeSource, open_lake

#: What a Delta table may do to its files that reading them as they lie would miss.
_UNREADABLE = {"deletionVectors", "columnMapping"}


def open_rows(source: DataSource | None, config: RepoConfig) -> Rows:
    """The rows of a `LakeSource` or a `FileSource` as they are now.

    Raises:
        ConfigError: a source of another kind, or a format that this store does not read.
        NotFoundError: nothing lies there.
        CorruptionError: it cannot be read.
    """
    if isinstance(source, LakeSource):
        table, version = source.open(open_lake(config))
        files = table.dataset(version=version)
        return Rows(files or pds.FileSystemDataset([], table.schema, pds.ParquetFileFormat(), pafs.LocalFileSystem()))
    if not isinstance(source, FileSource):
        raise ConfigError(
            f"{type(source).__name__} given; TokenlakeOfflineStore reads FileSource, LakeSource and TokenSource"
        )
    path = FileSource.get_uri_for_file_path(config.repo_path, source.file_options.uri)
    filesystem, place = FileSource.create_filesystem_and_path(
        path, source.file_options.s3_endpoint_override, source.resolve_credentials()
    )
    if source.file_format is None or isinstance(source.file_format, ParquetFormat):
        return parquet_rows(place, filesystem)
    if isinstance(source.file_format, DeltaFormat):
        return _delta_rows(path, place, filesystem, delta_options(source))
    raise ConfigError(f"{source.name}: {source.file_format} given; TokenlakeOfflineStore reads Parquet and Delta")


def delta_options(source: FileSource) -> dict[str, str]:
    """What deltalake needs to know of a source's storage."""
    options = dict(source.resolve_credentials() or {})
    if endpoint := source.file_options.s3_endpoint_override:
        options["AWS_ENDPOINT_URL"] = endpoint
    return options


def _delta_rows(path: str, place: str, filesystem: Any, options: dict[str, str]) -> Rows:
    """The files of the newest version of any Delta table."""
    try:
        delta = DeltaTable(path, storage_options=options or None)
    except TableNotFoundError as error:
        raise NotFoundError(f"{path} holds no Delta table; check the source's path") from error
    except DeltaError as error:
        raise CorruptionError(f"{path} cannot be read as a Delta table ({error})") from error
    if strange := _UNREADABLE & set(delta.protocol().reader_features or ()):
        raise ConfigError(
            f"{path} uses Delta's {sorted(strange)}, which TokenlakeOfflineStore does not read; rewrite it without"
        )
    schema = pa.schema(delta.schema().to_arrow())
    # Of rows of one time the last written is seen: the log names its files in no order.
    listed = pa.table(delta.get_add_actions(flatten=True)).sort_by(
        [("modification_time", "ascending"), ("path", "ascending")]
    )
    layout, disk = pds.ParquetFileFormat(), filesystem or pafs.LocalFileSystem()
    names = delta.metadata().partition_columns
    parts = [listed[f"partition.{name}"].to_pylist() for name in names]
    fragments = [
        layout.make_fragment(str(Path(place) / unquote(file)), disk, partition_expression=_equal(names, values))
        for file, *values in zip(listed["path"].to_pylist(), *parts, strict=True)
    ]
    return Rows(pds.FileSystemDataset(fragments, schema, layout, disk))


def _equal(names: list[str], values: list[Any]) -> pc.Expression:
    whole = pc.scalar(True)  # noqa: FBT003 (an expression)
    for name, value in zip(names, values, strict=True):
        whole &= pc.field(name).is_null() if value is None else pc.field(name) == value
    return whole
