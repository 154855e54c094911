"""Opens the rows of a Feast data source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as pds
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from tokenlake.errors import ConfigError
from tokenlake.feast.offline.rows import SourceRows
from tokenlake.feast.sources import LakeSource, open_lake
from tokenlake.lake.tables import Table
from tokenlake.reading.chunks import File
from tokenlake.reading.delta import delta_files
from tokenlake.reading.handles import HELD, FileHandle, steady
from tokenlake.reading.parquet import ParquetFile
from tokenlake.reading.source import Source, open_source

T = TypeVar("T")


def read_rows(source: DataSource | None, config: RepoConfig, use: Callable[[SourceRows], T]) -> T:
    """Call `use` with a consistent state of a source's rows; starts again if another process changes them meanwhile.

    Raises:
        ChangedError: the rows changed during every attempt.
        TokenlakeError: as `open_rows`.
    """

    def once() -> T:
        rows = open_rows(source, config)
        found = use(rows)
        rows.check()
        return found

    return steady(once)


def open_rows(source: DataSource | None, config: RepoConfig) -> SourceRows:
    """Open the present rows of a `LakeSource` or a `FileSource`.

    Raises:
        ConfigError: a source of another type, or a format that this store does not read.
        MissingSourceError: the path does not exist.
        DamagedSourceError: a file cannot be read.
        SchemaError: a column has types without a common type in two files.
    """
    if isinstance(source, LakeSource):
        return _lake_rows(*source.open(open_lake(config)))
    if not isinstance(source, FileSource):
        raise ConfigError(
            f"{type(source).__name__} given; TokenlakeOfflineStore reads FileSource, LakeSource and TokenSource"
        )
    path = FileSource.get_uri_for_file_path(config.repo_path, source.file_options.uri)
    filesystem, place = FileSource.create_filesystem_and_path(
        path, source.file_options.s3_endpoint_override, source.resolve_credentials()
    )
    if source.file_format is None or isinstance(source.file_format, ParquetFormat):
        opened = open_source(place, filesystem=filesystem)
    elif isinstance(source.file_format, DeltaFormat):
        opened = Source(delta_files(path, place, filesystem, delta_options(source)))
    else:
        raise ConfigError(f"{source.name}: {source.file_format} given; TokenlakeOfflineStore reads Parquet and Delta")
    return SourceRows(_parquet(opened.files), opened.schema)


def delta_options(source: FileSource) -> dict[str, str]:
    """Deltalake's storage options for a source."""
    options = dict(source.resolve_credentials() or {})
    if endpoint := source.file_options.s3_endpoint_override:
        options["AWS_ENDPOINT_URL"] = endpoint
    return options


def _lake_rows(table: Table, version: str | None) -> SourceRows:
    data = table.dataset(version=version)
    fragments = [] if data is None else list(data.get_fragments())
    keep = len(fragments) <= HELD
    files = [
        ParquetFile(FileHandle(part.path, keep=keep), _constants(part, table.schema), table.schema)
        for part in fragments
    ]
    return SourceRows(files, table.schema)


def _constants(part: pds.ParquetFileFragment, schema: pa.Schema) -> dict[str, pa.Scalar]:
    known = pds.get_partition_keys(part.partition_expression)
    return {name: pa.scalar(value).cast(schema.field(name).type) for name, value in known.items()}


def _parquet(files: Sequence[File]) -> list[ParquetFile]:
    if other := next((file for file in files if file.rows and not isinstance(file, ParquetFile)), None):
        raise ConfigError(f"{other.name} is no Parquet; TokenlakeOfflineStore reads Parquet and Delta")
    return [file for file in files if isinstance(file, ParquetFile)]
