"""The log of a Delta table: its present files, read again only when the log has changed."""

from __future__ import annotations

import datetime as dt
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from tokenlake.errors import CorruptionError, SchemaError
from tokenlake.times import Day

#: File systems store times in steps of the kernel's tick, at most 10 ms.
_COARSE_NS = 50_000_000


def open_delta(path: Path) -> DeltaTable:
    """Open a table at its newest version.

    Raises:
        TableNotFoundError: there is no table, or its first commit is not finished.
        CorruptionError: its log cannot be parsed.
    """
    try:
        return DeltaTable(path)
    except TableNotFoundError:
        raise
    except DeltaError as error:
        reason = str(error).partition("\n")[0]  # what follows is a trace of another language
        raise CorruptionError(f"{path / '_delta_log'} cannot be read ({reason}); restore it from a copy") from error


class DeltaLog:
    """The newest state of one table's log, for any number of threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._delta: DeltaTable | None = None
        self._seen: tuple[int, int] | None = None
        self._inode: int | None = None
        self._listed: tuple[int, pa.Table] | None = None
        self._guard = threading.Lock()

    def newest(self) -> DeltaTable | None:
        """The table at its newest version, None before its first commit; opened once, then brought up to date."""
        with self._guard:
            try:
                folder = (self._path / "_delta_log").stat()
            except OSError:
                self._delta = self._seen = None
                return None
            # A commit changes the folder's time. A time within one tick of now is not reliable yet.
            seen = folder.st_ino, folder.st_mtime_ns
            settled = time.time_ns() - folder.st_mtime_ns > _COARSE_NS
            if self._delta is not None and self._seen == seen:
                return self._delta
            try:
                if self._delta is None or self._inode != folder.st_ino:
                    self._delta, self._inode, self._listed = open_delta(self._path), folder.st_ino, None
                else:
                    self._delta.update_incremental()
            except TableNotFoundError:  # the log's folder is made before its first commit
                self._delta = None
            self._seen = seen if settled else None
            return self._delta

    def files(
        self, *, day: Day | None = None, between: tuple[Day, Day] | None = None, version: str | None = None
    ) -> Files:
        """Files of some partitions; of all where none is named."""
        if day is not None and between is not None:
            raise SchemaError("`day` and `between` were both given; give one")
        first, last = between or (day, day)
        delta = self.newest()
        if delta is None:
            return Files(self._path, None)
        with self._guard:
            if self._listed is None or self._listed[0] != delta.version():
                actions = delta.get_add_actions(flatten=True)
                # `pa.table` would import pandas, to ask whether this is a frame of it.
                self._listed = delta.version(), pa.RecordBatchReader.from_stream(actions).read_all()
            listed = self._listed[1]
        if first is not None and last is not None:
            ds = listed["partition.ds"]
            listed = listed.filter(pc.and_(pc.greater_equal(ds, _date(first)), pc.less_equal(ds, _date(last))))
        if version is not None:
            listed = listed.filter(pc.equal(listed["partition.version"], version))
        return Files(self._path, listed)


class Files:
    """Some files of a table, with their entries in its log."""

    def __init__(self, folder: Path, listed: pa.Table | None) -> None:
        self._folder = folder
        self._listed = listed

    def of(self, column: str) -> list[Any]:
        """One value per file of the log's column path, num_records, partition.*, min.* or max.*; None where it is missing."""
        if self._listed is None:
            return []
        known = column in self._listed.column_names
        values: list[Any] = self._listed[column].to_pylist() if known else [None] * self._listed.num_rows
        return values

    def paths(self) -> list[str]:
        """Full paths of the files."""
        return [str(self._folder / unquote(path)) for path in self.of("path")]


def _date(day: Day) -> pa.Scalar:
    if isinstance(day, dt.datetime) or not isinstance(day, dt.date):
        raise SchemaError(f"a day must be a datetime.date, got {day!r}; tokenlake.times.as_day makes one")
    return pa.scalar(day, pa.date32())
