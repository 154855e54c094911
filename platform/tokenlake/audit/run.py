"""Audit a whole table, part by part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds

from tokenlake.audit.checks import Leaks, check, lists_of
from tokenlake.audit.columns import Columns
from tokenlake.errors import SchemaError, SourceError
from tokenlake.tokens.store import TokenStore

#: Rows at a time: lists of hundreds of tokens are megabytes by the thousand rows.
PART = 4096
_SCHEMA = pa.schema(
    [("row", pa.int64()), ("user", pa.string()), ("time", pa.timestamp("us", "UTC")), ("what", pa.string()),
     ("column", pa.string()), ("instant", pa.timestamp("us", "UTC"))]
)  # fmt: skip


@dataclass
class AuditReport:
    """What an audit found.

    Attributes:
        columns: what was taken for what.
        rows: how many were read; tokens: how many token times.
        leaks: one line for each row, rule and instant: row, user, time, what, column, instant.
    """

    columns: Columns
    rows: int = 0
    tokens: int = 0
    parts: list[pa.Table] = field(default_factory=list, repr=False)

    @property
    def leaks(self) -> pa.Table:
        """Every line, by row."""
        return pa.concat_tables([_SCHEMA.empty_table(), *self.parts]).sort_by("row")

    @property
    def clean(self) -> bool:
        """Whether nothing was known later."""
        return not self.parts


def audit(
    source: str | os.PathLike[str] | pa.Table,
    store: TokenStore | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    **columns: Any,
) -> AuditReport:
    """Prove that nothing in a training set was known later, or find the rows that leak.

    Args:
        source: an Arrow table, or Parquet: a file or a folder.
        store: compare with what it returns for the same queries; rows in another order or with fewer tokens differ.
        progress: called with the rows read so far.
        columns: what `Columns.of` takes.

    Raises:
        SourceError: files that cannot be read.
        SchemaError: columns that are missing, or are not what they are said to be.
    """
    data = _open(source)
    told = Columns.of(data.schema, **columns)
    if store is not None and told.user is None:
        raise SchemaError(
            f"no column of user ids to ask the store with; name it by --user. There are {data.schema.names}"
        )
    report = AuditReport(told)
    for part in _parts(data):
        for found in check(part, told, store):
            if len(found.rows):
                report.parts.append(_lines(part, told, found, report.rows))
        report.tokens += sum(len(lists_of(part, name).values) for name in told.timestamps)
        report.rows += part.num_rows
        if progress:
            progress(report.rows)
    return report


def _open(source: str | os.PathLike[str] | pa.Table) -> pds.Dataset:
    if isinstance(source, pa.Table):
        return pds.dataset(source)
    path = Path(source)
    try:
        return pds.dataset(str(path), format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"{path}: no Parquet that can be read ({error})") from error


def _parts(data: pds.Dataset) -> Iterator[pa.Table]:
    try:
        for batch in data.to_batches(batch_size=PART, batch_readahead=1, fragment_readahead=1):
            for start in range(0, batch.num_rows, PART):
                yield pa.Table.from_batches([batch.slice(start, PART)])
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"the rows cannot be read ({error})") from error


def _lines(part: pa.Table, columns: Columns, found: Leaks, start: int) -> pa.Table:
    index = pa.array(found.rows)
    users = part[columns.user].take(index).cast(pa.string()) if columns.user else pa.nulls(len(index), pa.string())
    times = part[columns.time].take(index)
    times = times.cast(pa.timestamp("us", times.type.tz), safe=False) if pa.types.is_timestamp(times.type) else times
    instants = pa.array(found.at, mask=(found.at < 0) | (found.at == np.iinfo(np.int64).max))
    return pa.table(
        [pa.array(found.rows + start), users, times.cast(pa.int64()), pa.repeat(found.what, len(index)),
         pa.repeat(found.column, len(index)), instants],
        names=_SCHEMA.names,
    ).cast(_SCHEMA)  # fmt: skip
