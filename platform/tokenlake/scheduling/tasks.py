"""Helpers of the DAG files: the lake, its assets, and the function that runs a job as a task.

DAG files are parsed every few seconds, so this module imports no large package; a task imports its job when it runs.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import Asset, ExceptionRetryPolicy, RetryAction, RetryRule, get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tokenlake.config import EMBEDDINGS, FILE_NAME, Config
from tokenlake.errors import ConfigError, OrderError, TerminalError
from tokenlake.scheduling import LAKE_VARIABLE, TAG

if TYPE_CHECKING:
    from tokenlake.pipeline.job import JobResult
    from tokenlake.times import Day

#: Default arguments of every task. Terminal errors fail at once. All others, such as a full disk or a killed process,
#: are tried again after 5, 10, 20, ... seconds, for about half an hour.
RETRYING: dict[str, Any] = {
    "retries": 10,
    "retry_delay": dt.timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": dt.timedelta(minutes=5),
    "retry_policy": ExceptionRetryPolicy(
        [RetryRule(TerminalError, RetryAction.FAIL, reason="a terminal error: trying again changes nothing")]
    ),
    # Tasks of a started day come before those of a new day: with Airflow's default rule, tasks that wait for an
    # earlier day would take the slots that the earlier day needs.
    "weight_rule": "upstream",
}
#: Arguments of a DAG that another DAG's asset starts.
FOLLOWING: dict[str, Any] = {
    "catchup": False,
    "max_active_runs": 16,  # with 1, a day that starts too early would block the day that it waits for
    "is_paused_upon_creation": False,  # it only runs after `tokenlake_ingest`
    # One day at a time for each task: a second one would only wait for the first one's lock.
    "default_args": RETRYING | {"max_active_tis_per_dag": 1},
    "tags": [TAG],
}
#: Arguments of a task that waits for earlier days. It holds one of Airflow's slots for a few seconds at a time, and is
#: tried again for about nine hours, since many earlier days may have to be trained first.
WAITING: dict[str, Any] = {"retries": 500, "max_retry_delay": dt.timedelta(minutes=1)}
#: Seconds that such a task waits before it frees its slot, and seconds between two checks of the catalog. Both are
#: short, since the day that it waits for needs the same slot.
PATIENCE, _LOOK = 2.0, 0.5


def lake_folder() -> Path:
    """Folder of the lake that the DAGs work on.

    Raises:
        ConfigError: the environment does not name one.
    """
    if not (folder := os.environ.get(LAKE_VARIABLE)):
        raise ConfigError(
            f"the environment of Airflow has no {LAKE_VARIABLE}; set it, for all of Airflow's services, to the folder "
            f"that holds {FILE_NAME} (`tokenlake airflow LAKE` does)"
        )
    return Path(folder)


def lake_config() -> Config:
    """The lake's `tokenlake.yaml`: which project, which encoders."""
    return Config.load(lake_folder() / FILE_NAME)


def asset(config: Config, *name: str) -> Asset:
    """The asset of a job's output, whose partitions are days: `x-tokenlake://<project>/<name>`."""
    return Asset("x-tokenlake://" + "/".join(quote(part, safe="") for part in (config.project, *name)))


def tokens_asset(config: Config, encoder: str) -> Asset:
    """The asset of an encoder's tokens; of the serving one it is `instance_tokens` alone, whichever that is."""
    return asset(config, "instance_tokens", *([] if encoder == config.tokens.serving_name else [encoder]))


def feature_repository(naming: str = "") -> bool:
    """Whether the lake has a Feast feature repository with a file that contains `naming`; its files are not run."""
    folder = lake_folder() / "feature_repo"
    there = (folder / "feature_store.yaml").is_file()
    return there and any(naming in file.read_text(encoding="utf-8", errors="replace") for file in folder.glob("*.py"))


def run_job(
    job: Callable[..., JobResult], *, lineage: str | None = None, outlet: Asset | None = None, **arguments: object
) -> dict[str, Any]:
    """Run one of `tokenlake.pipeline.jobs` for the partition of the current task.

    Args:
        job: the function.
        lineage: the encoder or model whose version the job gets, or `EMBEDDINGS`; None for a job without versions.
        outlet: the asset that the task publishes; its event holds the job's summary.
        arguments: arguments of the job other than lake, day and version.

    Returns:
        The job's summary, for Airflow's page: it becomes the task's return value.

    Raises:
        AirflowSkipException: the job had nothing to do, such as on a day without events; downstream tasks are skipped,
            and the asset gets no event.
        AirflowFailException: the run has no partition key.
    """
    import tokenlake

    day = _partition()
    lake = tokenlake.open(lake_folder())
    version = version_of(lake.config, lineage) if lineage else None
    result = job(lake, day, *filter(None, [version]), **arguments)
    if result.status == "skipped":
        raise AirflowSkipException(f"{result.day}: {result.summary.get('reason', 'nothing to do')}")
    written: dict[str, Any] = {"day": str(day)} | ({"version": version} if version else {}) | result.summary
    if outlet is not None:
        get_current_context()["outlet_events"][outlet].extra = written
    return written


async def wait_for_earlier_days(lineage: str, patience: float = PATIENCE) -> dict[str, Any]:
    """Wait until every day with events before the current task's partition is done.

    Args:
        lineage: an encoder, a model, or `EMBEDDINGS`.
        patience: most seconds to wait; the scheduler then gives the slot to another task, and tries again later.

    Returns:
        The day, and the seconds waited.

    Raises:
        OrderError: an earlier day is still not done.
        AirflowFailException: the run has no partition key.
    """
    import tokenlake
    from tokenlake.pipeline.plan import require_order

    day = _partition()
    lake = tokenlake.open(lake_folder())
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        try:
            require_order(lake, version_of(lake.config, lineage), day)
        except OrderError:
            if waited > patience:
                raise
        else:
            return {"day": str(day), "waited": round(waited)}
        await asyncio.sleep(_LOOK)


def version_of(config: Config, lineage: str) -> str:
    """The version of an encoder, of a model, or of `EMBEDDINGS`."""
    if lineage == EMBEDDINGS:
        return config.embedding_version
    return config.model_version(lineage) if lineage in config.models else config.version_of(lineage)


def _partition() -> Day:
    """The day of the current task's partition."""
    from tokenlake.times import as_day

    context: Any = get_current_context()
    key = context["dag_run"].partition_key
    if not key:
        raise AirflowFailException(
            "this run has no partition key, so there is no day to work on; trigger the DAG with a partition key such "
            "as 2017-03-01 (`airflow dags test` can give none)"
        )
    return as_day(key)
