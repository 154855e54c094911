"""A day's user and item embeddings."""

from __future__ import annotations

from airflow.sdk import PartitionedAssetTimetable, dag, get_current_context, task

from tokenlake.config import EMBEDDINGS
from tokenlake.scheduling.tasks import FOLLOWING, WAITING, asset, lake_config, run_job, wait_for_earlier_days

CONFIG = lake_config()
BUCKETS = CONFIG.embeddings.buckets if CONFIG.embeddings else 0
OUT = asset(CONFIG, "user_embeddings")


@dag(schedule=PartitionedAssetTimetable(assets=asset(CONFIG, "events")), **FOLLOWING)
def tokenlake_user_embeddings() -> None:
    """For each day of events, make the embeddings of all active users, and of all items met (ALURE).

    It runs beside `tokenlake_instance_tokens`, and neither waits for the other. Days may start in any order: each waits
    until the earlier ones are done.
    """

    @task(**WAITING)
    async def earlier_days() -> object:
        """Wait until every earlier day has been embedded."""
        return await wait_for_earlier_days(EMBEDDINGS)

    @task
    def train() -> object:
        """Train the user encoder's checkpoint that the day's plan names, on earlier days."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.train_embeddings, lineage=EMBEDDINGS)

    @task(max_active_tis_per_dag=None, map_index_template="{{ users }}")
    def embed(bucket: int) -> object:
        """Embed one part of the day's active users."""
        from tokenlake.pipeline import jobs

        get_current_context()["users"] = f"part {bucket + 1} of {BUCKETS}"
        return run_job(jobs.embed_bucket, lineage=EMBEDDINGS, bucket=bucket, buckets=BUCKETS)

    @task(outlets=[OUT])
    def gather() -> object:
        """Put the parts together, with the items: the day's rows of `user_embeddings` and `item_embeddings`."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.gather, lineage=EMBEDDINGS, outlet=OUT, buckets=BUCKETS)

    earlier_days() >> train() >> embed.expand(bucket=list(range(BUCKETS))) >> gather()


if CONFIG.embeddings:
    tokenlake_user_embeddings()
