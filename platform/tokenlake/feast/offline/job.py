"""`Retrieval`: a retrieval job that computes its table when it is asked for, once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from typing_extensions import override


class TokenlakeRetrievalJob(RetrievalJob):
    """A retrieval.

    Args:
        compute: makes the table, without what on-demand views add.
        config: of the feature repository.
        full_feature_names: whether features are called `view__feature`.
        on_demand_feature_views: what Feast adds to the table.
        metadata: what was asked.
    """

    def __init__(
        self,
        compute: Callable[[], pa.Table],
        config: RepoConfig,
        *,
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._compute = compute
        self._config = config
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = on_demand_feature_views or []
        self._metadata = metadata

    @cached_property
    def _table(self) -> pa.Table:
        return self._compute()

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """What Feast adds to the table."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked; None for a pull."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._table

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    @override
    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None
    ) -> None:
        """Write the table, on-demand features included, where a saved dataset lies: Parquet or Delta.

        Raises:
            SavedDatasetLocationAlreadyExists: something lies there, and may not be overwritten.
            ConfigError: storage that is no file.
        """
        from tokenlake.feast.offline.write import write_saved

        write_saved(self.to_arrow(), storage, self._config, overwrite=bool(allow_overwrite))
