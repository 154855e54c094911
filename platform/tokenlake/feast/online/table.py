"""`OnlineTable`: the newest values of one feature view, in a folder, for many readers and writers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa

from tokenlake.errors import CorruptionError, storage_error
from tokenlake.feast.online.files import (
    MANIFEST,
    MappedRun,
    OnlineRows,
    RunFile,
    TableManifest,
    concat,
    hashes,
    load,
    write_run,
)
from tokenlake.feast.online.wire import Pieces
from tokenlake.storage import disk, locks
from tokenlake.storage.manifest import ManifestWatch, open_files

#: A write merges the newest runs while each is at most this many times as large as the rows merged so far.
GROWTH = 2
#: Seconds that a writer waits for another one.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class KeyValues:
    """The values of one key in a table.

    Attributes:
        event: newest event time, microseconds UTC.
        values: feature -> wire bytes of its newest `Value`; a feature never written is absent.
    """

    event: int
    values: dict[str, Pieces]


@dataclass(frozen=True)
class _OpenTable:
    """The opened runs and their manifest; replaced as one object, so that threads see a consistent state."""

    watch: ManifestWatch | None
    runs: tuple[MappedRun, ...]


class OnlineTable:
    """The newest values of one feature view.

    For each key and feature the value with the newest event time is kept; ties are broken by the newest created time,
    then by the last write. Every read sees all rows that were published before it.

    Attributes:
        folder: the table's folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = _OpenTable(None, ())
        self._rows: tuple[_OpenTable, OnlineRows] | None = None
        self._lock = Lock()

    def read(self, keys: Sequence[bytes], features: Sequence[str]) -> list[KeyValues | None]:
        """The values of some features for each key; None for a key never written.

        Raises:
            CorruptionError: a checksum does not match.
        """
        runs = self._newest().runs
        if not runs or not keys:
            return [None] * len(keys)
        wanted = list(keys)
        hashed = hashes(pa.array(wanted, pa.large_binary()))
        places = [run.find(hashed, wanted) for run in runs]
        return [_newest_values(runs, [own[i] for own in places], features) for i in range(len(wanted))]

    def rows(self) -> OnlineRows | None:
        """The newest rows of every key, verified, cached until the table changes; None for an empty table."""
        state = self._newest()
        if not state.runs:
            return None
        if self._rows is None or self._rows[0] is not state:
            self._rows = (state, reduce(concat([run.rows() for run in state.runs])))
        return self._rows[1]

    def write(self, rows: OnlineRows) -> None:
        """Add rows, durably and atomically; rows older than the stored values have no effect.

        Raises:
            LockedError: other processes kept the table locked for too long.
            StorageError: the disk is full or not writable.
        """
        if not len(rows):
            return
        with self._writing("write"):
            manifest = load(self.folder) or TableManifest()
            self._sweep(manifest)
            kept, small = _runs_to_merge(manifest.runs, rows.weight)
            parts = [MappedRun(self._path(run), run).rows() for run in small]
            merged = reduce(concat([*parts, rows]))
            name = f"{manifest.generation + 1:08d}.arrow"
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            run = write_run(self.folder / "runs" / name, merged)
            disk.sync_folder(self.folder / "runs")
            after = TableManifest(manifest.generation + 1, (*kept, run))
            after.publish(self.folder)
            if not manifest.generation:
                disk.sync_folder(self.folder.parent)
            self._sweep(after)

    def drop(self) -> None:
        """Remove the table; a running reader keeps its open files."""
        if not self.folder.exists():
            return
        with self._writing("drop"):
            disk.unlink([self.folder / "manifest"])
            disk.remove(self.folder)

    def verify(self) -> TableManifest:
        """Verify every byte on disk.

        Raises:
            CorruptionError: a checksum does not match; the message names the file.
        """
        manifest = load(self.folder) or TableManifest()
        for run in manifest.runs:
            try:
                MappedRun(self._path(run), run).check()
            except FileNotFoundError as error:
                raise _missing(error) from None
        return manifest

    def _newest(self) -> _OpenTable:
        state = self._state
        if state.watch is None or not state.watch.is_current:
            with self._lock:
                state = self._state = self._open(self._state)
        return state

    def _open(self, known: _OpenTable) -> _OpenTable:
        opened = {run.file.name: run for run in known.runs}
        try:
            watch = ManifestWatch(
                self.folder / MANIFEST
            )  # opened before the manifest is read, so that a newer one will be noticed
        except (FileNotFoundError, NotADirectoryError):
            return _OpenTable(None, ())
        try:
            runs = open_files(
                lambda: load(self.folder) or TableManifest(),
                lambda manifest: tuple(self._reuse(opened, run) for run in manifest.runs),
            )
        except FileNotFoundError as error:
            raise _missing(error) from None
        return _OpenTable(watch, runs)

    def _reuse(self, opened: dict[str, MappedRun], file: RunFile) -> MappedRun:
        known = opened.get(file.name)
        # A table that was dropped and created again reuses file names.
        return known if known is not None and known.file == file else MappedRun(self._path(file), file)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        lock = self.folder.parent / ".locks" / f"{self.folder.name}.lock"
        with locks.hold(lock, f"{what} {self.folder.name}", timeout=PATIENCE_S):
            try:
                yield
            except FileNotFoundError as error:
                raise _missing(error) from error
            except OSError as error:
                raise storage_error(error) from error

    def _sweep(self, manifest: TableManifest) -> None:
        """Remove files that the manifest does not name: replaced ones, and those of a killed writer."""
        used = {run.name for run in manifest.runs}
        if (folder := self.folder / "runs").is_dir():
            disk.unlink(path for path in folder.iterdir() if path.name not in used)

    def _path(self, run: RunFile) -> Path:
        return self.folder / "runs" / run.name


def _missing(error: FileNotFoundError) -> CorruptionError:
    return CorruptionError(f"{error.filename}: this file is missing; materialize the view again")


def _runs_to_merge(runs: tuple[RunFile, ...], weight: int) -> tuple[tuple[RunFile, ...], tuple[RunFile, ...]]:
    """The runs that are kept, and the newest ones that a write merges."""
    at = len(runs)
    while at and runs[at - 1].weight <= GROWTH * weight:
        at -= 1
        weight += runs[at].weight
    return runs[:at], runs[at:]


def reduce(rows: OnlineRows) -> OnlineRows:
    """Only the rows that hold the newest value of a feature, in the given order."""
    if rows.distinct:
        return rows
    group = rows.keys.dictionary_encode().indices.to_numpy()
    # Inverted rather than negated, since the smallest integer has no negative.
    order = np.lexsort((-np.arange(len(rows)), ~rows.created, ~rows.event, group))
    group = group[order]
    keep = np.zeros(len(rows), np.bool_)
    for column in rows.values.values():
        said = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)[order])
        newest = np.unique(group[said], return_index=True)[1]
        keep[order[said[newest]]] = True
    return rows.take(np.flatnonzero(keep))


def _newest_values(runs: tuple[MappedRun, ...], places: list[list[int]], features: Sequence[str]) -> KeyValues | None:
    rows = [(int(run.event[row]), int(run.created[row]), i, row) for i, run in enumerate(runs) for row in places[i]]
    if not rows:
        return None
    if len(rows) > 1:
        rows.sort(reverse=True)
    values: dict[str, Pieces] = {}
    for feature in features:
        for _, _, i, row in rows:
            if (value := runs[i].value(feature, row)) is not None:
                values[feature] = (value,)
                break
    return KeyValues(rows[0][0], values)
