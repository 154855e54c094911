"""A day's indexes of users and items."""

from __future__ import annotations

from airflow.sdk import PartitionedAssetTimetable, dag, task

from tokenlake.config import EMBEDDINGS
from tokenlake.scheduling.tasks import FOLLOWING, asset, lake_config, run_job

CONFIG = lake_config()
OUT = asset(CONFIG, "index")


@dag(schedule=PartitionedAssetTimetable(assets=asset(CONFIG, "user_embeddings")), **FOLLOWING)
def tokenlake_index() -> None:
    """For each day of embeddings, build FAISS indexes of the users and of the items, and measure their recall."""

    @task(outlets=[OUT])
    def index() -> object:
        """Build the day's indexes, unless those of the same vectors stand already."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.index, lineage=EMBEDDINGS, outlet=OUT)

    index()


if CONFIG.embeddings:
    tokenlake_index()
