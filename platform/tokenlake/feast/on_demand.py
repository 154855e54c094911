"""On-demand views that are written online: what they say of their sources' newest rows.

`FeatureStore.materialize` has a way of its own for them. It lets an input overwrite a feature of the same name, knows no
stream views, field mappings or sources of several time columns, and with several sources lets chance decide as of which
of their times a feature is; this does neither, and gives the same where that one is right.
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
    """Whether a view needs data of a request, so that nothing but `FeatureStore.write_to_online_store` fills it."""
    return bool(view.source_request_sources) or not view.source_feature_view_projections


def compute(store: FeatureStore, view: OnDemandFeatureView, start: dt.datetime, end: dt.datetime) -> int:
    """Write the features of every entity whose sources have a row from `start` to `end`, as of the newest of them.

    As Feast writes on-demand features, they bear the present time: they were computed now.

    Returns:
        Rows written.

    Raises:
        ConfigError: no source tells of which entities the view is, or it has nothing that transforms.
        SchemaError: the transformation gives other rows than it was given.
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
    """Each entity, and as of when its features are wanted."""
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
    moments = pd.to_datetime(found[EVENT_TIMESTAMP], utc=True)
    found[EVENT_TIMESTAMP] = _sight(moments, [source_of(source) for source in sources], store, end)
    each: Any = found.groupby(keys, dropna=False, as_index=False)[EVENT_TIMESTAMP].max() if keys else None
    return found.nlargest(1, EVENT_TIMESTAMP) if each is None else pd.DataFrame(each)


def _sight(moments: pd.Series, sources: list[DataSource | None], store: FeatureStore, end: dt.datetime) -> pd.Series:
    """When rows of these times are seen, also those that are seen only after their time."""
    if any(isinstance(source, TokenSource) for source in sources):
        return pd.Series(
            pd.Timestamp(end), moments.index
        )  # a sequence ends strictly before the time: so all that there is
    default = strict_by_default(store.config)
    strict = any(is_strict(source, default=default) for source in sources if source is not None)
    return moments + _MICRO if strict else moments


def _inputs(store: FeatureStore, view: OnDemandFeatureView, asked: pd.DataFrame) -> pa.Table:
    """The sources' features as of these times, each under its own name and `view__name`, as transformations know them."""
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
    """What the transformation makes of its inputs, beside the keys."""
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
    """A singleton's transformation takes one row; what it gives in a list of one is the value."""
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
