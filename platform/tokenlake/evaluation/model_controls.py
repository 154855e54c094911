"""Controls of rankers: the same rankers without their sequences, trained and scored on the same days for comparison only.

Each is a lineage of its own in the lake's tables; the daily jobs do not continue it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tokenlake.config import Ranker
from tokenlake.evaluation.controls import is_complete
from tokenlake.lake.project import Project
from tokenlake.progress import Progress

_ENDING = "without-sequences"


@dataclass(frozen=True)
class ModelControl:
    """A ranker without its sequences.

    Attributes:
        of: name of the ranker.
        lake: the lake with this control as its only model.
    """

    of: str
    lake: Project

    @property
    def name(self) -> str:
        """Name in the report."""
        return f"{self.of} without sequences"

    def version(self, _lake: Project) -> str:
        """The version of its predictions."""
        return self.lake.config.model_version(f"{self.of}-{_ENDING}")


def controls_of_models(lake: Project) -> list[ModelControl]:
    """A control of each ranker that reads sequences, unless the config names it itself, or another seed of it has one."""
    seen = {_settings(ranker) for ranker in lake.config.rankers.values()}
    controls = []
    for name, ranker in lake.config.rankers.items():
        alone = ranker.model_copy(update={"sequences": {}})
        if _settings(alone) not in seen:
            seen.add(_settings(alone))
            config = lake.config.model_copy(update={"models": {f"{name}-{_ENDING}": alone}})
            controls.append(ModelControl(name, type(lake)(lake.file, config)))
    return controls


def missing_model_controls(lake: Project) -> list[ModelControl]:
    """The controls that have not predicted all days which their rankers have."""
    return [
        control
        for control in controls_of_models(lake)
        if not is_complete(lake, control, lake.catalog.plans(lake.config.model_version(control.of)))
    ]


def parts_of_model_controls(controls: Sequence[ModelControl]) -> list[Callable[[Progress], int]]:
    """Training of each control as a callable for `each_in_its_process`; each returns its number of jobs."""
    return [partial(_train, control) for control in controls]


def _train(control: ModelControl, progress: Progress) -> int:
    from tokenlake.pipeline.backfill import backfill  # imports torch, which a report of what is there does not need

    def report_progress(_: str, done: int, total: int) -> None:
        progress(control.name, done, total)

    version = control.version(control.lake)
    return len(backfill(control.lake, version=version, progress=report_progress).results)


def _settings(ranker: Ranker) -> str:
    return ranker.model_dump_json(exclude={"seed"})
