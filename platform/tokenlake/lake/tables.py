"""`Table`: one Delta Lake table with a fixed schema, partitioned by day, or by version and day."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError
from deltalake.transaction import AddAction

from tokenlake.errors import ConflictError, CorruptionError, SchemaError, StorageError
from tokenlake.lake.log import DeltaLog
from tokenlake.names import folded
from tokenlake.storage.locks import hold
from tokenlake.times import Day, as_micros

if TYPE_CHECKING:
    import pyarrow.dataset as pds


#: How long a short write waits for another of the same partition.
_PATIENCE = 60.0
_BATCH_ROWS = 65_536
#: Writers of different partitions conflict only over the next version number of the log.
_RETRIES = 1000


class Table:
    """A Delta table that is created at its first write.

    Reading before the first write returns an empty table of the schema. Columns that were added to the config after
    rows were written read as null. The order of rows is not defined.

    Args:
        path: the table's folder.
        schema: its columns, or a function that returns them while they still depend on the first ingest.
        partition_by: `("ds",)` or `("version", "ds")`.
        locks: folder of the lock files.
    """

    def __init__(
        self, path: Path, schema: pa.Schema | Callable[[], pa.Schema], partition_by: tuple[str, ...], locks: Path
    ) -> None:
        self.path = path
        self.partition_by = partition_by
        self._schema = schema
        self._locks = locks
        self._log = DeltaLog(path)

    def __repr__(self) -> str:
        return f"Table({str(self.path)!r})"

    @property
    def schema(self) -> pa.Schema:
        """The columns, in order."""
        return self._schema if isinstance(self._schema, pa.Schema) else self._schema()

    @property
    def exists(self) -> bool:
        """Whether the table has a commit."""
        return self._log.newest() is not None

    # Reading.

    def days(self, version: str | None = None) -> list[Day]:
        """Sorted days that hold rows; reads only the log."""
        files = self._log.files(version=version)
        return sorted(
            {day for day, rows in zip(files.of("partition.ds"), files.of("num_records"), strict=True) if rows}
        )

    def counts(self) -> dict[Day, int]:
        """Number of rows of each day; reads only the log."""
        files, counted = self._log.files(), dict[Day, int]()
        for day, rows in zip(files.of("partition.ds"), files.of("num_records"), strict=True):
            counted[day] = counted.get(day, 0) + rows
        return counted

    def count(self, *, day: Day | None = None, version: str | None = None) -> int:
        """Number of rows; reads only the log."""
        return sum(self._log.files(day=day, version=version).of("num_records"))

    def newest(self, column: str) -> int:
        """Largest instant of a time column in microseconds, 0 where there is none; reads only the log.

        The log keeps whole milliseconds: use it only for a column without finer values, such as `ingested_at`.
        """
        values = [value for value in self._log.files().of(f"max.{column}") if value is not None]
        return int(as_micros(values).max()) if values else 0

    def days_with(self, column: str, low: Any, high: Any) -> list[Day]:
        """Sorted days that may hold values of a column from `low` to `high`, by the log's statistics."""
        files = self._log.files()
        ranges = zip(files.of("partition.ds"), files.of(f"min.{column}"), files.of(f"max.{column}"), strict=True)
        return sorted({day for day, lo, hi in ranges if lo is None or hi is None or (lo <= high and low <= hi)})

    def commit_version(self) -> int | None:
        """Number of the newest Delta version, which grows with every commit; None before the first commit."""
        delta = self._log.newest()
        return None if delta is None else delta.version()

    def uris(
        self, *, day: Day | None = None, between: tuple[Day, Day] | None = None, version: str | None = None
    ) -> list[str]:
        """Parquet files of the current version, for DuckDB's `read_parquet`."""
        return self._log.files(day=day, between=between, version=version).paths()

    def files_by_day(self) -> dict[Day, list[str]]:
        """Names of the current files of each day; reads only the log. The names change whenever the day's rows change."""
        files, out = self._log.files(), dict[Day, list[str]]()
        for day, path, rows in zip(files.of("partition.ds"), files.of("path"), files.of("num_records"), strict=True):
            if rows:
                out.setdefault(day, []).append(path)
        return out

    def read(
        self,
        *,
        day: Day | None = None,
        between: tuple[Day, Day] | None = None,
        version: str | None = None,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002  # pyarrow's and pandas' name for it
    ) -> pa.Table:
        """Read rows into memory.

        Args:
            day: one day's rows.
            between: rows of the days from the first to the second, both included.
            version: rows of one version, for tables that have them.
            columns: their names in the wanted order; defaults to all, in the schema's order.
            filter: an Arrow expression over any of the columns.

        Returns:
            A table with exactly the schema's types.
        """
        schema = self._selected(columns)
        dataset = self.dataset(day=day, between=between, version=version)
        if dataset is None:
            return schema.empty_table()
        with self._reading():
            return dataset.to_table(columns=schema.names, filter=filter).cast(schema)

    def batches(
        self,
        *,
        day: Day | None = None,
        between: tuple[Day, Day] | None = None,
        version: str | None = None,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002  # as in `read`
        rows: int = _BATCH_ROWS,
    ) -> Iterator[pa.RecordBatch]:
        """Read rows as a stream of batches of at most `rows`, holding a few of them at a time."""
        schema = self._selected(columns)
        dataset = self.dataset(day=day, between=between, version=version)
        if dataset is None:
            return
        scanned = dataset.to_batches(
            columns=schema.names, filter=filter, batch_size=rows, batch_readahead=2, fragment_readahead=1
        )
        with self._reading():
            for batch in scanned:
                if batch.num_rows:
                    yield batch.cast(schema)

    def dataset(
        self, *, day: Day | None = None, between: tuple[Day, Day] | None = None, version: str | None = None
    ) -> pds.FileSystemDataset | None:
        """The files of some partitions, with their partition values; None before the first commit."""
        import pyarrow.dataset as pds  # imports pandas, which SQL can do without
        import pyarrow.fs as pafs

        delta = self._log.newest()
        if delta is None:
            return None
        self._check(delta, self.schema)
        files = self._log.files(day=day, between=between, version=version)
        disk, layout = pafs.LocalFileSystem(), pds.ParquetFileFormat()
        parts = [files.of(f"partition.{name}") for name in self.partition_by]
        # Built here, since Delta's own dataset also prunes by column statistics, and treats a file without
        # statistics of a column as a file without matches.
        fragments = [
            layout.make_fragment(path, disk, partition_expression=_equal(self.partition_by, values))
            for path, *values in zip(files.paths(), *parts, strict=True)
        ]
        return pds.FileSystemDataset(fragments, self.schema, layout, disk)

    # Writing.

    def replace_day(self, ds: Day, data: pa.Table, version: str | None = None) -> None:
        """Replace one partition by these rows, atomically; an empty table empties the partition.

        Args:
            ds: the day.
            data: the schema's columns in any order; `ds` and `version` may be left out.
            version: the version; required exactly when the table is partitioned by version.

        Raises:
            SchemaError: a wrong column, or a row of another day or version.
            LockedError: another process is replacing this partition.
            ConflictError: a concurrent commit to this partition won.
        """
        if ("version" in self.partition_by) != (version is not None):
            raise SchemaError(f"{self.path.name} is partitioned by {self.partition_by}; version={version!r} given")
        self._replace({"ds": ds} | ({"version": version} if version is not None else {}), data)

    def replace_version(self, version: str, data: pa.Table) -> None:
        """Replace all days of a version by these rows, in one commit; errors are those of `replace_day`."""
        if "version" not in self.partition_by:
            raise SchemaError(f"{self.path.name} is partitioned by {self.partition_by}, and knows no versions")
        self._replace({"version": version}, data)

    def _replace(self, part: dict[str, Any], data: pa.Table) -> None:
        data = self._conform(_fill(data, part, self.schema))
        for column, value in part.items():
            if data.num_rows and pc.unique(data[column]).to_pylist() != [value]:
                raise SchemaError(f"{self.path.name}: a row's {column} is not {value}, the partition being replaced")
        predicate = " AND ".join(
            f"{column} = '{str(value).replace(chr(39), chr(39) * 2)}'" for column, value in part.items()
        )
        name = "-".join([self.path.name, *(str(part[c]) for c in self.partition_by if c in part)])
        with hold(self._locks / f"{name}.lock", f"replacing {name}", timeout=_PATIENCE), self._writing():
            if self.count(day=part.get("ds"), version=part.get("version")):
                self._write(data, mode="overwrite", predicate=predicate)
            elif data.num_rows:  # there is nothing to replace, and an append plans no scan for it
                self._write(data, mode="append")

    def append(self, data: pa.Table | pa.RecordBatchReader) -> None:
        """Add rows in one commit.

        Raises:
            SchemaError: a wrong column or type.
            ConflictError: a concurrent commit won.
        """
        if isinstance(data, pa.RecordBatchReader):
            schema = self.schema
            data = pa.RecordBatchReader.from_batches(
                schema, (part for b in data for part in self._conform(pa.Table.from_batches([b])).to_batches())
            )
        else:
            data = self._conform(data)
            if not data.num_rows:
                return
        with self._writing():
            self._write(data, mode="append")

    def commit_files(self, actions: Sequence[AddAction], schema: pa.Schema | None = None) -> None:
        """Add Parquet files that are in the table's folder already, all in one commit.

        Args:
            actions: path relative to the table, size, partition values and statistics of each file.
            schema: the files' schema; defaults to the table's.

        Raises:
            ConflictError: a concurrent commit won.
        """
        schema = schema or self.schema
        with self._writing():
            delta = self._create(schema)
            self._evolve(delta, schema)
            stored = pa.schema(delta.schema().to_arrow())
            delta.create_write_transaction(
                list(actions),
                "append",
                _delta_schema(stored),
                list(self.partition_by),
                commit_properties=CommitProperties(max_commit_retries=_RETRIES),
            )

    # Helpers.

    def _selected(self, columns: Sequence[str] | None) -> pa.Schema:
        schema = self.schema
        if columns is None:
            return schema
        if unknown := [c for c in columns if c not in schema.names]:
            raise SchemaError(f"{self.path.name} has no columns {unknown}; it has {schema.names}")
        return pa.schema([schema.field(c) for c in columns])

    def _check(self, delta: DeltaTable, schema: pa.Schema) -> None:
        stored = {field.name: field.type for field in pa.schema(delta.schema().to_arrow())}
        spelled = {folded(name): name for name in stored}
        for field in schema:
            if (name := spelled.get(folded(field.name), field.name)) != field.name:
                raise SchemaError(
                    f"{self.path.name} holds a column {name!r}, and the config now calls it {field.name!r}, which is one "
                    "to SQL; write it as it was, give the feature another name, or use a new data folder"
                )
            if field.name in stored and stored[field.name] != field.type:
                raise SchemaError(
                    f"{self.path.name}.{field.name} holds {stored[field.name]}, and the config now makes it "
                    f"{field.type}; give the feature another name, or use a new data folder"
                )

    def _conform(self, data: pa.Table) -> pa.Table:
        schema = self.schema
        missing = [name for name in schema.names if name not in data.column_names]
        unknown = [name for name in data.column_names if name not in schema.names]
        if missing or unknown:
            raise SchemaError(
                f"{self.path.name}: columns missing {missing}, unknown {unknown}; expected {schema.names}"
            )
        try:
            return data.select(schema.names).cast(schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise SchemaError(f"{self.path.name}: {error}; expected\n{schema}") from error

    def _create(self, schema: pa.Schema) -> DeltaTable:
        delta = self._log.newest()
        if delta is None:
            self.path.mkdir(parents=True, exist_ok=True)
            with hold(self._locks / f"{self.path.name}.create.lock", f"creating {self.path.name}", timeout=_PATIENCE):
                DeltaTable.create(self.path, _delta_schema(schema), mode="ignore", partition_by=list(self.partition_by))
            delta = self._log.newest()
            if delta is None:
                raise StorageError(f"{self.path} was created and is gone again")
        self._check(delta, schema)
        return delta

    def _evolve(self, delta: DeltaTable, schema: pa.Schema) -> None:
        """Add columns that are new in the config; existing rows read as null."""
        stored = set(pa.schema(delta.schema().to_arrow()).names)
        if new := [field for field in schema if field.name not in stored]:
            delta.alter.add_columns(list(_delta_schema(pa.schema(new)).fields))

    def _write(self, data: pa.Table | pa.RecordBatchReader, **how: Any) -> None:
        delta = self._create(self.schema)
        self._evolve(delta, self.schema)
        commits = CommitProperties(max_commit_retries=_RETRIES)
        write_deltalake(
            delta, data, schema_mode="merge", partition_by=list(self.partition_by), commit_properties=commits, **how
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn Arrow's file errors into Tokenlake errors."""
        try:
            yield
        except (OSError, pa.ArrowInvalid) as error:
            raise CorruptionError(
                f"{self.path.name}: a file of the table is missing or damaged ({error}); restore it from a copy"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn Delta's errors into Tokenlake errors."""
        try:
            yield
        except CommitFailedError as error:
            raise ConflictError(f"{self.path.name}: a concurrent commit won ({error}); run it again") from error
        except SchemaMismatchError as error:
            raise SchemaError(f"{self.path.name}: {error}") from error
        except (DeltaError, OSError) as error:
            raise StorageError(
                f"{self.path} could not be written ({error}); nothing of it was changed. Check the disk's space and rights"
            ) from error


def _equal(names: Sequence[str], values: Sequence[Any]) -> pc.Expression:
    return functools.reduce(operator.and_, (pc.field(n) == v for n, v in zip(names, values, strict=True)))


def _fill(data: pa.Table, values: dict[str, Any], schema: pa.Schema) -> pa.Table:
    for name, value in values.items():
        if name not in data.column_names:
            data = data.append_column(name, pa.repeat(pa.scalar(value, schema.field(name).type), data.num_rows))
    return data


def _delta_schema(schema: pa.Schema) -> Any:
    from deltalake import Schema

    return Schema.from_arrow(schema)
