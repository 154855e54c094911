"""`StoreHandle`: the state of a store that one handle sees, and how writers change it: appends, days, publication."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from tokenlake.errors import LockedError, SchemaError, TransientError, storage_error
from tokenlake.storage import disk, locks
from tokenlake.tokens import compaction
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.ids import Ids
from tokenlake.tokens.manifest import StoreManifest, TailLocation
from tokenlake.tokens.parity import FetchLog, FetchRequest
from tokenlake.tokens.query import RangeQueries
from tokenlake.tokens.schema import StoreSchema, TokenRows
from tokenlake.tokens.snapshot import Snapshot
from tokenlake.tokens.tail import backend_of, seal_log
from tokenlake.tokens.view import StoreView, open_view

#: How long an append waits for another one, or for the instant of a publication.
TAIL_WAIT_S = 10.0
#: How long a writer of a shared tail's store waits for an append that tidies up after a killed writer.
_CLEAR_FENCE_S = 2.0
#: How long an append waits at a fence before it looks again, at first; and from when on it asks whether its writer died.
_PAUSE_S, _DEAD_S = 0.001, 0.016


class StoreHandle:
    """A store's newest state as this handle knows it, and the ways to change it.

    Two backends keep a tail (wal.py). Where one is not shared, whoever appends or publishes holds `tail.lock`. In a
    shared one nobody does: an append fails when something came between, a publication fences the log, and only the one
    writer, who holds `write.lock`, may remove a fence.
    """

    def __init__(self, path: Path, view: StoreView | None = None, log: FetchLog | None = None) -> None:
        """Open a state.

        Args:
            path: the store's folder.
            view: the state; None: the newest.
            log: where fetches are logged; None: nowhere.
        """
        self.path = path
        self._ids = Ids(path)
        self._view = open_view(path) if view is None else view
        self._sealed = 0
        self._log = log
        #: Held while a fetch is answered and logged: what the tail holds must be what it held.
        self._log_lock: AbstractContextManager[object] = nullcontext() if log is None else RLock()
        if log is not None:
            self._log_state(log)

    @property
    def schema(self) -> StoreSchema:
        """Width, dtype and columns."""
        return self._view.snapshot.manifest.schema

    @property
    def generation(self) -> int:
        """Number of the published state that this handle sees."""
        return self._view.snapshot.manifest.generation

    def refresh(self) -> bool:
        """See the newest state.

        Returns:
            Whether it differs from the one before.
        """
        with self._log_lock:
            if self._view.watch.is_current:  # before the tail: its log is gone with a store that is
                self._view.tail.poll()
                return False
            self._view = open_view(self.path, self._view)
            return True

    def _read(
        self, queries: RangeQueries, as_of: NDArray[np.int64], out: TokenBatch | None, request: FetchRequest
    ) -> TokenBatch:
        """Answer range queries; `request` goes to the fetch log."""
        if out is not None and not isinstance(out, TokenBatch):
            raise SchemaError(f"out: {type(out).__name__} given; expected a TokenBatch of an earlier fetch")
        if self._log is None:
            return self._view.read(queries, as_of, out)
        with self._log_lock:
            self._log_state(self._log)
            batch = self._view.read(queries, as_of, out)
            if not self._log.write(request, batch):
                self.refresh()
                self._log_state(self._log)
        return batch

    def _log_state(self, log: FetchLog) -> None:
        """Let the log keep the state that this handle sees; a later one, where the files of that are gone already."""
        while True:
            generation = self.generation
            try:
                log.follow(self._view)
            except FileNotFoundError:
                self.refresh()
                if self.generation == generation:
                    raise
            else:
                return

    def _codes(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Codes of ids; the lock is taken only for those that are new."""
        if (codes := self._ids.existing(ids)) is None:
            self._view.tail.backend.claim()
            manifests.require(self.path)
            with tail_locked(self.path):
                codes = self._ids.assign(ids)
        return codes

    def _append(self, rows: TokenRows) -> int:
        """Add those rows to the tail whose keys no day holds."""
        if self._view.tail.backend.shared:
            with self._log_lock:
                return self._append_shared(rows)
        manifests.require(self.path)  # else the lock would make the folder of a removed store again
        with self._log_lock, tail_locked(self.path):
            self._catch_up()
            while (added := self._try_append(rows)) is None:
                self._catch_up()
            return added

    def _append_shared(self, rows: TokenRows) -> int:
        """The first try needs no look at the tail: it goes in only if nothing came since the last one."""
        until, pause = time.monotonic() + TAIL_WAIT_S, _PAUSE_S
        with storage_errors():
            self._view.tail.backend.claim()
            while (added := self._try_append(rows)) is None:
                if time.monotonic() > until:
                    raise LockedError(
                        f"{self.path}: for {TAIL_WAIT_S:g} s a day was being published, or other writers were faster; "
                        f"try again"
                    )
                self._catch_up()
                if not self._view.tail.fenced:
                    pause = _PAUSE_S
                elif pause < _DEAD_S or not self._try_clear_fence():
                    time.sleep(pause)
                    pause = min(2 * pause, 2 * _DEAD_S)
            return added

    def _try_append(self, rows: TokenRows) -> int | None:
        """Append where the tail ended when it was last read; None: that was not the end, or not the newest state."""
        view = self._view
        # In this order: a day that is published after the look at the manifest has a fence behind the mark.
        position = view.tail.position()
        if position is None or self._sealed < view.snapshot.manifest.log or not view.watch.is_current:
            return None
        new = ~view.holds(rows.users, rows.timestamps)
        rows = rows if new.all() else rows.take(new)
        return len(rows) if not len(rows) or view.tail.append(rows, position) else None

    def _catch_up(self) -> None:
        """Open the newest state and read all of its tail; seal the log that a killed writer left open."""
        before = self._view.tail
        while self.refresh():
            pass
        view = self._view
        if self._sealed < (log := view.snapshot.manifest.log):
            if (before.first_log, before.log_number) != (log - 1, log):  # else it came here by the seal
                seal_log(view.tail.backend, log - 1, log)
            self._sealed = log

    def _try_clear_fence(self) -> bool:
        """Remove the fence of a killed writer; False: the writer is alive."""
        try:
            with locks.hold(self.path / "write.lock", f"repair of {self.path}"):
                self._clear_fence()
                return True
        except LockedError:
            return False

    def _clear_fence(self) -> None:
        """Catch up with the published state and remove the fence, so that appends go on; the caller is the one writer."""
        self._catch_up()
        self._view.tail.unfence()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Be the one writer, at the newest state, after removing what a killed writer left behind."""
        shared = self._view.tail.backend.shared
        manifests.require(self.path)  # as above
        with locked(self.path, what, _CLEAR_FENCE_S if shared else 0):
            self.refresh()
            if shared:
                self._view.tail.backend.claim(again=True)
                self._clear_fence()
                self.refresh()
            self._collect_garbage()
            yield

    def _fork(self) -> int:
        """Copy the tail into streams of this store's own; the caller is the one writer, at the newest state."""
        view = self._view
        view.tail.poll()
        manifest = replace(
            view.snapshot.manifest, generation=self.generation + 1, tail=TailLocation(str(view.tail.backend))
        )
        backend = backend_of(self.path, manifest)
        backend.claim()
        unknown = self._unknown_users(view.tail.users)
        view.tail.copy(backend, ~unknown)
        manifest.publish(self.path)
        self._view = open_view(self.path, view)
        return int(unknown.sum())

    def _unknown_users(self, users: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which users' strings this folder does not hold, since they came to the original after it was copied."""
        self._ids.refresh()
        return users >= len(self._ids.names()) if self._ids.kind == "string" else np.zeros(len(users), np.bool_)

    @contextmanager
    def _exclude_appends(self) -> Iterator[None]:
        """Keep appends out of the log until the block ends, at the newest state; the caller is the one writer."""
        if not self._view.tail.backend.shared:
            with tail_locked(self.path):
                self._catch_up()
                yield
            return
        self._catch_up()
        try:
            self._view.tail.fence()
            yield
        except BaseException:
            with contextlib.suppress(TransientError):  # the first error tells more, and the next writer settles too
                self._clear_fence()
            raise
        self._clear_fence()

    def _publish(self, manifest: StoreManifest) -> None:
        """Swap the manifest, and supersede the tail's rows that its days now hold; no append comes between."""
        before = self._view
        after = StoreView(Snapshot(self.path, manifest, before.snapshot.segments), before.tail, before.watch)
        kept = ~after.holds(before.tail.users, before.tail.columns["timestamp"])
        if not kept.all():
            manifest = manifest.with_log(before.tail.rewrite(kept))
        manifest.publish(self.path)
        if not kept.all():
            before.tail.seal(manifest.log)
            self._sealed = manifest.log
        self._view = open_view(self.path, before)
        self._collect_garbage()

    def _merge(self, choose: Callable[[StoreManifest], tuple[int, int] | None]) -> None:
        while (span := choose(self._view.snapshot.manifest)) is not None:
            self._merge_span(span)

    def _merge_span(self, span: tuple[int, int], keep: int | None = None) -> None:
        manifest, slices = self._view.snapshot.manifest, self._view.snapshot.slices[slice(*span)]
        name = f"{manifest.generation + 1:08d}"
        run, days = compaction.merge(self.path / "segments", self.schema, name, slices, keep)
        self._publish_days(manifest.replace_slices(*span, name, run, days))

    def _publish_days(self, manifest: StoreManifest) -> None:
        manifest.publish(self.path)
        self._view = open_view(self.path, self._view)
        self._collect_garbage()

    def _collect_garbage(self) -> None:
        """Remove files that the newest state does not name: those it replaced, and those of a killed writer."""
        used = {s.name for s in self._view.snapshot.manifest.segment_files()}
        disk.unlink(p for p in (self.path / "segments").iterdir() if p.name not in used)
        self._view.tail.backend.collect_garbage(self._view.snapshot.manifest.log)


@contextmanager
def locked(folder: Path, what: str, timeout: float = 0) -> Iterator[None]:
    """Be a store's one writer."""
    with locks.hold(folder / "write.lock", f"{what} in {folder}", timeout), storage_errors():
        yield


@contextmanager
def tail_locked(folder: Path) -> Iterator[None]:
    """Hold the tail's files and the ids, without a note of who holds them, which would cost each append a write."""
    with storage_errors():
        try:
            with FileLock(folder / "tail.lock", timeout=TAIL_WAIT_S, poll_interval=0.002):
                yield
        except Timeout:
            raise LockedError(f"{folder}: other processes held the tail for {TAIL_WAIT_S:g} s; try again") from None


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn errors of the operating system into Tokenlake's own."""
    try:
        yield
    except OSError as error:
        raise storage_error(error) from error
