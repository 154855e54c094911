"""The runs of a stream on disk: each holds the events that were ingested between two watermarks.

So the state as of a watermark is a chain of runs from the first event on, whichever way it was cut: a day's update adds
one run, runs of like size are merged now and then, and a chain that was made from scratch gives the same answers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tokenlake.errors import NotFoundError
from tokenlake.features.aggregations.contributions import contributions
from tokenlake.features.aggregations.run import CountRun
from tokenlake.features.aggregations.streams import CountStream
from tokenlake.times import NEVER

#: Newest runs that stay as they are, so that re-runs of the last days find the chain of their watermark.
_RECENT = 4
#: A run is merged with the next newer one unless it is so many times as large.
_RATIO = 2
#: Contributions up to which neighbouring runs are merged in memory when they are read.
_SMALL = 200_000
#: How often a listing is repeated when another process merges runs meanwhile.
_ATTEMPTS = 5


@dataclass(frozen=True, order=True)
class SavedRun:
    """A run's file: the contributions of events ingested after `since` (us), up to `until`."""

    since: int
    until: int
    path: Path


class StreamState:
    """The runs of one stream in a folder.

    Args:
        root: folder of all streams.
        stream: which one.
    """

    def __init__(self, root: Path, stream: CountStream) -> None:
        self.stream = stream
        self.folder = root / stream.digest

    def chain(self, watermark: int) -> list[SavedRun]:
        """The runs from the first event on, as far as they don't go beyond a watermark."""
        found, end = list[SavedRun](), 0
        files = sorted(self._saved())
        while nexts := [p for p in files if p.since == end and end < p.until <= watermark]:
            found.append(nexts[-1])
            end = found[-1].until
        return found

    def load(self, watermark: int) -> tuple[list[CountRun], int]:
        """The runs of the chain, small ones merged, and the watermark that they reach."""
        for attempt in range(_ATTEMPTS):
            files = self.chain(watermark)
            try:
                runs = [CountRun.load(self.stream, file.path) for file in files]
            except NotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.01)
                continue
            return gathered(self.stream, runs), files[-1].until if files else 0
        raise NotFoundError(f"{self.folder} changes all the time; try again")

    def append(self, made: Made, since: int, until: int) -> None:
        """Save a run that continues the chain, and merge older ones; the caller holds the lock."""
        made.run.save(self._path(since, until), seconds=made.seconds)
        self._merge(self.chain(until))
        self._drop_covered(until)

    def reached(self, watermark: int) -> int:
        """The watermark up to which the state is made; the given one where it goes beyond that."""
        files = self.chain(NEVER)
        return min(watermark, files[-1].until) if files else 0

    def _merge(self, chain: list[SavedRun]) -> None:
        old = chain[: max(len(chain) - _RECENT, 0)]
        sizes = [file.path.stat().st_size for file in old]
        for i in reversed(range(len(old) - 1)):
            if sizes[i] <= _RATIO * sizes[i + 1]:
                first, second = old[i], old.pop(i + 1)
                runs = [CountRun.load(self.stream, file.path) for file in (first, second)]
                path = self._path(first.since, second.until)
                CountRun.merged(self.stream, *runs).save(path)
                old[i], sizes[i] = SavedRun(first.since, second.until, path), path.stat().st_size

    def _drop_covered(self, watermark: int) -> None:
        kept = {file.path for file in self.chain(watermark)}
        for file in self._saved():
            if file.until <= watermark and file.path not in kept:
                file.path.unlink(missing_ok=True)

    def _saved(self) -> list[SavedRun]:
        out = []
        for path in self.folder.glob("*_*.arrow"):
            since, _, until = path.stem.partition("_")
            if since.isdigit() and until.isdigit():
                out.append(SavedRun(int(since), int(until), path))
        return out

    def _path(self, since: int, until: int) -> Path:
        return self.folder / f"{since:020d}_{until:020d}.arrow"


def gathered(stream: CountStream, runs: Sequence[CountRun]) -> list[CountRun]:
    """The runs with neighbours merged as long as they stay small: a look-up goes through every run."""
    out: list[CountRun] = []
    for run in runs:
        if out and len(out[-1]) + len(run) <= _SMALL:
            out[-1] = CountRun.merged(stream, out[-1], run)
        else:
            out.append(run)
    return out


@dataclass(frozen=True)
class Made:
    """A new run, and the CPU seconds that it took."""

    run: CountRun
    seconds: float


class Builder:
    """Makes one run of the contributions of batches of events; large parts wait on the disk.

    Args:
        stream: what they are contributions to.
        scratch: a folder for them.
    """

    def __init__(self, stream: CountStream, scratch: Path) -> None:
        self._stream, self._scratch = stream, scratch
        self._runs: list[CountRun] = []
        self._files = 0
        self._seconds = 0.0

    def add(self, events: pa.Table) -> None:
        """Add what a batch of events contributes."""
        began = time.thread_time()
        self._runs.append(self._put_aside(CountRun.of(self._stream, contributions(self._stream, events))))
        while len(self._runs) > 1 and len(self._runs[-2]) <= _RATIO * len(self._runs[-1]):
            self._merge_last()
        self._seconds += time.thread_time() - began

    def finish(self) -> Made:
        """All contributions in one run."""
        began = time.thread_time()
        while len(self._runs) > 1:
            self._merge_last()
        return Made(self._runs[0], self._seconds + time.thread_time() - began)

    def _merge_last(self) -> None:
        newer, older = self._runs.pop(), self._runs.pop()
        self._runs.append(self._put_aside(CountRun.merged(self._stream, older, newer)))

    def _put_aside(self, run: CountRun) -> CountRun:
        if len(run) <= _SMALL:
            return run
        self._files += 1
        path = self._scratch / f"{self._stream.digest}-{self._files}.arrow"
        run.save(path)
        return CountRun.load(self._stream, path)


def drop_others(root: Path, streams: Sequence[CountStream]) -> None:
    """Remove the states of streams that no definition needs any more; the caller holds the lock."""
    wanted = {stream.digest for stream in streams}
    for folder in _folders(root):
        if folder.name not in wanted:
            shutil.rmtree(folder, ignore_errors=True)


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir()) if root.is_dir() else iter(())
