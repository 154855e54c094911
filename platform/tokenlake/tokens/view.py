"""`StoreView`: what one handle of a store sees, a published state of the days and the tail beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import NotFoundError
from tokenlake.storage.manifest import ManifestWatch
from tokenlake.storage.native import library
from tokenlake.times import DAY_US, Day
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens import query_native
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.query import RangeQueries, copy_ranges, find_ranges
from tokenlake.tokens.query_native import NativeSnapshot
from tokenlake.tokens.snapshot import Snapshot, open_snapshot
from tokenlake.tokens.tail import Tail, backend_of


@dataclass(frozen=True)
class StoreStatus:
    """What a store holds.

    Attributes:
        generation: counts the publications.
        days: rows of each day that was written.
        rows: rows of all days.
        tail_rows: rows of the realtime tail.
        unmatched: those of them whose day was written without them.
        slices: ranges of days that a fetch may have to look into.
        segments: files; bytes: their size.
        tail: where the tail lies: `disk`, or the URL of a Redis.
    """

    generation: int
    days: dict[Day, int]
    rows: int
    tail_rows: int
    unmatched: int
    slices: int
    segments: int
    bytes: int
    tail: str


@dataclass(frozen=True)
class StoreView:
    """A snapshot of the days, the tail, and a watch on the manifest; replaced as a whole, so that threads never see half of it."""

    snapshot: Snapshot
    tail: Tail
    watch: ManifestWatch

    @cached_property
    def native(self) -> NativeSnapshot:
        """The snapshot as native.c sees it."""
        return NativeSnapshot(self.snapshot, self.snapshot.manifest.schema)

    def read(self, queries: RangeQueries, as_of: NDArray[np.int64], out: TokenBatch | None) -> TokenBatch:
        """Answer range queries, with what the tail holds now."""
        self.tail.poll()
        schema = self.snapshot.manifest.schema
        if (lib := library()) is not None:
            return query_native.read(lib, schema, self.native, self.tail, queries, as_of, out)
        return copy_ranges(schema, find_ranges(self.snapshot, self.tail, queries), self.tail, as_of, out)

    def holds(self, users: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these keys the days hold."""
        queries = RangeQueries(users, times, times + 1, 1)
        if (lib := library()) is not None:
            return np.diff(query_native.NativeRanges(lib, self.native, None, queries).offsets) > 0
        return find_ranges(self.snapshot, None, queries).counts() > 0

    def status(self) -> StoreStatus:
        """Counts and sizes, the newest tail rows included."""
        self.tail.poll()
        manifest = self.snapshot.manifest
        segments = manifest.segment_files()
        days = np.array([*manifest.days], "datetime64[D]").astype(np.int64)
        unmatched = np.isin(self.tail.columns["timestamp"] // DAY_US, days)
        return StoreStatus(
            generation=manifest.generation,
            days=dict(manifest.days),
            rows=self.snapshot.rows,
            tail_rows=self.tail.count,
            unmatched=int(unmatched.sum()),
            slices=len(manifest.slices),
            segments=len(segments),
            bytes=sum(s.size for s in segments),
            tail=str(self.tail.backend),
        )


def open_view(folder: Path, previous: StoreView | None = None) -> StoreView:
    """Open the newest state; what `previous` has open and in memory is used again.

    Raises:
        NotFoundError: there is no store, or not the one that `previous` is of.
        CorruptionError: a file is missing, or not of the size that the manifest says.
    """
    snapshot, tail = (previous.snapshot, previous.tail) if previous else (None, None)
    while True:
        watch = manifests.watch(folder)
        snapshot = open_snapshot(folder, snapshot)
        manifest = snapshot.manifest
        if previous is not None and manifest.store_id != previous.snapshot.manifest.store_id:
            raise NotFoundError(
                f"the store that was opened at {folder} is gone, and another was made there; open it again"
            )
        if previous is not None and manifest.tail != previous.snapshot.manifest.tail:
            tail = None  # it got logs of its own
        try:
            backend = tail.backend if tail is not None else backend_of(folder, manifest)
            return StoreView(snapshot, Tail.open(backend, manifest.schema, manifest.log, tail), watch)
        except FileNotFoundError:
            if manifests.load(folder).log == manifest.log:
                raise backend.missing_error(manifest.log) from None
