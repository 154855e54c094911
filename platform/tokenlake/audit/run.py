"""Audits a whole table, part by part."""

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

#: Rows of one part; a thousand rows with hundreds of tokens each take megabytes.
PART = 4096
_SCHEMA = pa.schema(
    [("row", pa.int64()), ("user", pa.string()), ("time", pa.timestamp("us", "UTC")), ("what", pa.string()),
     ("column", pa.string()), ("instant", pa.timestamp("us", "UTC"))]
)  # fmt: skip


@dataclass
class AuditReport:
    """The result of an audit.

    Attributes:
        columns: the roles of the columns.
        rows: number of rows; tokens: number of token times.
        leaks: one row for each row, rule and instant: row, user, time, what, column, instant.
    """

    columns: ColumnRoles
    rows: int = 0
    tokens: int = 0
    parts: list[pa.Table] = field(default_factory=list, repr=False)

    @property
    def leaks(self) -> pa.Table:
        """All leaks, sorted by row."""
        return pa.concat_tables([_SCHEMA.empty_table(), *self.parts]).sort_by("row")

    @property
    def clean(self) -> bool:
        """Whether there are no leaks."""
        return not self.parts


def audit(
    source: Any,
    store: TokenStore | None = None,
    *,
    progress: Progress | None = None,
    **columns: Any,
) -> AuditReport:
    """Find the rows of a training set with values that became known after the row's time.

    Args:
        source: what `tokenlake.reading.source.open_source` takes: a path, a folder or a glob of files, or a table.
        store: also compare tokens with the store's present result; another order or fewer tokens count as differences.
        progress: called as rows are read.
        columns: arguments of `ColumnRoles.of`.

    Raises:
        SourceError: a file cannot be read.
        ChangedError: a file kept changing while it was read.
        SchemaError: a column is missing, or has a type that does not fit its role.
    """

    def once() -> AuditReport:
        opened = open_source(source, name="the table")
        report = _audited(opened, _roles(opened, columns), store, progress)
        opened.check()
        return report

    return steady(once)


def _roles(opened: Source, columns: dict[str, Any]) -> ColumnRoles:
    """The roles of the columns; all files must have the same description."""
    first = opened.files[0]
    for file in opened.files[1:]:
        if read_description(file.schema) != read_description(first.schema):
            raise SchemaError(
                f"{first.name} and {file.name} have different descriptions in their metadata; audit each alone"
            )
    return ColumnRoles.of(opened.schema, **columns)


def _audited(opened: Source, roles: ColumnRoles, store: TokenStore | None, progress: Progress | None) -> AuditReport:
    if store is not None and roles.user is None:
        raise SchemaError(
            f"no column of user ids to ask the store with; name it by --user. There are {opened.schema.names}"
        )
    report, total = AuditReport(roles), sum(file.rows for file in opened.files)
    for batch in opened.batches(rows=PART):
        part = pa.Table.from_batches([batch])
        for leaks in check(part, roles, store):
            if len(leaks.rows):
                report.parts.append(_lines(part, roles, leaks, report.rows))
        report.tokens += sum(len(lists_of(part, name).values) for name in roles.timestamps)
        report.rows += part.num_rows
        if progress:
            progress("rows", report.rows, total)
    return report


def _lines(part: pa.Table, columns: ColumnRoles, leaks: Leaks, start: int) -> pa.Table:
    index = pa.array(leaks.rows)
    users = part[columns.user].take(index).cast(pa.string()) if columns.user else pa.nulls(len(index), pa.string())
    times = part[columns.time].take(index)
    times = pa.array(as_instants(times)[0], mask=beyond(times)) if is_instant(times.type) else times
    instants = pa.array(leaks.at, mask=(leaks.at < 0) | (leaks.at == np.iinfo(np.int64).max))
    return pa.table(
        [pa.array(leaks.rows + start), users, times.cast(pa.int64()), pa.repeat(leaks.what, len(index)),
         pa.repeat(leaks.column, len(index)), instants],
        names=_SCHEMA.names,
    ).cast(_SCHEMA)  # fmt: skip
