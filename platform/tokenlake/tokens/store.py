"""`TokenStore`: the last N tokens of a user strictly before a time."""

from __future__ import annotations

import datetime as dt
import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import ConfigError, SchemaError
from tokenlake.storage import disk
from tokenlake.storage.redis.address import check_address
from tokenlake.times import DAY_US, EARLIEST, Day, DayLike, as_day
from tokenlake.tokens import compaction, garbage, verify
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.handle import StoreHandle, locked
from tokenlake.tokens.inputs import as_instants, check_day, check_length, check_queries, check_rows
from tokenlake.tokens.manifest import StoreManifest, TailLocation
from tokenlake.tokens.parity import FETCH, FETCH_AT, FetchLog, FetchRequest
from tokenlake.tokens.query import ALL, RangeQueries
from tokenlake.tokens.schema import StoreSchema, TokenRows
from tokenlake.tokens.segment import write_sorted_run
from tokenlake.tokens.tail import backend_of, create_log
from tokenlake.tokens.view import StoreStatus

Available = Literal["realtime", "daily"]


class TokenStore(StoreHandle):
    """A timestamp-keyed store of tokens: many readers and one writer, across processes.

    A handle keeps the state of days that it opened until `refresh`, or until it writes; appended rows are seen by the
    next fetch of every handle.

    >>> store = TokenStore.create(folder / "store", dim=2, dtype="float32")
    >>> store.write_day("2017-03-01", [7], ["2017-03-01T09:00"], [[1.0, 2.0]])
    >>> store.fetch([7], before="2017-03-02", length=256).values
    array([[1., 2.]], dtype=float32)
    """

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        dim: int,
        dtype: object = "float16",
        side: Mapping[str, Any] | None = None,
        known_at: Iterable[str] = (),
        tail: str | None = None,
    ) -> TokenStore:
        """Make an empty store.

        Args:
            path: a folder that does not exist yet, or an empty one.
            dim: width of the tokens.
            dtype: `float32`, `float16` or `int8` (floats are quantized with a scale per row).
            side: name -> dtype of columns beside the tokens.
            known_at: those of them that are labels, known only from an instant of their own.
            tail: where appended rows lie until their day is written: in the folder, or for many writers in a Redis,
                such as `redis://host:6379/0`.

        Returns:
            The store, open.

        Raises:
            SchemaError: a width, dtype or name that cannot be.
            ConfigError: the folder holds something already; or the Redis would lose rows, or its address a password.
            ServiceError: the Redis does not answer.
        """
        schema = StoreSchema.of(dim, dtype, side, known_at)
        folder = Path(path)
        tail_location = None if tail is None else TailLocation(check_address(tail))
        manifest = StoreManifest(schema, tail=tail_location, store_id=uuid.uuid4().hex)
        with locked(folder, "create"):
            if cls.exists(folder):
                raise ConfigError(f"{folder} is a token store already; open it, or choose another folder")
            if (folder / manifests.REMOVED).exists():
                raise ConfigError(f"{folder} holds a store whose removal was cut short; `TokenStore.remove` it again")
            if strange := [p.name for p in folder.iterdir() if p.name not in _OWN_NAMES]:
                raise ConfigError(f"{folder} is not empty ({strange[0]}, ...); choose another folder")
            (folder / "segments").mkdir(exist_ok=True)
            backend = backend_of(folder, manifest)
            backend.claim()
            create_log(backend)
            manifest.publish(folder)
            disk.sync_folder(folder.parent)
        return cls(folder)

    @staticmethod
    def remove(path: str | os.PathLike[str]) -> None:
        """Remove a store for good: its folder, and its streams where its tail lies in Redis.

        A removal that was cut short is ended by another. A copied folder goes alone: the streams are its original's.
        Handles that are open get NotFoundError from then on, but for fetches of what they have open.

        Args:
            path: its folder.

        Raises:
            NotFoundError: there is none.
            LockedError: a process writes a day there, or merges; nothing was removed.
            ServiceError: its Redis does not answer; nothing was removed, or do it again.
        """
        garbage.remove_store(Path(path))

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Whether a folder holds a store, made completely.

        Args:
            path: a folder, which need not exist.

        Returns:
            False also for a store whose `create` was cut short.
        """
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

        Returns:
            A handle: it keeps the state that it opened until `refresh`, but for the realtime tail, which it follows.

        Raises:
            NotFoundError: there is none.
            ConfigError: the log's folder lies on another disk.
            CorruptionError: its manifest, or a file's size, is not what was written.
        """
        folder = Path(path)
        return cls(folder, log=None if log is None else FetchLog(folder, Path(log), keep_bytes=keep_bytes))

    def __repr__(self) -> str:
        manifest = self._view.snapshot.manifest
        return (
            f"TokenStore({str(self.path)!r}, dim={self.schema.dim}, dtype={self.schema.dtype!r}, "
            f"days={len(manifest.days)}, generation={manifest.generation})"
        )

    def __reduce__(self) -> tuple[Callable[[Path], TokenStore], tuple[Path]]:  # a worker process opens its own
        if self._log is None:
            return TokenStore.open, (self.path,)
        return partial(TokenStore.open, log=self._log.folder, keep_bytes=self._log.keep_bytes), (self.path,)

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
            users: user ids, integers or strings; unknown ones, and those of another kind than the store's, have no rows.
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
        length = check_length(length)
        queries = self._range_queries(ids, None, until, length)
        return self._read(
            queries, times, out, FetchRequest(FETCH, ids, times, {"length": length, "available": available})
        )

    def fetch_at(self, users: object, timestamps: object, *, as_of: object = None) -> TokenBatch:
        """All rows with exactly these keys: those of the day, then those of the tail.

        Args:
            users: user ids, one or an array; they broadcast with `timestamps` into n queries.
            timestamps: instants, one or an array.
            as_of: labels are as known at this instant (one, or one for each query); None masks every label.

        Returns:
            The jagged rows of n keys; `missing[i]` says that key i has none.

        Raises:
            SchemaError: an argument of the wrong shape or type.
            CorruptionError: bytes on disk are not what was written.
        """
        ids, times = check_queries(users, timestamps, "timestamps")
        label_times = np.full(len(ids), EARLIEST)
        if as_of is not None:
            given = as_instants(as_of, "as_of")
            if given.size not in (1, len(ids)):
                raise SchemaError(
                    f"as_of: shape {given.shape} given; expected one instant, or one for each of {len(ids)}"
                )
            label_times = np.ascontiguousarray(np.broadcast_to(given.reshape(-1), len(ids)))
        after = times + (times < np.iinfo(np.int64).max)
        queries = self._range_queries(ids, times, after, ALL)
        batch = self._read(
            queries, label_times, None, FetchRequest(FETCH_AT, ids, times, {"masked": as_of is None}, label_times)
        )
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
            rows = TokenRows(self._codes(ids) if len(ids) else ids, columns)
            name = f"{self.generation + 1:08d}"
            run = write_sorted_run(self.path / "segments", self.schema, name, rows)
            with self._exclude_appends():
                self._publish(self._view.snapshot.manifest.replace_day(day, len(rows), name, run))
            try:
                self._merge(compaction.next_merge)
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

        Rows whose (user, timestamp) is in their day already are dropped.

        Args:
            users: (n,) ids.
            timestamps: (n,) instants of any days.
            tokens: (n, dim) finite floats.
            side: name -> (n,) for every side column.
            known_at: label -> (n,) instants from which it is known; null or `times.NEVER`: it never is.

        Returns:
            How many rows were added.

        Raises:
            SchemaError: something is wrong with the rows; nothing was added.
            LockedError: another process kept the tail locked for too long.
            ServiceError: the tail's Redis does not answer; the rows may have been added all the same.
        """
        ids, columns = check_rows(self.schema, users, timestamps, tokens, side, known_at)
        if not len(ids):
            return 0
        return self._append(TokenRows(self._codes(ids), columns))

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
                    self._publish_days(manifest.from_day(first))
            if rows is not None and self._view.snapshot.slices:
                self._merge_span((0, len(self._view.snapshot.slices)), rows)
            self._merge(compaction.full_merge)

    def fork(self) -> None:
        """Give a copied folder, whose tail lies in Redis, streams of its own; its original goes on as if there were no copy.

        For a copy, a restored backup, or a folder that came from another disk: it takes the rows along that its tail
        shows, and can be written from then on. Rows of string ids that the original met only after it was copied are
        left out, with a warning. A store that writes its own tail stays as it is.

        Raises:
            LockedError: another process writes.
            CorruptionError: the original went on so far that the rows of this copy are gone.
            ServiceError: the Redis does not answer.
        """
        with locked(self.path, "fork"):
            self.refresh()
            if self._view.tail.backend.owned:
                return
            if left := self._fork():
                warnings.warn(
                    f"{self.path}: {left} rows of users whom this copy does not know were left out", stacklevel=2
                )

    def verify(self) -> StoreStatus:
        """Check every checksum, order and count on disk.

        Raises:
            CorruptionError: something is not what was written; the message names the file.
        """
        verify.verify(self.path)
        return TokenStore.open(self.path).status()

    def appended(self, since: int, before: int) -> NDArray[Any]:
        """Ids of the users who have a row in the realtime tail with since <= timestamp < before, in microseconds.

        Args:
            since: int64 microseconds UTC, included.
            before: int64 microseconds UTC, left out.

        Returns:
            Each user once: int64, or an object array of strings.
        """
        tail = self._view.tail
        tail.poll()
        times = tail.columns["timestamp"]
        codes = np.unique(tail.users[(since <= times) & (times < before)])
        return np.array(self._ids.names(), object)[codes] if self.ids == "string" else codes

    def status(self) -> StoreStatus:
        """What this handle's state holds."""
        return self._view.status()

    def _range_queries(
        self, ids: NDArray[Any], since: NDArray[np.int64] | None, before: NDArray[np.int64], length: int
    ) -> RangeQueries:
        codes = self._ids.find(ids)
        if codes is None:  # no row has such ids; a query that ends at the first instant finds nothing
            return RangeQueries(np.zeros(len(ids), np.int64), None, np.full(len(ids), EARLIEST), 1)
        return RangeQueries(codes, since, before, length)


_OWN_NAMES = {"segments", "tail", *garbage.LOCKS, f"{manifests.NAME}.new"}
