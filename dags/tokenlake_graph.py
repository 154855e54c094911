"""A day's graph of similar users."""

from __future__ import annotations

from airflow.sdk import PartitionedAssetTimetable, dag, task

from tokenlake.config import EMBEDDINGS
from tokenlake.scheduling.tasks import FOLLOWING, asset, lake_config, run_job

CONFIG = lake_config()
OUT = asset(CONFIG, "graph")


@dag(schedule=PartitionedAssetTimetable(assets=asset(CONFIG, "index")), **FOLLOWING)
def tokenlake_graph() -> None:
    """For each day's index, link similar users by learned weights."""

    @task(outlets=[OUT])
    def graph() -> object:
        """Fit the edge weights on earlier days, and write the day's graph and rows of `edges`."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.graph, lineage=EMBEDDINGS, outlet=OUT)

    graph()


if CONFIG.embeddings:
    tokenlake_graph()
