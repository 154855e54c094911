"""The manifest: the one small file whose swap publishes a new state of a store.

Rows lie in *sorted runs*: segments written together, one for each bucket of users (the JSON calls a sorted run a "part").
The manifest lists *slices*: ranges of days that no other slice shares, oldest first, each read from one sorted run.
Replacing a day cuts it out of the slice that holds it and leaves the sorted run as it is; so a slice may show fewer days
than its sorted run holds.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenlake.errors import NotFoundError
from tokenlake.storage import manifest as manifests
from tokenlake.storage.manifest import ManifestWatch
from tokenlake.times import Day
from tokenlake.tokens.schema import StoreSchema

NAME = "manifest"
#: The second one: stores whose tail lies elsewhere, so that a version that only knows of files refuses them.
_FIRST_FORMAT, _NEWEST_FORMAT = 1, 2
#: The manifest of a store that is being removed.
REMOVED = "manifest.removed"


@dataclass(frozen=True)
class SegmentFile:
    """One immutable file.

    Attributes:
        name: file name within `segments/`.
        size: bytes.
        rows: rows of all users.
        users: distinct users.
        data: first and last byte (exclusive) of the row columns; the rest is the *frame*.
        frame: XXH3-64 of the frame, hex: checked before the first read.
        whole: XXH3-64 of all bytes, hex: checked by `verify`.
    """

    name: str
    size: int
    rows: int
    users: int
    data: tuple[int, int]
    frame: str
    whole: str


@dataclass(frozen=True)
class SortedRun:
    """Segments written together; the top `bits` bits of a user's hash choose the segment (None: that bucket is empty)."""

    bits: int
    segments: tuple[SegmentFile | None, ...]


@dataclass(frozen=True)
class RunSlice:
    """The days `first` to `last`, as read from the sorted run `run`; both days hold rows."""

    first: Day
    last: Day
    run: str


@dataclass(frozen=True)
class TailLocation:
    """A tail that does not lie on the store's disk: the URL of a Redis, and what the store is called there."""

    url: str
    store: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class StoreManifest:
    """One published state.

    Attributes:
        schema: columns of the store.
        generation: counts the publications.
        log: number of the tail's log.
        days: rows of each day that was written, sorted; an empty day has 0.
        slices: sorted by day.
        runs: name -> the sorted runs that slices name.
        tail: where the tail's logs lie; None: in the store's folder.
        store_id: tells this store from others that were at the same path before; None: written by an earlier version.
    """

    schema: StoreSchema
    generation: int = 0
    log: int = 1
    days: dict[Day, int] = field(default_factory=dict)
    slices: tuple[RunSlice, ...] = ()
    runs: dict[str, SortedRun] = field(default_factory=dict)
    tail: TailLocation | None = None
    store_id: str | None = None

    def replace_day(self, day: Day, rows: int, name: str, run: SortedRun | None) -> StoreManifest:
        """The next state, in which a day is read from a new sorted run (or is empty)."""
        days = dict(sorted({**self.days, day: rows}.items()))
        slices = [left for run_slice in self.slices for left in self._without(run_slice, day)]
        if run is not None:
            slices.append(RunSlice(day, day, name))
        return self._next(days=days, slices=slices, runs={**self.runs, **({name: run} if run else {})})

    def replace_slices(self, start: int, stop: int, name: str, run: SortedRun, rows: dict[Day, int]) -> StoreManifest:
        """The next state, in which the slices [start, stop) are read from one new sorted run that holds these rows."""
        first, last = self.slices[start].first, self.slices[stop - 1].last
        days = {day: rows.get(day, 0) if first <= day <= last else held for day, held in self.days.items()}
        merged = RunSlice(min(rows), max(rows), name)
        slices = [*self.slices[:start], merged, *self.slices[stop:]]
        return self._next(days=days, slices=slices, runs={**self.runs, name: run})

    def from_day(self, day: Day) -> StoreManifest:
        """The next state, without the days before one."""
        slices = [replace(s, first=max(s.first, day)) for s in self.slices if s.last >= day]
        days = {d: n for d, n in self.days.items() if d >= day}
        return self._next(days=days, slices=[self._trim(s, days) for s in slices], runs=self.runs)

    def with_log(self, log: int) -> StoreManifest:
        """The same state with another tail log."""
        return replace(self, log=log)

    def rows(self, run_slice: RunSlice) -> int:
        """Rows that a slice shows."""
        return sum(n for day, n in self.days.items() if run_slice.first <= day <= run_slice.last)

    def segment_files(self) -> list[SegmentFile]:
        """Every segment of every sorted run."""
        return [s for run in self.runs.values() for s in run.segments if s is not None]

    def _without(self, run_slice: RunSlice, day: Day) -> list[RunSlice]:
        if not run_slice.first <= day <= run_slice.last:
            return [run_slice]
        days_with_rows = [d for d, n in self.days.items() if n and run_slice.first <= d <= run_slice.last]
        before, after = days_with_rows[: bisect_left(days_with_rows, day)], [d for d in days_with_rows if d > day]
        return [RunSlice(days[0], days[-1], run_slice.run) for days in (before, after) if days]

    def _trim(self, run_slice: RunSlice, days: dict[Day, int]) -> RunSlice:
        days_with_rows = [d for d, n in days.items() if n and run_slice.first <= d <= run_slice.last]
        return replace(run_slice, first=days_with_rows[0])

    def _next(self, *, days: dict[Day, int], slices: list[RunSlice], runs: dict[str, SortedRun]) -> StoreManifest:
        used = {run_slice.run for run_slice in slices}
        return replace(
            self,
            generation=self.generation + 1,
            days=days,
            slices=tuple(sorted(slices, key=lambda s: s.first)),
            runs={name: run for name, run in runs.items() if name in used},
        )

    def publish(self, folder: Path) -> None:
        """Swap the manifest in `folder` for this one."""
        manifests.publish(folder / NAME, self._to_json())

    def _to_json(self) -> dict[str, Any]:
        return {
            "format": _FIRST_FORMAT if self.tail is None else _NEWEST_FORMAT,
            "schema": self.schema.to_json(),
            "generation": self.generation,
            "log": self.log,
            **({} if self.tail is None else {"tail": asdict(self.tail)}),
            **({} if self.store_id is None else {"made": self.store_id}),
            "days": {day.isoformat(): rows for day, rows in self.days.items()},
            "slices": [[s.first.isoformat(), s.last.isoformat(), s.run] for s in self.slices],
            "parts": {
                name: {"bits": run.bits, "segments": [asdict(s) if s else None for s in run.segments]}
                for name, run in self.runs.items()
            },
        }


def require(folder: Path) -> None:
    """See that there is a store.

    Raises:
        NotFoundError: there is none, or it was removed.
    """
    if not (folder / NAME).exists():
        raise _no_store(folder)


def _no_store(folder: Path) -> NotFoundError:
    return NotFoundError(f"{folder} holds no token store; `TokenStore.create` makes one")


def load(folder: Path, name: str = NAME) -> StoreManifest:
    """Read a store's manifest, or that of one that is being removed.

    Raises:
        NotFoundError: there is no store.
        CorruptionError: its bytes are not what was written.
    """
    try:
        return _parse(manifests.read(folder / name, _NEWEST_FORMAT, "restore it, or rebuild the store from its table"))
    except (FileNotFoundError, NotADirectoryError):
        raise _no_store(folder) from None


def watch(folder: Path) -> ManifestWatch:
    """Watch for a newer state of a store.

    Raises:
        NotFoundError: there is no store.
    """
    try:
        return ManifestWatch(folder / NAME)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_store(folder) from None


def _parse(body: dict[str, Any]) -> StoreManifest:
    schema = body["schema"]
    return StoreManifest(
        schema=StoreSchema(schema["dim"], schema["dtype"], schema["side"], tuple(schema["known_at"])),
        generation=body["generation"],
        log=body["log"],
        days={Day.fromisoformat(day): rows for day, rows in body["days"].items()},
        slices=tuple(RunSlice(Day.fromisoformat(a), Day.fromisoformat(b), part) for a, b, part in body["slices"]),
        runs={
            name: SortedRun(
                part["bits"],
                tuple(SegmentFile(**{**s, "data": tuple(s["data"])}) if s else None for s in part["segments"]),
            )
            for name, part in body["parts"].items()
        },
        tail=TailLocation(**body["tail"]) if "tail" in body else None,
        store_id=body.get("made"),
    )
