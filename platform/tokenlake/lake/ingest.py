r"""Ingest: write the rows of a source into the `events` table, atomically; ingesting the same rows again adds nothing.

    sources --validate--> good rows --hash, spill by day--> verdicts --one commit--> events
                     \--> bad rows -----------------------------------one commit--> quarantine

Nothing is visible before the commits, and a call that was killed between them is completed by running it again.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.config import Config
from tokenlake.errors import SchemaError, SourceError, StorageError
from tokenlake.lake.identity import Deduplicator, Verdict, content_hash, derived_ids
from tokenlake.lake.profile import Profile, profile
from tokenlake.lake.rejects import Rejects, as_json
from tokenlake.lake.schema import TIMESTAMP, IdTypes, events_schema
from tokenlake.lake.sources import event_files, listed
from tokenlake.lake.staging import Spill, StagedFiles, accepted, as_date
from tokenlake.lake.tables import Table
from tokenlake.lake.validate import Columns, Validator, days_of
from tokenlake.progress import Progress
from tokenlake.reading.chunks import Chunk, File
from tokenlake.reading.handles import steady
from tokenlake.reading.source import open_source
from tokenlake.reading.text import Dialect
from tokenlake.storage.locks import hold
from tokenlake.times import Day, day_of

#: Called with the step's name, the rows that are done, and the rows in total (an estimate for text files).

#: How long a call waits for another ingest of the same lake.
PATIENCE_S = 60.0
_CONFLICT = "event id stands for another event already"


class _Catalog(Protocol):
    def is_published(self, day: dt.date) -> bool: ...
    def mark_rerun(self, days: Iterable[dt.date], reason: str) -> None: ...


class HasEvents(Protocol):
    """What ingest needs of a lake."""

    data: Path
    config: Config

    @property
    def events(self) -> Table: ...  # noqa: D102
    @property
    def quarantine(self) -> Table: ...  # noqa: D102
    @property
    def catalog(self) -> _Catalog: ...  # noqa: D102


@dataclass(frozen=True)
class IngestReport:
    """What one ingest did, or in a dry run would do.

    Attributes:
        accepted: new events.
        duplicates: rows that the lake, or an earlier row of the same source, holds already.
        quarantined: rows that were rejected.
        days: sorted days that got new events.
        reruns: those of `days` that were published before, and are marked to be run again.
        reasons: reason -> number of quarantined rows.
        samples: a few quarantined rows as JSON, each after its reason.
        notes: what was inferred: types of ids, units of times, widths of vectors, and what some files lack.
    """

    accepted: int
    duplicates: int
    quarantined: int
    days: tuple[Day, ...]
    reruns: tuple[Day, ...] = field(default=(), compare=False, repr=False)
    reasons: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    samples: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)


def ingest(
    lake: HasEvents,
    source: Any,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    quotes: bool | None = None,
    encoding: str | None = None,
) -> IngestReport:
    """Ingest events into a lake.

    Args:
        lake: the lake to write to.
        source: a path to Parquet, CSV, TSV (also .gz) or Delta, a folder, a glob, an Arrow table or stream, a frame of
            pandas or Polars, or a list of these.
        dry_run: report what would happen, and change nothing.
        progress: called as rows are read and written.
        quotes: whether values of text files may be in double quotes; None: yes for `.csv`, no for `.tsv`.
        encoding: Python's name of the encoding of text files; None: UTF-8, or what the byte order mark says.

    Returns:
        The counts; accepted + duplicates + quarantined is the number of rows of the source.

    Raises:
        SourceError: a source that cannot be read; nothing was changed.
        SchemaError: a missing column, a column of a wrong type, or ids of another type than the
            lake's; nothing was changed.
        LockedError: another ingest is running.
        StorageError: the disk is full or not writable; no event was added.
        ConflictError: another writer committed at the same time; no event was added.
        ChangedError: a file kept changing while it was read; nothing was changed.
    """
    dialect = Dialect(quotes, encoding)
    try:
        with _scratch(lake, dry_run=dry_run) as scratch:
            with _unchanged():
                given = listed(source, scratch)

            def once() -> IngestReport:
                with _unchanged():
                    files, notes = event_files(given, lake.config, dialect)
                attempt = Path(tempfile.mkdtemp(dir=scratch))
                report = _IngestCall(lake, files, attempt, dry_run=dry_run, progress=progress).run()
                return replace(report, notes=(*report.notes, *notes))

            return steady(once)
    except OSError as error:
        raise StorageError(
            f"{lake.data}: the ingest could not be written ({error}); no event was added. Check the disk's space and rights"
        ) from error


def canonical(lake: HasEvents, events: pa.Table) -> pa.Table:
    """Convert rows of a source, or of the lake, to rows of `events`, in the same order; nothing is written.

    Args:
        lake: the lake whose config names the columns.
        events: the source's columns, of which those of labels may be left out; or the lake's own columns.

    Raises:
        SchemaError: a row that ingest would quarantine; the message gives the first one's number and reasons.
    """
    config, schema = lake.config, lake.events.schema
    if set(schema.names) <= set(events.column_names):
        return events.select(schema.names).cast(schema)
    labels = set(Columns.of(config).needed) <= set(events.column_names)
    columns = Columns.of(config, labels=labels)
    files, _ = event_files([open_source(events)], config, Dialect(), labels=labels)
    settled = profile(config, lake.events, files, columns)
    schema = events_schema(config, settled.ids)
    validator = Validator(config, settled.ids, settled.clocks[0], settled.dims, labels=labels)
    batches = [schema.empty_table()]
    for chunk in files[0].chunks(columns.needed):
        values, problems = validator.check(chunk.rows)
        if problems.bad.any():
            number = int(chunk.numbers[problems.bad][0])
            raise SchemaError(f"row {number} is no event: {problems.reasons()[0]}")
        days = _identify(config, values)[1]
        values["ds"] = pa.array(days).cast(pa.date32())
        values["ingested_at"] = pa.nulls(len(days), TIMESTAMP)
        batches.append(pa.table({name: values[name] for name in schema.names}, schema=schema))
    return pa.concat_tables(batches).combine_chunks()


class _IngestCall:
    """One call of `ingest`."""

    def __init__(
        self, lake: HasEvents, sources: list[File], scratch: Path, *, dry_run: bool, progress: Progress | None
    ) -> None:
        self._lake, self._config = lake, lake.config
        self._sources = sources
        self._scratch = scratch
        self._dry_run = dry_run
        self._tell: Progress = progress or (lambda _what, _done, _total: None)
        self._columns = Columns.of(lake.config)
        self._ledger = Deduplicator(lake.config)
        self._rejects = Rejects(lake.quarantine, None if dry_run else scratch / "rejects.parquet")
        #: For every batch of valid rows: its source, the rows' numbers in it, and their days.
        self._origin: list[tuple[int, NDArray[np.int64], NDArray[np.int32]]] = []
        self._spill: Spill | None = None

    def run(self) -> IngestReport:
        with contextlib.closing(self._rejects):
            with _unchanged():
                settled = profile(self._config, self._lake.events, self._sources, self._columns)
                if not self._dry_run:
                    self._spill = Spill(self._scratch, _spilled(events_schema(self._config, settled.ids)))
                self._read(settled)
                verdicts = self._ledger.verdicts(self._lake.events)
                self._reject_conflicts(verdicts)
                for source in self._sources:
                    source.check()
            days = self._days(verdicts)
            # A lake without events has published nothing, and a dry run must not create its catalog.
            reruns = tuple(day for day in days if self._lake.events.exists and self._lake.catalog.is_published(day))
            if self._spill is not None:
                self._commit(self._spill, settled.ids, verdicts, days, reruns)
        return IngestReport(
            accepted=int((verdicts == Verdict.ACCEPT).sum()),
            duplicates=int((verdicts == Verdict.DUPLICATE).sum()),
            quarantined=self._rejects.rows,
            days=days,
            reruns=reruns,
            reasons=dict(self._rejects.reasons.most_common()),
            samples=tuple(self._rejects.samples),
            notes=settled.notes,
        )

    def _read(self, settled: Profile) -> None:
        done, total = 0, sum(source.rows for source in self._sources)
        for number, source in enumerate(self._sources):
            validator = Validator(self._config, settled.ids, settled.clocks[number], settled.dims)
            for chunk in source.chunks(self._columns.needed):
                self._take(number, validator, chunk)
                done += len(chunk.numbers) + len(chunk.broken)
                self._tell("reading", done, max(done, total))

    def _take(self, number: int, validator: Validator, chunk: Chunk) -> None:
        name = self._sources[number].name
        for line in chunk.broken:
            self._rejects.add(name, _line(line.text), [line.number], [line.reason])
        if not len(chunk.numbers):
            return
        columns, problems = validator.check(chunk.rows)
        numbers, bad = chunk.numbers, problems.bad
        if bad.any():
            rows = as_json(chunk.rows.filter(pa.array(bad)))
            self._rejects.add(name, rows, numbers[bad].tolist(), problems.reasons())
            keep = pa.array(~bad)
            columns, numbers = {key: value.filter(keep) for key, value in columns.items()}, numbers[~bad]
        content, days = _identify(self._config, columns)
        self._ledger.add(columns["event_id"], content, days)
        self._origin.append((number, numbers, days))
        if self._spill is not None:
            self._spill.add(columns, days)

    def _reject_conflicts(self, verdicts: NDArray[np.uint8]) -> None:
        """Read the rows of conflicting ids once more, since only the source has their original values."""
        if not (verdicts == Verdict.CONFLICT).any():
            return
        wanted: dict[int, list[NDArray[np.int64]]] = {}
        start = 0
        for source, numbers, _ in self._origin:
            hit = numbers[verdicts[start : start + len(numbers)] == Verdict.CONFLICT]
            if len(hit):
                wanted.setdefault(source, []).append(hit)
            start += len(numbers)
        for source, parts in wanted.items():
            conflicts = np.concatenate(parts)
            for chunk in self._sources[source].chunks(self._columns.needed):
                hit = np.isin(chunk.numbers, conflicts)
                if hit.any():
                    rows = as_json(chunk.rows.filter(pa.array(hit)))
                    self._rejects.add(
                        self._sources[source].name, rows, chunk.numbers[hit].tolist(), [_CONFLICT] * len(rows)
                    )

    def _days(self, verdicts: NDArray[np.uint8]) -> tuple[Day, ...]:
        found: set[int] = set()
        start = 0
        for _, numbers, days in self._origin:
            found.update(np.unique(days[verdicts[start : start + len(numbers)] == Verdict.ACCEPT]).tolist())
            start += len(numbers)
        return tuple(as_date(day) for day in sorted(found))

    def _commit(
        self,
        spill: Spill,
        ids: IdTypes,
        verdicts: NDArray[np.uint8],
        days: tuple[Day, ...],
        reruns: tuple[Day, ...],
    ) -> None:
        """Write all files first, since a full disk fails here; then make them visible."""
        at = _instant(self._lake.events.newest("ingested_at"))
        keep = verdicts == Verdict.ACCEPT
        schema = events_schema(self._config, ids)
        events = StagedFiles(self._lake.events.path, schema, self._scratch)
        quarantine = StagedFiles(self._lake.quarantine.path, self._lake.quarantine.schema, self._scratch)
        for done, day in enumerate(spill.days(), 1):
            events.write(as_date(day), accepted(spill, day, keep, at))
            self._tell("writing", done, len(spill.days()))
        quarantine.write(day_of(at.cast(pa.int64()).as_py()), self._rejects.groups(at))
        # Days are marked before the commit: a call that is killed in between sees only duplicates when it is run again.
        # They are marked after it too: a day may have been published meanwhile, or run again without these events.
        self._mark(reruns)
        quarantine.commit(self._lake.quarantine)
        events.commit(self._lake.events)
        self._mark(tuple(day for day in days if self._lake.catalog.is_published(day)))

    def _mark(self, days: tuple[Day, ...]) -> None:
        if days:
            self._lake.catalog.mark_rerun(days, "late events were ingested")


def _identify(config: Config, columns: dict[str, pa.Array]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Content hash and day of each row; the id, where none is declared, goes into the columns."""
    content = content_hash(config, columns)
    if config.events.id is None:
        columns["event_id"] = derived_ids(content)
    return content, days_of(columns["timestamp"])


def _line(text: str) -> list[str]:
    """The text of a line that could not be split into values, as a JSON object."""
    return as_json(pa.RecordBatch.from_pydict({"line": [text]}))


def _spilled(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in {"ds", "ingested_at"}])


def _instant(newest: int) -> pa.Scalar:
    """The present time in whole milliseconds, as the log keeps times; always later than `newest`."""
    now = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
    return pa.scalar(max(now, newest // 1000 + 1) * 1000, pa.int64()).cast(TIMESTAMP)


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    """Add "Nothing was changed" to errors that are raised before the commit."""
    try:
        yield
    except (SourceError, SchemaError) as error:
        raise type(error)(f"{error}. Nothing was changed") from error


@contextlib.contextmanager
def _scratch(lake: HasEvents, *, dry_run: bool) -> Iterator[Path]:
    """A temporary folder on the lake's own disk, under the lake's lock; for a dry run, anywhere and without the lock."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="tokenlake-") as folder:
            yield Path(folder)
        return
    path = lake.data / "ingest.tmp"
    with hold(lake.data / "locks" / "ingest.lock", "ingest", timeout=PATIENCE_S):
        shutil.rmtree(path, ignore_errors=True)  # what a killed ingest left behind
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
