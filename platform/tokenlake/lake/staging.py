"""Files of one ingest before its commit: rows by day on disk, then Parquet files that one commit makes visible."""

from __future__ import annotations

import datetime as dt
import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction
from numpy.typing import NDArray

from tokenlake.lake.tables import Table
from tokenlake.reading.arrays import flat
from tokenlake.reading.kinds import is_list
from tokenlake.storage import disk
from tokenlake.times import DAY_US, Day, day_of

#: Bytes of rows held before they are sorted by day and written.
_RUN_BYTES = 96 << 20
_GROUP_ROWS = 131_072
_POSITION = "position"
#: Longer text is truncated where it is a bound in the log; an upper bound then ends with the last Unicode character.
_BOUND_CHARS = 64
_LAST_CHAR = chr(0x10FFFF)


class Spill:
    """Rows on disk, added in any order of days and read back day by day: memory holds one run, not the whole input.

    Each run is an Arrow file with a batch per day. The last column holds the position at which a row was added; it is
    addressed by its place, since the other columns may have any name.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema.append(pa.field(_POSITION, pa.int64()))
        self._held: list[pa.RecordBatch] = []
        self._days: list[NDArray[np.int32]] = []
        self._bytes = 0
        self._position = 0
        self._runs: list[pa.ipc.RecordBatchFileReader] = []
        self._index: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def add(self, columns: dict[str, pa.Array], days: NDArray[np.int32]) -> None:
        """Add rows; `days` are days since 1970."""
        if not len(days):
            return
        position = np.arange(self._position, self._position + len(days))
        arrays = [columns[name] for name in self._schema.names[:-1]]
        batch = pa.record_batch([*arrays, pa.array(position)], schema=self._schema)
        self._position += len(days)
        self._held.append(batch)
        self._days.append(days)
        self._bytes += batch.nbytes
        if self._bytes >= _RUN_BYTES:
            self._flush()

    def days(self) -> list[int]:
        """Sorted days since 1970."""
        self._flush()
        return sorted(self._index)

    def batches(self, day: int) -> Iterator[pa.RecordBatch]:
        """A day's rows, in the order in which they were added."""
        for run, number in self._index[day]:
            yield self._runs[run].get_batch(number)

    def _flush(self) -> None:
        if not self._held:
            return
        rows, days = pa.Table.from_batches(self._held).combine_chunks(), np.concatenate(self._days)
        self._held, self._days, self._bytes = [], [], 0
        if (days[1:] < days[:-1]).any():
            order = np.argsort(days, kind="stable")
            rows, days = rows.take(pa.array(order)), days[order]
        found, starts = np.unique(days, return_index=True)
        path = self._folder / f"run-{len(self._runs)}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self._schema) as writer:
            number = 0
            for day, start, end in zip(found.tolist(), starts, [*starts[1:], len(days)], strict=True):
                for batch in rows.slice(start, end - start).to_batches():
                    writer.write_batch(batch)
                    self._index[day].append((len(self._runs), number))
                    number += 1
        # Read, not mapped: mapped pages would count as this process's memory.
        self._runs.append(pa.ipc.open_file(pa.OSFile(str(path))))


class StagedFiles:
    """Parquet files for one table: written in a temporary folder, moved into the table, and made visible by one commit.

    Args:
        path: the table's folder.
        schema: the table's columns after the commit.
        folder: the temporary folder, on the same disk.
    """

    def __init__(self, path: Path, schema: pa.Schema, folder: Path) -> None:
        self._path = path
        self._folder = folder / path.name
        self._full = schema
        self._schema = schema.remove(schema.get_field_index("ds"))
        self._files: list[tuple[Path, AddAction]] = []

    def write(self, day: Day, groups: Iterator[pa.Table]) -> None:
        """Write one day's file from row groups with the table's columns except `ds`; without row groups there is no file."""
        name = f"part-00000-{uuid.uuid4()}-c000.zstd.parquet"
        path = self._folder / name
        writer, stats = None, _Stats()
        try:
            for group in groups:
                if writer is None:
                    self._folder.mkdir(exist_ok=True)
                    writer = pq.ParquetWriter(path, self._schema, compression="zstd", compression_level=1)
                group = group.cast(self._schema)
                stats.add(group)
                writer.write_table(group, row_group_size=_GROUP_ROWS)
        finally:
            if writer is not None:
                writer.close()
        if writer is not None:
            action = AddAction(
                path=f"ds={day.isoformat()}/{name}",
                size=path.stat().st_size,
                partition_values={"ds": day.isoformat()},
                modification_time=int(time.time() * 1000),
                data_change=True,
                stats=stats.json(self._schema),
            )
            self._files.append((path, action))

    def commit(self, table: Table) -> None:
        """Make all files visible in one commit; until then the Delta log does not name them, so no reader sees them."""
        if not self._files:
            return
        moved: list[Path] = []
        try:
            for path, action in self._files:
                target = self._path / action.path
                target.parent.mkdir(parents=True, exist_ok=True)
                disk.rename(path, target)
                moved.append(target)
            table.commit_files([action for _, action in self._files], self._full)
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            raise


class _Stats:
    """Statistics of a file for the Delta log: rows, and for every ordered column its bounds and number of nulls."""

    def __init__(self) -> None:
        self._rows = 0
        self._bounds: dict[str, tuple[Any, Any]] = {}
        self._nulls: Counter[str] = Counter()

    def add(self, rows: pa.Table) -> None:
        self._rows += rows.num_rows
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            if is_list(column.type):
                continue
            self._nulls[name] += column.null_count
            column = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
            low, high = pc.min_max(column).as_py().values()
            if low is not None and name in self._bounds:
                low, high = min(low, self._bounds[name][0]), max(high, self._bounds[name][1])
            if low is not None:
                self._bounds[name] = (low, high)

    def json(self, schema: pa.Schema) -> str:
        lows, highs = {}, {}
        for name, (low, high) in self._bounds.items():
            if pa.types.is_timestamp(schema.field(name).type):  # the log keeps milliseconds
                low, high = _iso(low // 1000), _iso(-(-high // 1000))
            elif isinstance(low, str):
                low, high = low[:_BOUND_CHARS], high if len(high) <= _BOUND_CHARS else high[:_BOUND_CHARS] + _LAST_CHAR
            lows[name], highs[name] = low, high
        stats = {"numRecords": self._rows, "minValues": lows, "maxValues": highs, "nullCount": dict(self._nulls)}
        return json.dumps(stats)


def accepted(spill: Spill, day: int, keep: NDArray[np.bool_], ingested_at: pa.Scalar) -> Iterator[pa.Table]:
    """A day's kept rows as row groups, each sorted by user, timestamp and id."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in spill.batches(day):
        batch = batch.filter(pa.array(keep[batch.column(batch.num_columns - 1).to_numpy()]))
        if batch.num_rows:
            held.append(batch)
            rows += batch.num_rows
        if rows >= _GROUP_ROWS:
            yield _group(held, ingested_at)
            held, rows = [], 0
    if held:
        yield _group(held, ingested_at)


def as_date(day: int) -> Day:
    """The date of a day since 1970."""
    return day_of(day * DAY_US)


def _group(batches: list[pa.RecordBatch], ingested_at: pa.Scalar) -> pa.Table:
    rows = pa.Table.from_batches(batches)
    rows = rows.remove_column(rows.num_columns - 1).combine_chunks()  # the position
    order = pc.sort_indices(rows, [("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")])
    rows = rows.take(order)
    at = rows.column_names.index("timestamp") + 1
    return rows.add_column(at, "ingested_at", flat(pa.repeat(ingested_at, rows.num_rows)))


def _iso(millis: int) -> str:
    instant = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=millis)
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{millis % 1000:03d}Z"
