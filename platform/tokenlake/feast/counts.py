"""Declared aggregations in Feast: views of what is known at a day's end, and views that finish it at a request's instant.

Each served definition gets three views. `count_states_NAME` has a row for each key and day on which its numbers changed,
`count_totals_NAME` one row a day with the sums of all keys together, and `counts_NAME`, on demand, the columns that
`lake.counts` gives at the request's instant `at`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from feast import Entity, FeatureView, Field, OnDemandFeatureView, RequestSource, ValueType
from feast.transformation.udf_rehydrate import rehydrate_udf_from_source
from feast.types import Float64, Int64
from numpy.typing import NDArray

from tokenlake.config import Count, CountColumn, count_states
from tokenlake.errors import ConfigError
from tokenlake.feast.sources import LakeSource
from tokenlake.features.aggregations.query import STRENGTH
from tokenlake.lake.project import Project
from tokenlake.times import as_micros

#: Name of the request's instant, in int64 microseconds: Feast's own type of times keeps whole seconds only.
AT = "at"
Floats: TypeAlias = NDArray[np.float64]
_MICRO = dt.timedelta(microseconds=1)
#: A transformation is stored as text, and made again wherever the registry is read.
_FINISH = """\
def finish(rows):
    from tokenlake.feast.counts import finished
    return finished(rows, {name!r}, {count!r})
"""


def count_views(lake: Project, *entities: Entity) -> dict[str, Any]:
    """The views of every served definition, and the entities of their keys that are not among the given ones.

    Args:
        lake: the lake.
        entities: those that stand in `definitions.py` already, such as `user` and `item`.

    Returns:
        Name -> view or entity, for the module's `globals().update(...)`: Feast registers what a module names. Empty where
        `tokenlake.yaml` has no block `counts`.

    Raises:
        ConfigError: a key is called `at`, which is the name of the request's instant.
    """
    known = {entity.name: entity for entity in entities}
    made: dict[str, Any] = {}
    for name, count in lake.config.served_counts.items():
        for key, column in zip(count.by, count_states.key_columns(count), strict=True):
            if column == AT:
                raise ConfigError(
                    f"counts.{name}: a key called {AT!r} cannot be served, since that is the request's instant; give the "
                    "feature another name (its `column:` says what the source calls it), or write `serve: false`"
                )
            if key not in known:
                known[key] = made[f"key_{key}"] = Entity(name=key, join_keys=[column], value_type=ValueType.STRING)
        views = _views(lake, name, count, [known[key] for key in count.by])
        made |= {view.name: view for view in views}
    return made


def _views(
    lake: Project, name: str, count: Count, keys: list[Entity]
) -> tuple[FeatureView, FeatureView, OnDemandFeatureView]:
    version = lake.config.count_version(name)
    states = FeatureView(
        name=count_states.states_table(name),
        entities=keys,
        schema=_state_fields(name, count),
        source=_source(count_states.states_table(name), version),
        tags={"version": version},
    )
    totals = FeatureView(
        name=count_states.totals_table(name),
        entities=[],
        schema=_total_fields(name, count),
        source=_source(count_states.totals_table(name), version),
        tags={"version": version},
    )
    text = _FINISH.format(name=name, count=count.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    finish: Any = rehydrate_udf_from_source(text)  # as Feast makes it again: what is registered compares equal
    counts = OnDemandFeatureView(
        name=f"counts_{name}",
        sources=[states, totals, RequestSource(name=f"asked_of_{name}", schema=[Field(name=AT, dtype=Int64)])],
        schema=[Field(name=column.name, dtype=Float64) for column in count.columns(name)],
        mode="pandas",
        udf=finish,
        udf_string=text,
        tags={"version": version},
    )
    return states, totals, counts


def _source(table: str, version: str) -> LakeSource:
    return LakeSource(name=table, table=table, version=version, timestamp_field="available_at")


def _state_fields(name: str, count: Count) -> list[Field]:
    columns = count_states.state_columns(name, count)
    return [
        *(
            Field(name=count_states.held_name(name, c), dtype=Int64 if c.aggregate == "recency" else Float64)
            for c in columns
        ),
        Field(name=count_states.changed_at(name), dtype=Int64),
    ]


def _total_fields(name: str, count: Count) -> list[Field]:
    columns = count_states.total_columns(name, count)
    return [
        *(Field(name=count_states.total_name(c), dtype=Float64) for c in columns),
        Field(name=count_states.counted_until(name), dtype=Int64),
    ]


def finished(rows: pd.DataFrame, name: str, count: dict[str, Any]) -> pd.DataFrame:
    """The columns of a definition at the instants of requests; the transformation of `counts_NAME`.

    Args:
        rows: a row a request: `at`, and the columns of `count_states_NAME` and `count_totals_NAME`.
        name: of the definition.
        count: the definition, as in `tokenlake.yaml`.

    Returns:
        float64 columns. A key without a row is one of which nothing was seen: 0 for counts and sums, the mean of all, and
        null for the rest. Everything is null before the first day that was counted.
    """
    requests = _Requests(rows, name, Count.model_validate(count))
    return pd.DataFrame({column.name: requests.finish(column) for column in requests.columns}, rows.index)


class _Requests:
    """Requests of one definition, with what Feast joined to them."""

    def __init__(self, rows: pd.DataFrame, name: str, count: Count) -> None:
        self._rows, self._name, self._count = rows, name, count
        self.columns = list(count.columns(name))
        self._at: Floats = as_micros(rows[AT], AT).astype(np.float64)  # exact, up to the year 2255
        self._key_age = self._at - self._read(count_states.changed_at(name))
        self._total_age = self._at - self._read(count_states.counted_until(name))

    def finish(self, column: CountColumn) -> Floats:
        """A column at the requests' instants; NaN for null."""
        return np.where(np.isnan(self._total_age), np.nan, self._value(column))

    def _value(self, column: CountColumn) -> Floats:
        match column.aggregate:
            case "count" | "known" | "sum":
                return self._sum(column)
            case "mean":
                return self._mean(column)
            case "recency":
                return self._recency(column)
        return self._read(count_states.held_name(self._name, column))

    def _sum(self, column: CountColumn) -> Floats:
        held = self._read(count_states.held_name(self._name, column))
        return np.where(np.isnan(held), 0.0, held * _decay(column, self._key_age))

    def _total(self, column: CountColumn) -> Floats:
        return self._read(count_states.total_name(column)) * _decay(column, self._total_age)

    def _mean(self, column: CountColumn) -> Floats:
        total, number = (
            count_states.part_of(self._name, column, part) for part in count_states.mean_parts(self._count)
        )
        all_total, all_number = self._total(total), self._total(number)
        if self._count.of.label is not None:
            prior = (all_total + 1) / (all_number + 2)
        else:
            prior = np.divide(all_total, all_number, out=np.full(len(all_total), np.nan), where=all_number > 0)
        mean: Floats = (self._sum(total) + STRENGTH * prior) / (self._sum(number) + STRENGTH)
        return mean

    def _recency(self, column: CountColumn) -> Floats:
        age = self._at - self._read(count_states.held_name(self._name, column))
        if column.window is not None:
            age[age > column.window // _MICRO] = np.nan  # it has left the window since the day's end
        return age / 1e6

    def _read(self, name: str) -> Floats:
        return self._rows[name].to_numpy(np.float64, na_value=np.nan)


def _decay(column: CountColumn, age: Floats) -> Floats | float:
    """What is left of a number after some time (us)."""
    return 1.0 if column.half_life is None else np.exp2(-age / (column.half_life // _MICRO))
