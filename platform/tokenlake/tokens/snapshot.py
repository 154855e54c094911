"""One published state of a store, opened: every file mapped, nothing parsed before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError
from tokenlake.storage.manifest import open_files
from tokenlake.times import DAY_US, day_start
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.manifest import SegmentFile, StoreManifest
from tokenlake.tokens.segment import Segment


@dataclass(frozen=True)
class MappedSlice:
    """A slice with its segments mapped: the rows of a sorted run with start <= timestamp < stop."""

    start: int
    stop: int
    bits: int
    segments: tuple[Segment | None, ...]

    def split(
        self, index: NDArray[np.int64], hashes: NDArray[np.uint64]
    ) -> Iterator[tuple[Segment, NDArray[np.int64]]]:
        """Split queries by the segment that holds their user: yields a segment and the queries of `index` that it answers."""
        if self.bits == 0:
            if self.segments[0] is not None and len(index):
                yield self.segments[0], index
            return
        buckets = (hashes[index] >> np.uint64(64 - self.bits)).astype(np.int64)
        for bucket in np.unique(buckets).tolist():
            if (segment := self.segments[bucket]) is not None:
                yield segment, index[buckets == bucket]


class Snapshot:
    """A manifest and its segments, mapped into memory."""

    def __init__(self, folder: Path, manifest: StoreManifest, opened: dict[str, Segment] | None = None) -> None:
        self.manifest = manifest
        self.segments: dict[str, Segment] = {}
        self._opened = opened or {}
        folder_name = str(folder / "segments")
        runs = {
            name: (run.bits, tuple(self._open(folder_name, file) for file in run.segments))
            for name, run in manifest.runs.items()
        }
        self._opened = {}
        self.slices = [
            MappedSlice(day_start(s.first), day_start(s.last) + DAY_US, *runs[s.run]) for s in manifest.slices
        ]

    @cached_property
    def rows(self) -> int:
        """Rows of all days."""
        return sum(self.manifest.days.values())

    def _open(self, folder: str, file: SegmentFile | None) -> Segment | None:
        if file is None:
            return None
        segment = self._opened.get(file.name) or Segment(f"{folder}/{file.name}", self.manifest.schema, file)
        self.segments[file.name] = segment
        return segment


def open_snapshot(folder: Path, previous: Snapshot | None = None) -> Snapshot:
    """Open the newest state; files that `previous` has open are not opened again.

    Raises:
        NotFoundError: there is no store.
        CorruptionError: a file is missing, or not of the size that the manifest says.
    """
    known_files = previous.segments if previous else None
    try:
        return open_files(lambda: manifests.load(folder), lambda manifest: Snapshot(folder, manifest, known_files))
    except FileNotFoundError as error:
        raise CorruptionError(f"{error.filename}: this file of the store is missing; rebuild the store") from None
