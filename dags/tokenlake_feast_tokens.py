"""A day's token sequences in Feast."""

from __future__ import annotations

from airflow.sdk import PartitionedAssetTimetable, dag, task

from tokenlake.scheduling.tasks import FOLLOWING, asset, feature_repository, lake_config, run_job

CONFIG = lake_config()
OUT = asset(CONFIG, "feast_tokens")


@dag(schedule=PartitionedAssetTimetable(assets=asset(CONFIG, "instance_tokens")), **FOLLOWING)
def tokenlake_feast_tokens() -> None:
    """For each day of instance tokens, bring Feast's views of token sequences up to it.

    There is such a DAG where `feature_repo` names a `TokenSource`.
    """

    @task(outlets=[OUT])
    def materialize() -> object:
        """Register what `feature_repo` defines, and bring the online store up to the end of the day."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.materialize, outlet=OUT)

    materialize()


if feature_repository(naming="TokenSource"):
    tokenlake_feast_tokens()
