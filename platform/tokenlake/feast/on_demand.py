"""Materializes on-demand views with `write_to_online_store`: their features of the sources' newest rows.

`FeatureStore.materialize` has its own code for them, which has faults: an input overwrites a feature of the same name;
stream views, field mappings and sources with different time columns do not work; and with several sources it is not
defined at which source's time a feature is computed. This module has none of these, and else gives the same values.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureStore, FeatureView, OnDemandFeatureView
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as EVENT_TIMESTAMP
from feast.utils import _convert_arrow_to_proto
from feast.value_type import ValueType

from tokenlake.errors import ConfigError, SchemaError
from tokenlake.feast.kinds import source_of
from tokenlake.feast.plain import BATCH_ROWS, pull
from tokenlake.feast.sources import TokenSource
from tokenlake.feast.views import is_strict, strict_by_default

_MICRO = dt.timedelta(microseconds=1)


def is_pushed_only(view: OnDemandFeatureView) -> bool:
    """Whether a view needs request data, so that only `FeatureStore.write_to_online_store` can fill it."""
    return bool(view.source_request_sources) or not view.source_feature_view_projections


def compute(store: FeatureStore, view: OnDemandFeatureView, start: dt.datetime, end: dt.datetime) -> int:
    """Write the features of every entity with a source row from `start` to `end`, as of its newest row.

    Their event time is the present time, as when Feast writes on-demand features.

    Returns:
        Rows written.

    Raises:
        ConfigError: no source has the view's entities, or the view has no transformation.
        SchemaError: the transformation returns another number of rows than it got.
    """
    sources = _sources(store, view)
    keys = _join_keys(store, view)
    asked = _entities(store, view, sources, keys, start, end)
    if asked.empty:
        return 0
    table = _features(view, _inputs(store, view, asked))
    kinds = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    if not keys:
        table = table.append_column(DUMMY_ENTITY_ID, pa.repeat(pa.scalar(DUMMY_ENTITY_VAL), table.num_rows))
        kinds = {DUMMY_ENTITY_ID: ValueType.STRING}
    online: Any = store.provider.online_store
    for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
        rows = _convert_arrow_to_proto(batch, view, kinds)
        online.online_write_batch(store.config, view, rows, None)
    return int(table.num_rows)


def _sources(store: FeatureStore, view: OnDemandFeatureView) -> list[FeatureView]:
    names = dict.fromkeys(projection.name for projection in view.source_feature_view_projections.values())
    found = [store.registry.get_any_feature_view(name, store.project) for name in names]
    return [source for source in found if isinstance(source, FeatureView)]


def _join_keys(store: FeatureStore, view: OnDemandFeatureView) -> list[str]:
    names = [name for name in view.entities or [] if name != DUMMY_ENTITY_NAME]
    return [store.registry.get_entity(name, store.project).join_key for name in names]


def _entities(
    store: FeatureStore,
    view: OnDemandFeatureView,
    sources: list[FeatureView],
    keys: list[str],
    start: dt.datetime,
    end: dt.datetime,
) -> pd.DataFrame:
    """Each entity, and the time as of which its features are computed."""
    telling = [source for source in sources if set(keys) <= {column.name for column in source.entity_columns}]
    if not keys:
        telling = [source for source in sources if source.entities == [DUMMY_ENTITY_NAME]]
    if not telling:
        raise ConfigError(
            f"on-demand view {view.name!r} is of {keys or 'no entity'}, and none of its sources "
            f"{[source.name for source in sources]} is: so its entities are unknown. Write it by "
            "FeatureStore.write_to_online_store, or give it a source of these entities"
        )
    times = []
    for source in telling:
        column: Any = source_of(source)
        newest = pull(store, source, start, end).select([*keys, column.timestamp_field]).to_pandas()
        times.append(newest.rename(columns={column.timestamp_field: EVENT_TIMESTAMP}))
    found = pd.concat(times, ignore_index=True)
    event_times = pd.to_datetime(found[EVENT_TIMESTAMP], utc=True)
    found[EVENT_TIMESTAMP] = _visible_from(event_times, [source_of(source) for source in sources], store, end)
    each: Any = found.groupby(keys, dropna=False, as_index=False)[EVENT_TIMESTAMP].max() if keys else None
    return found.nlargest(1, EVENT_TIMESTAMP) if each is None else pd.DataFrame(each)


def _visible_from(
    event_times: pd.Series, sources: list[DataSource | None], store: FeatureStore, end: dt.datetime
) -> pd.Series:
    """Times at which rows with these event times are visible, including sources that are visible strictly after them."""
    if any(isinstance(source, TokenSource) for source in sources):
        return pd.Series(
            pd.Timestamp(end), event_times.index
        )  # a sequence ends strictly before the time, so this includes every token
    default = strict_by_default(store.config)
    strict = any(is_strict(source, default=default) for source in sources if source is not None)
    return event_times + _MICRO if strict else event_times


def _inputs(store: FeatureStore, view: OnDemandFeatureView, asked: pd.DataFrame) -> pa.Table:
    """The sources' features as of these times, each under the names `name` and `view__name` that transformations use."""
    projections = view.source_feature_view_projections.values()
    wanted = [(projection.name, field.name) for projection in projections for field in projection.features]
    shared = max(Counter(name for _, name in wanted).values(), default=0) > 1
    job = store.get_historical_features(asked, [f"{of}:{name}" for of, name in wanted], full_feature_names=shared)
    table = job.to_arrow()
    for of, name in wanted:
        short, full = table.column_names.count(name), f"{of}__{name}"
        if full not in table.column_names:
            table = table.append_column(full, table[name])
        elif not short:
            table = table.append_column(name, table[full])
    return table


def _features(view: OnDemandFeatureView, inputs: pa.Table) -> pa.Table:
    """The keys, and the features that the transformation computes from its inputs."""
    transformation = view.feature_transformation
    if transformation is None:
        raise ConfigError(
            f"on-demand view {view.name!r} has no transformation, and so no features to write; give it a udf"
        )
    if view.mode == "python" and view.singleton:
        made = _one_by_one(view, inputs)
    else:
        made = transformation.transform_arrow(inputs, view.features)
    if made.num_rows != inputs.num_rows:
        raise SchemaError(
            f"on-demand view {view.name!r}: its transformation made {made.num_rows} rows of {inputs.num_rows}; expected one "
            "of each. Write such features by FeatureStore.write_to_online_store"
        )
    for field in view.features:
        for name in (field.name, f"{view.name}__{field.name}"):
            if name in made.column_names:
                place = inputs.schema.get_field_index(field.name)
                column = made[name]
                inputs = (
                    inputs.append_column(field.name, column)
                    if place < 0
                    else inputs.set_column(place, field.name, column)
                )
                break
    return inputs


def _one_by_one(view: OnDemandFeatureView, inputs: pa.Table) -> pa.Table:
    """Apply a singleton transformation, which takes one row; a list of one that it returns is replaced by its element."""
    transformation: Any = view.feature_transformation
    lists = {field.name for field in view.features if field.dtype.to_value_type().name.endswith("_LIST")}
    rows = []
    for row in inputs.to_pylist():
        made = transformation.udf(dict(row))
        rows.append({name: _value(value, is_list=name in lists) for name, value in made.items()})
    return pa.Table.from_pylist(rows)


def _value(value: Any, *, is_list: bool) -> Any:
    if not isinstance(value, list) or len(value) != 1 or (is_list and not isinstance(value[0], list)):
        return value
    return value[0]
