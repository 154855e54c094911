"""`TokenlakeRetrievalJob`: computes its table at the first read, once."""

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
    """A retrieval job.

    Args:
        compute: returns the table, without the features of on-demand views.
        config: of the feature repository.
        full_feature_names: whether features are named `view__feature`.
        on_demand_feature_views: views whose features Feast adds to the table.
        metadata: Feast's metadata of the retrieval.
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
        """Whether features are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views whose features Feast adds to the table."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Feast's metadata of the retrieval; None for a pull."""
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
        """Write the table, on-demand features included, as a saved dataset in Parquet or Delta.

        Raises:
            SavedDatasetLocationAlreadyExists: the place is taken, and `allow_overwrite` is False.
            ConfigError: the storage is not a file.
        """
        from tokenlake.feast.offline.write import write_saved

        write_saved(self.to_arrow(), storage, self._config, overwrite=bool(allow_overwrite))
