"""What every job shares: its record in the catalog, its result, and errors that tell a scheduler whether to try again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tokenlake.catalog import Run
from tokenlake.errors import CorruptionError, TrainingError, missing_extra, storage_error
from tokenlake.lake.project import Project
from tokenlake.times import Day
from tokenlake_kernels.errors import KernelError
from tokenlake_models.errors import CheckpointError, ModelError

#: What a summary holds.
Value: TypeAlias = int | float | str | None


@dataclass(frozen=True)
class JobResult:
    """What a job did.

    Attributes:
        status: `skipped` where the day has no events.
        summary: what was written, for logs and Airflow's page.
    """

    job: str
    day: Day
    version: str | None
    status: Literal["done", "skipped"]
    summary: dict[str, Value] = field(default_factory=dict)


#: A job of one version's day.
Job: TypeAlias = Callable[[Project, Day, str], JobResult]


@contextmanager
def recorded_job(
    lake: Project, job: str, day: Day, version: str | None = None
) -> Iterator[tuple[Run, dict[str, Value]]]:
    """Record a job in the catalog while the block does it, with the block's counts of rows as metrics.

    Yields:
        The run, and an empty summary for the block to fill.
    """
    summary: dict[str, Value] = {}
    with lake.catalog.run(job, day, version) as run, translated_errors():
        yield run, summary
        for name in ("rows", "accepted", "duplicates", "quarantined", "predictions"):
            measure(run, summary, name)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Translate errors of the disk, the models and the kernels into Tokenlake's, which tell a scheduler whether to try again."""
    try:
        yield
    except CheckpointError as error:
        raise CorruptionError(
            f"{error}; restore it, or delete the checkpoint's whole folder: `tokenlake run DAY --force` trains it again"
        ) from error
    except (ModelError, KernelError) as error:
        raise TrainingError(str(error)) from error
    except ModuleNotFoundError as error:
        if (known := missing_extra(error)) is None:
            raise
        raise known from error
    except OSError as error:
        raise storage_error(error) from error


def has_events(lake: Project, day: Day) -> bool:
    """Whether the lake has events of a day."""
    return day in lake.events.days()


def skipped(lake: Project, job: str, day: Day, version: str | None = None, *, reason: str = "no events") -> JobResult:
    """Record that a job had nothing to do."""
    with lake.catalog.run(job, day, version) as run:
        run.skip(reason)
    return JobResult(job, day, version, "skipped", {"reason": reason})


def measure(run: Run, summary: dict[str, Value], name: str) -> None:
    """Record a number of a job's summary as a metric of that name, where it is one."""
    value = summary.get(name)
    if isinstance(value, int | float):
        run.metric(name, value)
