"""The output folder of a data set: one Parquet file per day, a `tokenlake.yaml`, and a marker with its options."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenlake.config import FILE_NAME
from tokenlake.errors import SourceError
from tokenlake.feast import repository
from tokenlake.storage import atomic
from tokenlake.times import DAY_US, Day, day_of

#: Called with the operation's name, the amount done, and the total amount.

MARKER = ".tokenlake-dataset.json"
LANDING = "landing"
#: Folder of data that a simulator knows and a real log would not have.
TRUTH = "truth"


@dataclass(frozen=True)
class DatasetReport:
    """The content of a folder after a build."""

    name: str
    folder: Path
    events: int
    users: int
    items: int
    days: int
    first: Day
    last: Day
    #: Further numbers of this data set, such as `{"promo": 327041}`.
    counts: Mapping[str, int] = field(default_factory=dict)
    #: False if the folder already held the same data set, so that nothing was written.
    built: bool = True


def day_slices(days: NDArray[np.int64]) -> list[tuple[Day, slice]]:
    """Each distinct day with the slice of its rows; `days` are ascending days since 1970."""
    numbers, begins = np.unique(days, return_index=True)
    edges = [*begins.tolist(), len(days)]
    return [(day_of(n * DAY_US), slice(edges[i], edges[i + 1])) for i, n in enumerate(numbers.tolist())]


class Output:
    """Writes a data set's folder; a marker tells a complete folder from an incomplete one.

    >>> output = Output(Path("journey"), "complete-journey", {"households": 400})  # doctest: +SKIP
    >>> if (done := output.finished()) is None:  # doctest: +SKIP
    ...     output.start()
    ...     output.write_day(day, [table])
    ...     report = output.finish(config_text, users=400, items=100, counts={})
    """

    def __init__(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        """Read a folder's marker, without changing the folder.

        Args:
            folder: folder of the data set; created if it is missing.
            name: of the data set.
            options: all options that the content depends on, as JSON values.

        Raises:
            SourceError: the folder holds other files.
        """
        self.folder = Path(folder)
        self._name = name
        self._options = json.loads(json.dumps(options))
        self._files: dict[str, tuple[int, int]] = {}
        self._marker = self._read_marker()

    def finished(self) -> DatasetReport | None:
        """The report of an earlier build with the same options, if all its files still exist; else None."""
        marker = self._marker
        if not marker.get("complete"):
            return None
        for file, (size, _) in marker["files"].items():
            path = self.folder / file
            if not path.is_file() or path.stat().st_size != size:
                return None
        if not (self.folder / FILE_NAME).is_file():
            return None
        return self._report(marker, built=False)

    def start(self) -> None:
        """Mark the folder as incomplete until `finish`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_marker({"complete": False})
        for folder in (LANDING, TRUTH):
            shutil.rmtree(self.folder / folder, ignore_errors=True)

    def write_day(self, day: Day, parts: Iterable[pa.Table], folder: str = LANDING) -> None:
        """Write one day's file, part by part; `folder` is `LANDING` or `TRUTH`."""
        self.write(f"{folder}/{day.isoformat()}.parquet", parts)

    def write(self, file: str, parts: Iterable[pa.Table]) -> None:
        """Write one file, by its path in this folder."""
        path = self.folder / file
        path.parent.mkdir(exist_ok=True)
        parts = iter(parts)
        first = next(parts)
        rows = 0
        with pq.ParquetWriter(
            path, first.schema, compression="zstd", use_dictionary=_repeating(first.schema)
        ) as writer:
            for part in itertools.chain([first], parts):
                writer.write_table(part)
                rows += part.num_rows
        self._files[file] = (path.stat().st_size, rows)

    def finish(self, config: str, *, users: int, items: int, counts: Mapping[str, int]) -> DatasetReport:
        """Write `tokenlake.yaml` and `feature_repo/`, and mark the folder as complete."""
        atomic.write(self.folder / FILE_NAME, config)
        repository.write(self.folder, online="tokenlake")
        marker = {"complete": True, "users": users, "items": items, "counts": dict(counts), "files": self._files}
        self._write_marker(marker)
        return self._report(marker, built=True)

    def _report(self, marker: Mapping[str, Any], *, built: bool) -> DatasetReport:
        landed = {Path(file).stem: rows for file, (_, rows) in marker["files"].items() if file.startswith(LANDING)}
        days = sorted(map(dt.date.fromisoformat, landed))
        return DatasetReport(
            name=self._name,
            folder=self.folder,
            events=sum(landed.values()),
            users=marker["users"],
            items=marker["items"],
            days=len(days),
            first=days[0],
            last=days[-1],
            counts=marker["counts"],
            built=built,
        )

    def _read_marker(self) -> dict[str, Any]:
        path = self.folder / MARKER
        if not path.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise SourceError(f"{self.folder} is not an empty folder; give one that is empty or does not exist yet")
            return {}
        try:
            marker: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            same = marker["name"] == self._name and marker["options"] == self._options
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{path} cannot be understood ({error}); delete {self.folder} or give another") from error
        if not same:
            raise SourceError(
                f"{self.folder} already holds {marker['name']} with {marker['options']}; asked for was {self._name} "
                f"with {self._options}: give another folder, or delete that one"
            )
        return marker

    def _write_marker(self, content: Mapping[str, Any]) -> None:
        marker = {"name": self._name, "options": self._options, **content}
        atomic.write(self.folder / MARKER, json.dumps(marker))


def _repeating(schema: pa.Schema) -> list[str]:
    """Columns with repeating values, for which dictionary encoding pays; for floats and instants it only costs time."""
    names = []
    for column in schema:
        is_list = pa.types.is_list(column.type)
        leaf = column.type.value_type if is_list else column.type
        if not (pa.types.is_floating(leaf) or pa.types.is_timestamp(leaf)):
            names.append(f"{column.name}.list.element" if is_list else column.name)
    return names
