"""What the DAG files share: the lake, its assets, and how a job becomes a task.

DAG files are parsed every few seconds, so this module imports nothing heavy; the jobs come in when a task runs.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import Asset, ExceptionRetryPolicy, RetryAction, RetryRule, get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tokenlake.config import FILE_NAME, Config
from tokenlake.errors import ConfigError, TerminalError
from tokenlake.scheduling import LAKE_VARIABLE

if TYPE_CHECKING:
    from tokenlake.pipeline.jobs import JobResult

#: Default arguments of every task. Terminal errors fail at once. All others, a full disk and a killed process among
#: them, are tried again after 5, 10, 20, ... seconds, for about half an hour.
RETRYING: dict[str, Any] = {
    "retries": 10,
    "retry_delay": dt.timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": dt.timedelta(minutes=5),
    "retry_policy": ExceptionRetryPolicy(
        [RetryRule(TerminalError, RetryAction.FAIL, reason="a terminal error: trying again changes nothing")]
    ),
}


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
    """What a job writes, as an asset whose partitions are days: `x-tokenlake://<project>/<name>`."""
    return Asset("x-tokenlake://" + "/".join(quote(part, safe="") for part in (config.project, *name)))


def run_job(
    job: Callable[..., JobResult], *, encoder: str | None = None, outlet: Asset | None = None
) -> dict[str, Any]:
    """Run one of `tokenlake.pipeline.jobs` for the partition of the current task.

    Args:
        job: the function.
        encoder: the encoder whose version the job is for; None where a job knows no versions.
        outlet: the asset that the task publishes; its event then tells what was written.

    Returns:
        What was written, for Airflow's page: it is also the task's return value.

    Raises:
        AirflowSkipException: the day has no events; the tasks after it skip, and the asset gets no event.
        AirflowFailException: the run has no partition key.
    """
    import tokenlake
    from tokenlake.times import as_day

    context: Any = get_current_context()
    key = context["dag_run"].partition_key
    if not key:
        raise AirflowFailException(
            "this run has no partition key, so there is no day to work on; trigger the DAG with a partition key such "
            "as 2017-03-01 (`airflow dags test` can give none)"
        )
    lake = tokenlake.open(lake_folder())
    version = (lake.config.version_of(encoder),) if encoder else ()
    result = job(lake, as_day(key), *version)
    if result.status == "skipped":
        raise AirflowSkipException(f"{result.day} has no events")
    written = {"day": key, "version": result.version} if encoder else {"day": key}
    written |= result.summary
    if outlet is not None:
        context["outlet_events"][outlet].extra = written
    return written
