"""The head of all of Tokenlake's DAGs: a day's events."""

from __future__ import annotations

from airflow.sdk import CronPartitionTimetable, dag, task

from tokenlake.scheduling import TAG
from tokenlake.scheduling.tasks import RETRYING, asset, lake_config, run_job

EVENTS = asset(lake_config(), "events")


@dag(
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    catchup=False,
    max_active_runs=1,
    default_args=RETRYING,
    tags=[TAG],
)
def tokenlake_ingest() -> None:
    """Every day, ingest the events of the day before.

    The day is the partition key (`2017-03-01`). All other DAGs of a day wait for the partition of the asset that this
    DAG publishes. A day without events is skipped, and starts no other DAG.
    """

    @task(outlets=[EVENTS])
    def ingest() -> object:
        """Ingest the day's raw files."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.ingest, outlet=EVENTS)

    ingest()


tokenlake_ingest()
