"""Historical features: the features of some views as of each entity row's time."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.entities import Entities
from tokenlake.feast.offline.job import TokenlakeRetrievalJob
from tokenlake.feast.offline.join import join
from tokenlake.feast.offline.opening import read_rows
from tokenlake.feast.offline.snapshot import entities_at, limited
from tokenlake.feast.sequences import fetch_columns, store_of
from tokenlake.feast.sources import TokenSource, open_lake
from tokenlake.feast.views import RequestedView, on_demand_views, requested, strict_by_default


def historical(
    config: RepoConfig,
    feature_views: list[FeatureView],
    feature_refs: list[str],
    entity_df: Any,
    registry: BaseRegistry,
    project: str,
    *,
    full_names: bool,
    known: bool,
    start: dt.datetime | None,
    end: dt.datetime | None,
) -> TokenlakeRetrievalJob:
    """The retrieval job of `TokenlakeOfflineStore.get_historical_features`."""
    strict = strict_by_default(config)
    views = [
        RequestedView.of(view, features, full_names=full_names, strict=strict)
        for view, features in requested(feature_refs, feature_views, registry, project).items()
    ]
    if entity_df is None:
        views, first, last = limited(views, feature_views, start, end)
        entities = entities_at(views, config, first, last)
    else:
        entities = Entities.of(entity_df, config)
    for view in views:
        if missing := [name for name in view.keys if name not in entities.table.column_names]:
            raise SchemaError(
                f"entity_df: no columns {missing}, the join keys of feature view {view.name}; it has "
                f"{entities.table.column_names}"
            )

    def features_of(view: RequestedView) -> list[pa.ChunkedArray]:
        if isinstance(view.source, TokenSource):
            users = entities.table[view.user].combine_chunks()
            tokens = store_of(view.source, open_lake(config))
            return fetch_columns(view.source, tokens, users, entities.times, list(view.features.values()))
        return read_rows(
            view.source, config, lambda rows: join(view, rows, entities.table, entities.times, known=known)
        )

    def compute() -> pa.Table:
        table = entities.table
        for view in views:
            for name, column in zip(view.features, features_of(view), strict=True):
                table = add(table, name, column)
        return table

    return TokenlakeRetrievalJob(
        compute,
        config,
        full_feature_names=full_names,
        on_demand_feature_views=on_demand_views(feature_refs, registry, project),
        metadata=metadata(feature_refs, entities),
    )


def metadata(refs: list[str], entities: Entities) -> RetrievalMetadata:
    """Feast's metadata of a retrieval."""
    keys = [name for name in entities.table.column_names if name != entities.timestamp]
    return RetrievalMetadata(refs, keys, *entities.span)


def add(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Add a feature column; as in Feast, `__` is appended to a name that an entity column has already."""
    return table.append_column(f"{name}__" if name in table.column_names else name, column)
