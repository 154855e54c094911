"""A day's instance tokens, of every encoder."""

from __future__ import annotations

from airflow.sdk import PartitionedAssetTimetable, TaskGroup, dag, task

from tokenlake.scheduling.tasks import RETRYING, asset, lake_config, run_job

CONFIG = lake_config()
SERVING = CONFIG.tokens.serving_name


@dag(
    schedule=PartitionedAssetTimetable(assets=asset(CONFIG, "events")),
    catchup=False,
    max_active_runs=16,  # with 1, a day that came too early would keep out the day that it waits for
    # One day at a time for each task: a second would only wait for the first one's lock.
    default_args=RETRYING | {"max_active_tis_per_dag": 1},
    is_paused_upon_creation=False,  # it runs only when `tokenlake_ingest` does
    tags=["tokenlake"],
)
def tokenlake_instance_tokens() -> None:
    """For each day of events, make the instance tokens of every encoder: train, encode, publish.

    Days may start in any order: a job whose earlier days are not done yet fails with a transient error, and is tried
    again.
    """
    for encoder in sorted(CONFIG.tokens.encoders, key=lambda name: name != SERVING):
        _chain(encoder)


def _chain(encoder: str) -> None:
    # Whoever only needs tokens waits for `instance_tokens`; another encoder's are an asset of their own.
    serving = encoder == SERVING
    tokens = asset(CONFIG, "instance_tokens") if serving else asset(CONFIG, "instance_tokens", encoder)
    weight = 10 if serving else 1

    @task(priority_weight=weight)
    def train() -> object:
        """Train the checkpoint that the day's plan names, on earlier days."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.train, encoder=encoder)

    @task(priority_weight=weight)
    def encode() -> object:
        """Encode the day's events into tokens and predictions."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.encode, encoder=encoder)

    @task(priority_weight=weight, outlets=[tokens])
    def publish() -> object:
        """Put the day's tokens into the token store."""
        from tokenlake.pipeline import jobs

        return run_job(jobs.publish, encoder=encoder, outlet=tokens)

    with TaskGroup(encoder):
        train() >> encode() >> publish()


tokenlake_instance_tokens()
