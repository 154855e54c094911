"""`TokenlakeOfflineStore`: Feast's offline store over Parquet, Delta, the lake's tables and token stores."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import StrictStr
from typing_extensions import override

from tokenlake.feast.offline.historical import historical
from tokenlake.feast.offline.job import TokenlakeRetrievalJob
from tokenlake.feast.offline.opening import read_rows
from tokenlake.feast.offline.scan import ScanRequest, pull_all, pull_latest
from tokenlake.feast.sequences import latest
from tokenlake.feast.sources import TokenSource, open_lake

_NOT_GIVEN = "(not given)"


class TokenlakeOfflineStoreConfig(FeastConfigBaseModel):
    """`offline_store: {type: tokenlake.feast.TokenlakeOfflineStore}` in feature_store.yaml."""

    type: StrictStr = "tokenlake.feast.TokenlakeOfflineStore"
    #: The lake's folder, relative to the feature repository; without it the repository's parent folder.
    lake: StrictStr | None = None
    #: Whether a row is visible only strictly after its time; a source's tag `strict` overrides it.
    strict: bool = False


class TokenlakeOfflineStore(OfflineStore):
    """Point-in-time joins that take hardly longer than decoding the files (docs/feast-stores.md)."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    @override
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Features as of each entity row's time: the entity rows in their order, null for a missing feature."""
        return historical(
            config,
            feature_views,
            feature_refs,
            entity_df,
            registry,
            project,
            full_names=full_feature_names,
            known=filter_by_created_timestamp,
            start=kwargs.get("start_date"),
            end=kwargs.get("end_date"),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: dt.datetime | None = None,
        end_date: dt.datetime | None = None,
    ) -> RetrievalJob:
        """The latest row of each key from `start_date` to `end_date`, both included.

        For a `TokenSource`, the sequence before `end_date` of each user with a token since `start_date`.
        """
        pull = ScanRequest(
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column or None,
            start_date,
            end_date,
        )
        if isinstance(data_source, TokenSource):
            return _sequences(config, data_source, pull)
        return TokenlakeRetrievalJob(
            lambda: read_rows(data_source, config, lambda rows: pull_latest(rows, pull)), config
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = _NOT_GIVEN,
        start_date: dt.datetime | None = None,
        end_date: dt.datetime | None = None,
    ) -> RetrievalJob:
        """All rows from `start_date` to `end_date`, both included; for a `TokenSource` as `pull_latest_...`.

        Materialization passes `created_timestamp_column`, even if it is None; saved datasets and logs do not. For
        materialization, of rows with equal keys and times only the last is returned: Feast would use any of them.
        """
        is_materialization = created_timestamp_column != _NOT_GIVEN
        pull = ScanRequest(
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            (created_timestamp_column or None) if is_materialization else None,
            start_date,
            end_date,
            standing=is_materialization,
        )
        if isinstance(data_source, TokenSource):
            return _sequences(config, data_source, pull)
        return TokenlakeRetrievalJob(lambda: read_rows(data_source, config, lambda rows: pull_all(rows, pull)), config)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the files of a feature view."""
        from tokenlake.feast.offline.write import append

        append(config, feature_view, table)
        if progress is not None:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Append served features of a feature service to its log, a folder of Parquet files."""
        from tokenlake.feast.offline.write import write_logs

        write_logs(config, data, source.get_schema(registry), logging_config.destination)


def _sequences(config: RepoConfig, source: TokenSource, pull: ScanRequest) -> TokenlakeRetrievalJob:
    columns = [*pull.keys, *pull.features]
    return TokenlakeRetrievalJob(lambda: latest(source, open_lake(config), columns, pull.start, pull.end), config)
