"""Audit a whole table, part by part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tokenlake.audit.checks import Leaks, check, lists_of
from tokenlake.audit.columns import ColumnRoles
from tokenlake.audit.written import read_description
from tokenlake.errors import SchemaError
from tokenlake.progress import Progress
from tokenlake.reading.handles import steady
from tokenlake.reading.source import Source, open_source
from tokenlake.reading.times import as_instants, beyond, is_instant
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

    columns: ColumnRoles
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
    source: Any,
    store: TokenStore | None = None,
    *,
    progress: Progress | None = None,
    **columns: Any,
) -> AuditReport:
    """Prove that nothing in a training set was known later, or find the rows that leak.

    Args:
        source: what `tokenlake.reading.source.open_source` takes: a path, a folder or a glob of files, or a table.
        store: compare with what it returns for the same queries; rows in another order or with fewer tokens differ.
        progress: told of the rows that are read.
        columns: what `ColumnRoles.of` takes.

    Raises:
        SourceError: files that cannot be read.
        ChangedError: files that are written all the time.
        SchemaError: columns that are missing, or are not what they are said to be.
    """

    def once() -> AuditReport:
        opened = open_source(source, name="the table")
        report = _audited(opened, _told(opened, columns), store, progress)
        opened.check()
        return report

    return steady(once)


def _told(opened: Source, columns: dict[str, Any]) -> ColumnRoles:
    """What the columns mean; files that tell different things of themselves are not one training set."""
    first = opened.files[0]
    for file in opened.files[1:]:
        if read_description(file.schema) != read_description(first.schema):
            raise SchemaError(
                f"{first.name} and {file.name} were made in different ways, by what they tell; audit each alone"
            )
    return ColumnRoles.of(opened.schema, **columns)


def _audited(opened: Source, told: ColumnRoles, store: TokenStore | None, progress: Progress | None) -> AuditReport:
    if store is not None and told.user is None:
        raise SchemaError(
            f"no column of user ids to ask the store with; name it by --user. There are {opened.schema.names}"
        )
    report, total = AuditReport(told), sum(file.rows for file in opened.files)
    for batch in opened.batches(rows=PART):
        part = pa.Table.from_batches([batch])
        for found in check(part, told, store):
            if len(found.rows):
                report.parts.append(_lines(part, told, found, report.rows))
        report.tokens += sum(len(lists_of(part, name).values) for name in told.timestamps)
        report.rows += part.num_rows
        if progress:
            progress("rows", report.rows, total)
    return report


def _lines(part: pa.Table, columns: ColumnRoles, found: Leaks, start: int) -> pa.Table:
    index = pa.array(found.rows)
    users = part[columns.user].take(index).cast(pa.string()) if columns.user else pa.nulls(len(index), pa.string())
    times = part[columns.time].take(index)
    times = pa.array(as_instants(times)[0], mask=beyond(times)) if is_instant(times.type) else times
    instants = pa.array(found.at, mask=(found.at < 0) | (found.at == np.iinfo(np.int64).max))
    return pa.table(
        [pa.array(found.rows + start), users, times.cast(pa.int64()), pa.repeat(found.what, len(index)),
         pa.repeat(found.column, len(index)), instants],
        names=_SCHEMA.names,
    ).cast(_SCHEMA)  # fmt: skip
