"""A day's predictions of every ranker and ensemble."""

from __future__ import annotations

from airflow.sdk import AssetAll, PartitionedAssetTimetable, TaskGroup, dag, task

from tokenlake.config import Ensemble
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
#: What the models read: tokens of encoders, or events alone.
READ = sorted({encoder for ranker in CONFIG.rankers.values() for encoder in ranker.encoders(CONFIG.tokens)})
SOURCES = [tokens_asset(CONFIG, encoder) for encoder in READ] or [asset(CONFIG, "events")]


@dag(schedule=PartitionedAssetTimetable(assets=SOURCES[0] if len(SOURCES) == 1 else AssetAll(*SOURCES)), **FOLLOWING)
def tokenlake_models() -> None:
    """For each day, train the rankers on earlier days and predict the day, then do so for their ensembles.

    It waits for the tokens that any of them reads. Days may start in any order: each waits until the earlier ones are done.
    """
    predicted = {name: _chain(name) for name in CONFIG.models}
    for name, model in CONFIG.models.items():
        if isinstance(model, Ensemble):
            for member in model.ensemble:
                predicted[member][1] >> predicted[name][0]


def _chain(model: str) -> tuple[object, object]:
    """The tasks of a model; returns the first one and the last one."""
    out = asset(CONFIG, "predictions", model)

    @task(**WAITING)
    async def earlier_days() -> object:
        """Wait until every earlier day has been predicted."""
        return await wait_for_earlier_days(model)

    @task
    def train() -> object:
        """Train the checkpoint that the day's plan names, on earlier days; of an ensemble, fit its weights."""
        from tokenlake.pipeline import models

        return run_job(models.train_model, lineage=model)

    @task(outlets=[out])
    def predict() -> object:
        """Predict the day's rows that have a label."""
        from tokenlake.pipeline import models

        return run_job(models.predict, lineage=model, outlet=out)

    with TaskGroup(model):
        first, last = earlier_days(), predict()
        first >> train() >> last
    return first, last


if CONFIG.models:
    tokenlake_models()
