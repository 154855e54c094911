"""`TokenlakeComputeEngine`: Feast's local engine, with column-wise materialization into Tokenlake's online store."""

from __future__ import annotations

from typing import Any, Literal

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.compute_engines.utils import create_offline_store_retrieval_job
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel

from tokenlake.feast.kinds import is_plain, tokens_of
from tokenlake.feast.online.store import TokenlakeOnlineStore


class TokenlakeComputeEngineConfig(FeastConfigBaseModel):
    """`batch_engine:` of a `feature_store.yaml`.

    Attributes:
        type: `tokenlake.feast.TokenlakeComputeEngine`.
        backend: data frame library of Feast's own steps, as in its local engine.
    """

    type: Literal["tokenlake.feast.TokenlakeComputeEngine", "tokenlake.feast.engine.TokenlakeComputeEngine"] = (
        "tokenlake.feast.TokenlakeComputeEngine"
    )
    backend: str | None = None


class TokenlakeComputeEngine(LocalComputeEngine):
    """Feast's local engine; plain views are copied into Tokenlake's online store without an object per row.

    Feast's own engines create two protobuf objects per row before the online store is called. Views that Feast
    transforms, aggregates, filters or validates, and other online stores, use Feast's own code.
    """

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        view, store = task.feature_view, self.online_store
        source = view.batch_source
        if not isinstance(store, TokenlakeOnlineStore) or source is None or not is_plain(view):
            return super()._materialize_one(registry, task, **kwargs)
        told = LocalMaterializationJob(
            job_id=f"{view.name}-{task.start_time}-{task.end_time}", status=MaterializationJobStatus.SUCCEEDED
        )
        if tokens_of(view) is not None:
            return told  # served straight from the token store
        try:
            context = self.get_execution_context(registry, task)
            columns = LocalFeatureBuilder(registry, task, self._get_backend(context)).get_column_info(view)
            job = create_offline_store_retrieval_job(source, columns, context, task.start_time, task.end_time)
            table = job.to_arrow()
            mapping = columns.field_mapping or {}
            table = table.rename_columns([mapping.get(name, name) for name in table.column_names])
            if table.num_rows and view.online:
                store.write_arrow(self.repo_config, view, table)
            if table.num_rows and view.offline:
                self.offline_store.offline_write_batch(self.repo_config, view, table, None)
        except Exception as error:  # Feast raises it when the job's status is read
            return LocalMaterializationJob(job_id=told.job_id(), status=MaterializationJobStatus.ERROR, error=error)
        return told
