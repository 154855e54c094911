"""The job of count states: of each served definition, the keys whose numbers changed on a day, as of the day's end.

A key's number changes when a contribution is seen for the first time, because of its event or of a label that became
known, or when one leaves a window. Feast's join takes a key's newest row, so all other keys keep the row that they have.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.config import Config, Count, count_states
from tokenlake.features.aggregations import Aggregations
from tokenlake.features.aggregations.contributions import known_from
from tokenlake.features.keys import Ints, exploded
from tokenlake.lake.project import Project
from tokenlake.times import DAY_US, EARLIEST, Day, as_micros, available_at, day_of, days_between

COUNTS = "counts"
#: The metric that tells how many events a definition's states of a day were counted from.
COUNTED = "events"
_MICRO = dt.timedelta(microseconds=1)
#: Keys that are computed at once.
_BATCH_KEYS = 1_000_000
#: Definitions of states stand beside those that they are of; no definition of a file has such a name.
_OF_KEYS, _OF_ALL = "{}@keys", "{}@all"


class CountStates:
    """Computes the states of a lake's served definitions."""

    def __init__(self, lake: Project) -> None:
        self._lake = lake
        self._served = lake.config.served_counts
        self._engine = Aggregations(Project(lake.file, _with_states(lake.config)))

    def write_day(self, name: str, day: Day, watermark: int) -> int:
        """Replace a day's rows of a definition's two tables.

        Args:
            name: of the definition.
            day: whose end the numbers stand as of.
            watermark: bound on `ingested_at` (us) of the events that count.

        Returns:
            How many keys changed since the last day before it that was written.
        """
        lake, version, end = self._lake, self._lake.config.count_version(name), available_at(day)
        states, totals = tables_of(lake, name)
        before = max((other for other in totals.days(version) if other < day), default=None)
        keys = self._changed(name, EARLIEST if before is None else available_at(before), end)
        rows = pa.concat_tables([keys.schema.empty_table(), *(self._states(name, part, end, watermark) for part in _parts(keys))])
        states.replace_day(day, rows, version)
        totals.replace_day(day, self._totals(name, end, watermark), version)  # the last, for it tells that the day is done
        return keys.num_rows

    def _states(self, name: str, keys: pa.Table, end: int, watermark: int) -> pa.Table:
        count, key = self._served[name], _OF_KEYS.format(name)
        asked = self._engine.features(_as_rows(self._lake.config, keys), _at(end, keys), watermark, names=[key])
        columns = dict(zip(keys.column_names, keys.columns, strict=True))
        columns = {column: keys[column] for column in keys.column_names}
        for column, numbers in zip(count_states.state_columns(name, count), asked.values(), strict=True):
            missing = np.isnan(numbers)
            if column.aggregate == "recency":
                micros = end - np.rint(np.where(missing, 0.0, numbers) * 1e6).astype(np.int64)
                columns[count_states.held_name(name, column)] = pa.array(micros, mask=missing)
            else:
                columns[count_states.held_name(name, column)] = pa.array(numbers, mask=missing)
        columns[count_states.changed_at(name)] = pa.array(_at(end, keys))
        return pa.table(columns | {"available_at": _instants(end, keys.num_rows)})
