"""`TokenStore`: the last N tokens of a user strictly before a time."""

from __future__ import annotations

import datetime as dt
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from tokenlake import locks
from tokenlake.errors import ConfigError, LockedError, SchemaError, storage_error
from tokenlake.times import DAY_US, Day, DayLike, as_day
from tokenlake.tokens import compaction, files, verify
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.find import ALL, Window
from tokenlake.tokens.ids import Ids
from tokenlake.tokens.inputs import as_instants, check_day, check_length, check_queries, check_rows
from tokenlake.tokens.manifest import Manifest
from tokenlake.tokens.part import write_part
from tokenlake.tokens.schema import Rows, StoreSchema
from tokenlake.tokens.snapshot import Snapshot
from tokenlake.tokens.tail import create_log, seal_predecessor
from tokenlake.tokens.view import StoreStatus, View, open_view

Available = Literal["realtime", "daily"]
#: How long an append waits for another one, or for the instant of a publication.
TAIL_WAIT_S = 10.0
_START_OF_TIME = np.iinfo(np.int64).min


class TokenStore:
    """A timestamp-keyed store of tokens: many readers and one writer, across processes.

    A handle keeps the state of days that it opened until `refresh`, or until it writes; appended rows are seen by the
    next fetch of every handle.

    >>> store = TokenStore.create(folder / "store", dim=2, dtype="float32")
    >>> store.write_day("2017-03-01", [7], ["2017-03-01T09:00"], [[1.0, 2.0]])
    >>> store.fetch([7], before="2017-03-02", length=256).values
    array([[1., 2.]], dtype=float32)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = Ids(path)
        self._view = open_view(path)
        self._sealed = 0

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        dim: int,
        dtype: object = "float16",
        side: Mapping[str, Any] | None = None,
        known_at: Iterable[str] = (),
    ) -> TokenStore:
        """Make an empty store.

        Args:
            path: a folder that does not exist yet, or an empty one.
            dim: width of the tokens.
            dtype: `float32`, `float16` or `int8` (floats are quantized with a scale per row).
            side: name -> dtype of columns beside the tokens.
            known_at: those of them that are labels, known only from an instant of their own.

        Raises:
            SchemaError: a width, dtype or name that cannot be.
            ConfigError: the folder holds something already.
        """
        schema = StoreSchema.of(dim, dtype, side, known_at)
        folder = Path(path)
        with _locked(folder, "create"):
            if cls.exists(folder):
                raise ConfigError(f"{folder} is a token store already; open it, or choose another folder")
            if strange := [p.name for p in folder.iterdir() if p.name not in _OWN_NAMES]:
                raise ConfigError(f"{folder} is not empty ({strange[0]}, ...); choose another folder")
            (folder / "segments").mkdir(exist_ok=True)
            files.unlink((folder / "tail").glob("*.log"))
            create_log(folder, 1)
            Manifest(schema).publish(folder)
            files.sync_folder(folder.parent)
        return cls(folder)

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Whether a folder holds a store, made completely."""
        return (Path(path) / manifests.NAME).exists()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, log: str | os.PathLike[str] | None = None, keep_bytes: bool = False
    ) -> TokenStore:
        """Open a store as it is now.

        Args:
            path: its folder.
            log: a folder on the same disk that logs every fetch, for `tokenlake verify --parity`.
            keep_bytes: log whole answers, not only their checksums.

        Raises:
            NotFoundError: there is none.
            ConfigError: the log's folder lies on another disk.
            CorruptionError: its manifest, or a file's size, is not what was written.
        """
        if log is None:
            return TokenStore(Path(path))
        from tokenlake.tokens.parity import LoggedStore

        return LoggedStore(Path(path), Path(log), keep_bytes=keep_bytes)

    def __repr__(self) -> str:
        manifest = self._view.snapshot.manifest
        return (
            f"TokenStore({str(self.path)!r}, dim={self.schema.dim}, dtype={self.schema.dtype!r}, "
            f"days={len(manifest.days)}, generation={manifest.generation})"
        )

    def __reduce__(self) -> tuple[Callable[[Path], TokenStore], tuple[Path]]:
        return TokenStore.open, (self.path,)  # a worker process opens its own

    @property
    def schema(self) -> StoreSchema:
        """Width, dtype and columns."""
        return self._view.snapshot.manifest.schema

    @property
    def generation(self) -> int:
        """Number of the published state that this handle sees."""
        return self._view.snapshot.manifest.generation

    @property
    def ids(self) -> Literal["int64", "string"] | None:
        """Kind of the user ids; None before the first row."""
        self._ids.refresh()
        return self._ids.kind

    def fetch(
        self,
        users: object,
        *,
        before: object,
        length: int = 256,
        available: Available = "realtime",
        out: TokenBatch | None = None,
    ) -> TokenBatch:
        """The last `length` tokens of each user with timestamp < before, oldest first.

        Args:
            users: user ids, integers or strings; unknown ones have no rows.
            before: instants; broadcast against `users`, and flattened into n queries.
            length: most rows of one query.
            available: `realtime`: every token exists from its event on. `daily`: tokens come with the nightly job, so
                only those of days before the day of `before`.
            out: a batch to fill again; its buffers are used where they suffice, and its old contents are gone.

        Returns:
            The jagged rows of n queries; labels as known at `before`.

        Raises:
            SchemaError: an argument of the wrong shape, type or range.
            CorruptionError: bytes on disk are not what was written.
        """
        if available not in ("realtime", "daily"):
            raise SchemaError(f"available={available!r}; expected 'realtime' or 'daily'")
        ids, times = check_queries(users, before, "before")
        until = times - times % DAY_US if available == "daily" else times
        return self._read(Window(self._ids.find(ids), None, until, check_length(length)), times, out)

    def fetch_at(self, users: object, timestamps: object, *, as_of: object = None) -> TokenBatch:
        """All rows with exactly these keys: those of the day, then those of the tail.

        Args:
            users: user ids; timestamps: instants; they broadcast into n queries.
            as_of: labels are as known at this instant (one, or one for each query); None masks every label.

        Returns:
            The jagged rows of n keys; `missing[i]` says that key i has none.

        Raises:
            SchemaError: an argument of the wrong shape or type.
            CorruptionError: bytes on disk are not what was written.
        """
        ids, times = check_queries(users, timestamps, "timestamps")
        moment = np.full(len(ids), _START_OF_TIME)
        if as_of is not None:
            given = as_instants(as_of, "as_of")
            if given.size not in (1, len(ids)):
                raise SchemaError(
                    f"as_of: shape {given.shape} given; expected one instant, or one for each of {len(ids)}"
                )
            moment = np.ascontiguousarray(np.broadcast_to(given.reshape(-1), len(ids)))
        after = times + (times < np.iinfo(np.int64).max)
        batch = self._read(Window(self._ids.find(ids), times, after, ALL), moment, None)
        batch.missing = np.diff(batch.offsets) == 0
        return batch

    def write_day(
        self,
        ds: DayLike,
        users: object,
        timestamps: object,
        tokens: object,
        side: Mapping[str, object] | None = None,
        known_at: Mapping[str, object] | None = None,
    ) -> None:
        """Write a day whole, atomically; what the day held before is replaced.

        Tail rows of the day with the same (user, timestamp) as a written row are superseded by it.

        Args:
            ds: the day, a date or ISO string.
            users: (n,) ids; the first rows of a store decide whether its ids are integers or strings.
            timestamps: (n,) instants within the day; rows of one user with equal ones keep their order.
            tokens: (n, dim) finite floats.
            side: name -> (n,) for every side column.
            known_at: label -> (n,) instants from which it is known; null or `times.NEVER`: it never is.

        Raises:
            SchemaError: something is wrong with the rows; nothing was written.
            LockedError: another process writes.
        """
        day = as_day(ds)
        ids, columns = check_rows(self.schema, users, timestamps, tokens, side, known_at)
        check_day(day, columns["timestamp"])
        with self._writing(f"write_day {day}"):
            with self._appending():
                rows = Rows(self._ids.assign(ids) if len(ids) else ids, columns)
            name = f"{self.generation + 1:08d}"
            part = write_part(self.path / "segments", self.schema, name, rows)
            with self._appending():
                self._publish(self._view.snapshot.manifest.replace_day(day, len(rows), name, part))
            try:
                self._merge(compaction.due)
            except OSError as error:
                warnings.warn(f"{self.path}: {day} is written, but merging days failed ({error})", stacklevel=2)

    def append(
        self,
        users: object,
        timestamps: object,
        tokens: object,
        side: Mapping[str, object] | None = None,
        known_at: Mapping[str, object] | None = None,
    ) -> int:
        """Add rows at once: durable when this returns, and seen by the next fetch of any process.

        Rows whose (user, timestamp) is in their day already are dropped. The arguments are those of `write_day`, with
        rows of any days.

        Returns:
            How many rows were added.

        Raises:
            SchemaError: something is wrong with the rows; nothing was added.
            LockedError: another process kept the tail locked for too long.
        """
        ids, columns = check_rows(self.schema, users, timestamps, tokens, side, known_at)
        if not len(ids):
            return 0
        with self._appending():
            rows = Rows(self._ids.assign(ids), columns)
            new = ~self._view.holds(rows.users, rows.timestamps)
            if not new.all():
                rows = rows.take(new)
            if len(rows):
                self._view.tail.append(rows)
        return len(rows)

    def refresh(self) -> bool:
        """See the newest state.

        Returns:
            Whether it differs from the one before.
        """
        self._view.tail.poll()
        if self._view.pin.newest:
            return False
        self._view = open_view(self.path, self._view)
        return True

    def compact(self, *, keep_days: int | None = None, keep_rows: int | None = None) -> None:
        """Merge all days into one slice; readers go on meanwhile.

        Args:
            keep_days: drop the days before the newest so many (calendar days, counted from the newest with rows).
            keep_rows: keep only so many rows of each user, the newest. The tail is left as it is.

        Raises:
            SchemaError: a number below 1.
            LockedError: another process writes.
        """
        days, rows = (None if n is None else check_length(n) for n in (keep_days, keep_rows))
        with self._writing("compact"):
            manifest = self._view.snapshot.manifest
            if days is not None and manifest.slices:
                newest = manifest.slices[-1].last
                first = newest - dt.timedelta(days=min(days, (newest - Day.min).days) - 1)
                if first > min(manifest.days):
                    self._swap(manifest.from_day(first))
            if rows is not None and self._view.snapshot.pieces:
                self._merge_span((0, len(self._view.snapshot.pieces)), rows)
            self._merge(compaction.everything)

    def verify(self) -> StoreStatus:
        """Check every checksum, order and count on disk.

        Raises:
            CorruptionError: something is not what was written; the message names the file.
        """
        verify.verify(self.path)
        return TokenStore.open(self.path).status()

    def status(self) -> StoreStatus:
        """What this handle's state holds."""
        return self._view.status()

    def _read(self, window: Window, moment: NDArray[np.int64], out: TokenBatch | None) -> TokenBatch:
        if out is not None and not isinstance(out, TokenBatch):
            raise SchemaError(f"out: {type(out).__name__} given; expected a TokenBatch of an earlier fetch")
        view = self._view
        view.tail.poll()
        return view.read(window, moment, out)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Be the one writer, at the newest state, with nothing left over by a killed one."""
        with _locked(self.path, what):
            self.refresh()
            self._sweep()
            yield

    @contextmanager
    def _appending(self) -> Iterator[None]:
        """Hold the tail, at the newest state."""
        with _tail_locked(self.path):
            self.refresh()
            if self._sealed < (log := self._view.snapshot.manifest.log):
                seal_predecessor(self.path, self.schema, log)
                self._sealed = log
            yield

    def _publish(self, manifest: Manifest) -> None:
        """Swap the manifest, and supersede the tail's rows that its days now hold; both locks are held."""
        before = self._view
        after = View(Snapshot(self.path, manifest, before.snapshot.segments), before.tail, before.pin)
        kept = ~after.holds(before.tail.users, before.tail.columns["timestamp"])
        if not kept.all():
            manifest = manifest.with_log(before.tail.carry(kept))
        manifest.publish(self.path)
        if not kept.all():
            before.tail.seal(manifest.log)
            self._sealed = manifest.log
        self._view = open_view(self.path, before)
        self._sweep()

    def _merge(self, choose: Callable[[Manifest], tuple[int, int] | None]) -> None:
        while (span := choose(self._view.snapshot.manifest)) is not None:
            self._merge_span(span)

    def _merge_span(self, span: tuple[int, int], keep: int | None = None) -> None:
        manifest, pieces = self._view.snapshot.manifest, self._view.snapshot.pieces[slice(*span)]
        name = f"{manifest.generation + 1:08d}"
        part, days = compaction.merge(self.path / "segments", self.schema, name, pieces, keep)
        self._swap(manifest.replace_slices(*span, name, part, days))

    def _swap(self, manifest: Manifest) -> None:
        manifest.publish(self.path)
        self._view = open_view(self.path, self._view)
        self._sweep()

    def _sweep(self) -> None:
        """Remove files that the newest state does not name: those it replaced, and those of a killed writer."""
        used = {s.name for s in self._view.snapshot.manifest.segment_files()}
        files.unlink(p for p in (self.path / "segments").iterdir() if p.name not in used)
        log = self._view.snapshot.manifest.log
        files.unlink(p for p in (self.path / "tail").glob("*.log") if not log - 2 <= int(p.stem) <= log)


_OWN_NAMES = {"segments", "tail", "write.lock", "write.lock.holder", "tail.lock", f"{manifests.NAME}.new"}


@contextmanager
def _locked(folder: Path, what: str) -> Iterator[None]:
    with locks.hold(folder / "write.lock", f"{what} in {folder}"), _refusals():
        yield


@contextmanager
def _tail_locked(folder: Path) -> Iterator[None]:
    """Without a note of who holds it, which would cost each append a write."""
    with _refusals():
        try:
            with FileLock(folder / "tail.lock", timeout=TAIL_WAIT_S, poll_interval=0.002):
                yield
        except Timeout:
            raise LockedError(f"{folder}: other processes held the tail for {TAIL_WAIT_S:g} s; try again") from None


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error) from error
