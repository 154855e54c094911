"""Entity rows of a retrieval without an entity dataframe: every entity with rows in a time range, at its end."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading

import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as EVENT_TIMESTAMP
from feast.repo_config import RepoConfig
from feast.utils import compute_non_entity_date_range

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.entities import Entities
from tokenlake.feast.offline.instants import nanos_of
from tokenlake.feast.offline.opening import read_rows
from tokenlake.feast.offline.rows import Group, SourceRows
from tokenlake.feast.sequences import active
from tokenlake.feast.sources import TokenSource, open_lake
from tokenlake.feast.views import RequestedView
from tokenlake.times import EARLIEST


def limited(
    views: list[RequestedView], feature_views: list[FeatureView], start: dt.datetime | None, end: dt.datetime | None
) -> tuple[list[RequestedView], dt.datetime, dt.datetime]:
    """The views limited to rows since `start`, and the range; without `start` only the views' TTLs limit them."""
    first, last = compute_non_entity_date_range(feature_views, start, end)
    if start is None:
        return views, first, last
    age = nanos_of(last) - nanos_of(first)
    if age < 0:
        raise SchemaError(f"start_date {first} is after end_date {last}")
    return [dataclasses.replace(v, ttl=age if v.ttl is None else min(age, v.ttl)) for v in views], first, last


def entities_at(views: list[RequestedView], config: RepoConfig, start: dt.datetime, end: dt.datetime) -> Entities:
    """The entities with rows in the views, sorted, at the time `end`.

    Raises:
        SchemaError: a view has join keys that the view with the most join keys lacks.
    """
    widest = max(views, key=lambda view: len(view.keys))
    names = list(widest.keys)
    for view in views:
        if extra := [name for name in view.keys if name not in names]:
            raise SchemaError(
                f"feature views {widest.name} and {view.name} are joined by {names} and {extra}; without an entity "
                "dataframe ask for views of the same entities, or pass one"
            )
    found = [_entities(v, config, start, end) for v in views if set(v.keys) == set(names)]
    try:
        table = pa.concat_tables([t.select(names) for t in found], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(
            f"the feature views' sources have join keys {names} of types that never are equal ({error}); without an entity "
            "dataframe ask for views of the same entities, or pass one"
        ) from error
    if names:
        table = table.group_by(names).aggregate([]).drop_null().sort_by([(name, "ascending") for name in names])
        at = pa.repeat(pa.scalar(end, pa.timestamp("us", "UTC")), table.num_rows)
        return Entities(table.add_column(0, EVENT_TIMESTAMP, at))
    return Entities(pa.table({EVENT_TIMESTAMP: pa.array([end], pa.timestamp("us", "UTC"))}))


def _entities(view: RequestedView, config: RepoConfig, start: dt.datetime, end: dt.datetime) -> pa.Table:
    """Distinct keys, nulls included, of a view's rows in the range."""
    if not view.keys:
        return pa.table({})
    if isinstance(view.source, TokenSource):
        return pa.table({next(iter(view.keys)): active(view.source, open_lake(config), start, end)})
    return read_rows(view.source, config, lambda rows: _distinct(view, rows, nanos_of(end)))


def _distinct(view: RequestedView, rows: SourceRows, end: int) -> pa.Table:
    last = end - 1 if view.strict else end
    first = EARLIEST + 1 if view.ttl is None else end - view.ttl
    names = list(view.keys)
    schema = pa.schema([pa.field(n, rows.schema.field(c).type) for n, c in view.keys.items()])
    parts = [schema.empty_table()]
    guard = threading.Lock()

    def reader(_: int, batch: pa.RecordBatch) -> None:
        times = batch.column(len(names)).to_numpy()
        table = pa.Table.from_arrays(batch.columns[: len(names)], schema=schema)
        table = table.filter(pa.array((times >= first) & (times <= last))).group_by(names).aggregate([])
        with guard:
            parts.append(table)

    def may(group: Group) -> bool:
        return group.overlaps(view.timestamp, first, last)

    rows.read_keys(list(view.keys.values()), [view.timestamp], [g for g in rows.groups if may(g)], reader)
    return pa.concat_tables(parts).group_by(names).aggregate([])
