"""A day's instance tokens, of every encoder."""

from __future__ import annotations

from airflow.sdk import PartitionedAssetTimetable, TaskGroup, dag, task

from tokenlake.scheduling.tasks import (
    FOLLOWING,
    WAITING,
    asset,
    lake_config,
    run_job,
    tokens_asset,
    wait_for_earlier_days,
)

CONFIG = lake_config()
SERVING = CONFIG.tokens.serving_name


@dag(schedule=PartitionedAssetTimetable(assets=asset(CONFIG, "events")), **FOLLOWING)
def tokenlake_instance_tokens() -> None:
    """For each day of events, make the instance tokens of every encoder: train, encode, publish.

    Days may start in any order: each waits until the earlier ones are done.
    """
    for encoder in sorted(CONFIG.tokens.encoders, key=lambda name: name != SERVING):
        _chain(encoder)


def _chain(encoder: str) -> None:
    # Whoever only needs tokens waits for `instance_tokens`; another encoder's are an asset of their own.
    tokens = tokens_asset(CONFIG, encoder)
    weight = 10 if encoder == SERVING else 1

    @task(priority_weight=weight, **WAITING)
    async def earlier_days() -> object:
        """Wait until every earlier day has been published."""
        return await wait_for_earlier_days(encoder)

    @task(priority_weight=weight)
    def train() -> object:
        """Train the checkpoint that the day's plan names, on earlier days."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.train, lineage=encoder)

    @task(priority_weight=weight)
    def encode() -> object:
        """Encode the day's events into tokens and predictions."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.encode, lineage=encoder)

    @task(priority_weight=weight, outlets=[tokens])
    def publish() -> object:
        """Put the day's tokens into the token store."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.publish, lineage=encoder, outlet=tokens)

    with TaskGroup(encoder):
        earlier_days() >> train() >> encode() >> publish()


tokenlake_instance_tokens()
