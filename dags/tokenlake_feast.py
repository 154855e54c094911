"""A day's features in Feast."""

from __future__ import annotations

from airflow.sdk import PartitionedAssetTimetable, dag, task

from tokenlake.scheduling.tasks import FOLLOWING, asset, feature_repository, lake_config, run_job

CONFIG = lake_config()
SOURCE = asset(CONFIG, "user_embeddings" if CONFIG.embeddings else "events")
OUT = asset(CONFIG, "feast")


@dag(schedule=PartitionedAssetTimetable(assets=SOURCE), **FOLLOWING)
def tokenlake_feast() -> None:
    """For each day of embeddings, count what was done, register the feature views, and fill Feast's online store."""

    @task
    def statistics() -> object:
        """Write the day's `user_statistics`: recent activity of each user."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.statistics)

    @task(outlets=[OUT])
    def materialize() -> object:
        """Register what `feature_repo` defines, and bring the online store up to the end of the day."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.materialize, outlet=OUT)

    if not CONFIG.served_counts:
        statistics() >> materialize()
        return

    @task
    def counts() -> object:
        """Write the day's count states: of each served aggregation, the keys whose numbers changed."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.counts)

    [statistics(), counts()] >> materialize()


if feature_repository():
    tokenlake_feast()
