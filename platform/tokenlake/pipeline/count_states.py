"""The job of count states: of each served definition, the keys whose numbers changed on a day, as of the day's end.

A key's numbers change when an event is seen for the first time, itself or a label of it, when one leaves a window, and
when one is ingested late. Feast's join takes a key's newest row, so all other keys keep the row that they have.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.config import Config, count_states
from tokenlake.features.aggregations import Aggregations
from tokenlake.features.aggregations.contributions import facts
from tokenlake.features.aggregations.streams import CountStream, recipes
from tokenlake.features.keys import exploded
from tokenlake.lake.project import Project
from tokenlake.lake.schema import TIMESTAMP, known_at_column
from tokenlake.lake.tables import Table
from tokenlake.times import Day, as_micros, available_at, day_of, day_start, days_between

COUNTS = "counts"
#: The metric that tells how many events a definition's numbers of a day were counted from.
COUNTED = "events"
#: The metric that tells which events they are: those ingested up to this instant (us).
WATERMARK = "watermark"
#: Keys that are computed at once.
_BATCH_KEYS = 1_000_000
#: Milliseconds are the finest that Delta's log keeps of a column's range.
_LOG_US = 1_000
_MICRO = dt.timedelta(microseconds=1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Counted:
    """Where the numbers of an earlier day stand: at that day's end (us), with the events up to a watermark (us)."""

    end: int
    watermark: int


class CountStates:
    """Writes what Feast holds of a lake's definitions, from their aggregations."""

    def __init__(self, lake: Project) -> None:
        self._lake = lake
        self._engine = Aggregations(Project(lake.file, _with_states(lake.config)))

    def write_day(self, name: str, day: Day, watermark: int) -> int:
        """Replace a day's rows of a definition.

        Args:
            name: of the definition.
            day: the numbers are those of its end.
            watermark: bound on `ingested_at` (us) of the events that count.

        Returns:
            How many keys changed since the last day before it that was written.
        """
        states, totals = tables_of(self._lake, name)
        version, end = self._lake.config.count_version(name), available_at(day)
        before = max((other for other in totals.days(version) if other < day), default=None)
        since = None if before is None else Counted(available_at(before), _watermark(self._lake, before, version))
        keys = _changed(self._lake, name, since, end)
        parts = [keys.slice(i, _BATCH_KEYS) for i in range(0, max(keys.num_rows, 1), _BATCH_KEYS)]
        states.replace_day(day, pa.concat_tables([self._states(name, part, end, watermark) for part in parts]), version)
        # The last, since its row says that the day is done.
        totals.replace_day(day, self._totals(name, end, watermark), version)
        return int(keys.num_rows)

    def _states(self, name: str, keys: pa.Table, end: int, watermark: int) -> pa.Table:
        lists = {*self._lake.config.events.of_kind("multi")}
        rows = {column: _listed(keys[column]) if column in lists else keys[column] for column in keys.column_names}
        numbers = self._ask(_of_keys(name), pa.table(rows), end, watermark)
        columns = dict(zip(keys.column_names, keys.columns, strict=True))
        for column in count_states.state_columns(name, self._lake.config.served_counts[name]):
            values = next(numbers)
            columns[count_states.held_name(name, column)] = (
                _newest(values, end) if column.aggregate == "recency" else pa.array(values, mask=np.isnan(values))
            )
        return _daily(columns | {count_states.changed_at(name): pa.repeat(end, keys.num_rows)}, end)

    def _totals(self, name: str, end: int, watermark: int) -> pa.Table:
        columns = count_states.total_columns(name, self._lake.config.served_counts[name])
        numbers = self._ask(_of_all(name), pa.table({"row": [0]}), end, watermark) if columns else iter(())
        sums = {count_states.total_name(column): pa.array(next(numbers)) for column in columns}
        return _daily(sums | {count_states.counted_until(name): pa.array([end])}, end)

    def _ask(self, definition: str, rows: pa.Table, end: int, watermark: int) -> Iterator[NDArray[np.float64]]:
        at = np.full(rows.num_rows, end, np.int64)
        return iter(self._engine.features(rows, at, watermark, names=[definition]).values())


def tables_of(lake: Project, name: str) -> tuple[Table, Table]:
    """The tables of a definition: its keys' numbers, and those of all keys together."""
    return lake.table(count_states.states_table(name)), lake.table(count_states.totals_table(name))


def counted_events(lake: Project) -> dict[Day, int]:
    """Of each day with events: how many its numbers are counted from."""
    counts = sorted(lake.events.counts().items())
    return dict(zip((day for day, _ in counts), accumulate(rows for _, rows in counts), strict=True))


def stale_days(lake: Project, days: Iterable[Day]) -> list[Day]:
    """Those of the days of which a served definition's numbers are missing, or were counted from other events."""
    events = counted_events(lake)
    served = {lake.config.count_version(name): tables_of(lake, name)[1] for name in lake.config.served_counts}
    written = {(version, day) for version, totals in served.items() for day in totals.days(version)}
    counted = {
        (metric.labels.get("version"), metric.day): metric.value for metric in lake.catalog.metrics(COUNTED, job=COUNTS)
    }

    def current(version: str, day: Day) -> bool:
        return (version, day) in written and counted.get((version, day)) == events[day]

    return [day for day in days if day in events and not all(current(version, day) for version in served)]


def _with_states(config: Config) -> Config:
    """A config that also declares what is held of each served definition; its aggregations share the definitions' streams."""
    declared = dict(config.definitions)
    for name, count in config.served_counts.items():
        declared[_of_keys(name)] = count_states.state_of(count)
        if (totals := count_states.totals_of(count)) is not None:
            declared[_of_all(name)] = totals
    return Config.model_construct(**dict(config) | {"counts": declared})


def _of_keys(name: str) -> str:
    return f"{name} of keys"  # no name in a file has spaces


def _of_all(name: str) -> str:
    return f"{name} of all"


def _watermark(lake: Project, day: Day, version: str) -> int:
    """The watermark that a day was counted with."""
    metrics = lake.catalog.metrics(WATERMARK, day=day, job=COUNTS)
    return max((int(m.value or 0) for m in metrics if m.labels.get("version") == version), default=0)


def _changed(lake: Project, name: str, since: Counted | None, end: int) -> pa.Table:
    """The keys whose numbers at `end` (us) may be others than those that were counted, sorted; each combination once."""
    count = lake.config.served_counts[name]
    (recipe,) = recipes(lake.config, {name: count})
    columns = list(count_states.key_columns(count))
    wanted = sorted({*recipe.values.columns, *columns, "ingested_at"})
    windows = [window // _MICRO for window in count.windows if window is not None]
    found = [_distinct(lake.events.schema.empty_table().select(columns))]
    for day in _days(lake, recipe.values, windows, since, end):
        events = lake.events.read(day=day, columns=wanted)
        timestamps, known_from, _ = facts(recipe.values, events)
        changed = known_from < end
        if since is not None:
            new = (known_from >= since.end) | (as_micros(events["ingested_at"]) > since.watermark)
            for window in windows:
                new |= (timestamps >= since.end - window) & (timestamps < end - window)
            changed &= new
        found.append(_distinct(events.filter(pa.array(changed)).select(columns)))
    return _distinct(pa.concat_tables(found)).sort_by([(column, "ascending") for column in columns])


def _days(lake: Project, stream: CountStream, windows: Sequence[int], since: Counted | None, end: int) -> list[Day]:
    """Days whose events may change a number from then to before `end` (us)."""
    days = [day for day in lake.events.days() if day_start(day) < end]
    if since is None:
        return days
    spans = [(since.end, end), *((since.end - window, end - window) for window in windows)]
    wanted = {day for low, high in spans for day in days_between(day_of(low), day_of(high - 1))}
    if (newest := lake.watermark()) > since.watermark:
        wanted |= {*lake.events.days_with("ingested_at", _instant(since.watermark), _instant(newest))}
    # Where no label becomes known later than its event, nothing of an earlier day can be new.
    labels = {f.label for f in stream.where if f.label} | ({stream.label} if stream.label else set())
    for label in sorted(labels) if stream.late else ():
        known = known_at_column(label)
        wanted |= {*lake.events.days_with(known, _instant(since.end - _LOG_US), _instant(end + _LOG_US))}
    return [day for day in days if day in wanted]


def _distinct(rows: pa.Table) -> pa.Table:
    """Each combination of keys once: values of a list one by one, and none where a key is missing."""
    for i, column in enumerate(rows.column_names):
        if pa.types.is_list(rows[column].type):
            owners, values = exploded(rows[column])
            rows = rows.take(pa.array(owners)).set_column(i, column, values)
    keys = rows.drop_null().group_by(rows.column_names).aggregate([])
    return keys.select(rows.column_names)


def _listed(values: pa.ChunkedArray) -> pa.Array:
    """Lists of one value each."""
    flat = values.combine_chunks()
    return pa.ListArray.from_arrays(pa.array(np.arange(len(flat) + 1), pa.int32()), flat)


def _newest(ages: NDArray[np.float64], end: int) -> pa.Array:
    """The instants (us) that lie so many seconds before `end`; null where there is none."""
    missing = np.isnan(ages)
    return pa.array(end - np.rint(np.where(missing, 0.0, ages) * 1e6).astype(np.int64), mask=missing)


def _daily(columns: dict[str, Any], end: int) -> pa.Table:
    table = pa.table(columns)
    return table.append_column("available_at", pa.repeat(pa.scalar(end, TIMESTAMP), table.num_rows))


def _instant(micros: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=micros)
