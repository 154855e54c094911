"""Rejected rows: counted, and kept in `quarantine` with their reasons, each row once."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenlake.lake.identity import hash_text
from tokenlake.lake.schema import quarantine_schema
from tokenlake.lake.tables import Table
from tokenlake.reading.kinds import is_list

_SAMPLES = 5


class Rejects:
    """Collects the rejected rows of one call.

    Args:
        table: the lake's quarantine; rows that it holds already are counted, but not stored again.
        path: a file that holds the rows until the commit; None stores nothing.
    """

    def __init__(self, table: Table, path: Path | None) -> None:
        self._table = table
        self._path = path
        self._schema = pa.schema([f for f in quarantine_schema() if f.name not in {"ingested_at", "ds"}])
        self._writer: pq.ParquetWriter | None = None
        self._stored: dict[str, NDArray[np.uint64]] = {}
        self.rows = 0
        self.reasons: Counter[str] = Counter()
        self.samples: list[tuple[str, str]] = []

    def add(self, source: str, rows: list[str], numbers: list[int], reasons: list[str]) -> None:
        """Add rejected rows of one source: the rows as JSON, their numbers from 1, and the reasons."""
        if not rows:
            return
        self.rows += len(rows)
        self.reasons.update(reasons)
        self.samples += list(zip(reasons, rows, strict=True))[: _SAMPLES - len(self.samples)]
        if self._path is None:
            return
        columns = [[source] * len(rows), rows, numbers, reasons]
        batch = pa.table(dict(zip(self._schema.names, columns, strict=True)), schema=self._schema)
        new = batch.filter(pa.array(~np.isin(_keys(batch), self._known(source))))
        if new.num_rows:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, self._schema, compression="lz4")
            self._writer.write_table(new)

    def groups(self, ingested_at: pa.Scalar) -> Iterator[pa.Table]:
        """The rows that the table does not hold yet."""
        if self._writer is None or self._path is None:
            return
        self._writer.close()
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches():
                rows = pa.Table.from_batches([batch])
                yield rows.append_column("ingested_at", pa.repeat(ingested_at, rows.num_rows))

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _known(self, source: str) -> NDArray[np.uint64]:
        if source not in self._stored:
            batches = self._table.batches(columns=self._schema.names, filter=pc.field("source") == source)
            self._stored[source] = np.concatenate([np.zeros(0, np.uint64), *(_keys(b) for b in batches)])
        return self._stored[source]


def as_json(rows: pa.RecordBatch) -> list[str]:
    """Rows as JSON objects; values of types that JSON lacks become strings."""
    columns = [_values(column) for column in rows.columns]
    named = (dict(zip(rows.schema.names, row, strict=True)) for row in zip(*columns, strict=True))
    return [json.dumps(_plain(row), default=str, ensure_ascii=False) for row in named]


def _values(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    """A Python value; a time beyond Python's range becomes a string of the raw number, like `9223372036854775807 us`."""
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        if is_list(scalar.type):
            return [_value(inner) for inner in scalar.values]
        if pa.types.is_struct(scalar.type):
            return {name: _value(inner) for name, inner in scalar.items()}
        unit = "days" if pa.types.is_date32(scalar.type) else getattr(scalar.type, "unit", "ms")
        return f"{scalar.value} {unit}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _keys(rows: pa.Table | pa.RecordBatch) -> NDArray[np.uint64]:
    columns = [rows.column(name).to_pylist() for name in ("row_number", "row", "reason")]
    return hash_text(["\x00".join(map(str, row)).encode() for row in zip(*columns, strict=True)])
