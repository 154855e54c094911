"""The daily jobs of models: train a ranker on earlier days, predict the day; an ensemble is fitted and predicts likewise.

They keep the promises of `tokenlake.pipeline.jobs`. A re-run of a day takes its recorded plan, checkpoint and fit, so it
trains nothing and writes the same.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from tokenlake.catalog import Plan, Run
from tokenlake.catalog.catalog import PREDICT
from tokenlake.config import Ensemble, Ranker
from tokenlake.errors import NotFoundError, OrderError
from tokenlake.features import versions
from tokenlake.features.retention import outdated, remove_outdated
from tokenlake.lake.project import Project
from tokenlake.pipeline.job import Job, JobResult, Value, has_events, measure, recorded_job, skipped
from tokenlake.pipeline.plan import ONE_DAY, plan, require_order
from tokenlake.progress import Progress
from tokenlake.storage.locks import hold
from tokenlake.times import Day

TRAIN_MODEL = "train-model"


def train_model(lake: Project, day: Day, version: str, progress: Progress | None = None) -> JobResult:
    """Make sure that the checkpoint which the day's plan names exists: train it on days before `day`.

    Of an ensemble, the weights of its members are fitted on their predictions of days before `day`.

    Raises:
        OrderError: an earlier day with events is not predicted yet, or what the model reads of the day is not there yet.
        LockedError: another process trains this version.
        NotFoundError: the day's checkpoint is not kept any more, and neither are its predictions.
    """
    if not has_events(lake, day):
        return skipped(lake, TRAIN_MODEL, day, version)
    versions.register(lake, version)
    model = _ready(lake, day, version)
    if reason := _not_kept(lake, day, version):
        return skipped(lake, TRAIN_MODEL, day, version, reason=reason)
    with (
        recorded_job(lake, TRAIN_MODEL, day, version) as (run, summary),
        hold(lake.data / "locks" / f"train-{version}", f"training of {version}"),
    ):
        day_plan = plan_of(lake, model, version, day)
        summary |= {"checkpoint": day_plan.checkpoint, "bootstrap": int(day_plan.bootstrap)}
        if isinstance(model, Ensemble):
            from tokenlake.pipeline.predicting import fit_of_day

            fit = fit_of_day(lake, model, day_plan)
            summary |= {"fitted_rows": fit.rows}
            for label, weights in fit.weights.items():
                for member, weight in zip(model.ensemble, weights, strict=True):
                    run.metric("weight", weight, label=label, member=member)
        else:
            _ensure_checkpoint(lake, model, day_plan, run, summary, progress)
            remove_outdated(lake, version)
    return JobResult(TRAIN_MODEL, day, version, "done", summary)


def predict(lake: Project, day: Day, version: str) -> JobResult:
    """Predict the day's rows that have a label by its plan's checkpoint, into `predictions`; the day is done then.

    Raises:
        OrderError, NotFoundError: as `train_model`.
    """
    if not has_events(lake, day):
        return skipped(lake, PREDICT, day, version)
    model = _ready(lake, day, version)
    if reason := _not_kept(lake, day, version):
        result = skipped(lake, PREDICT, day, version, reason=reason)
        lake.catalog.clear_rerun(day, version)
        return result
    with recorded_job(lake, PREDICT, day, version) as (run, summary):
        from tokenlake.pipeline.predicting import measured, predictions_of

        day_plan = plan_of(lake, model, version, day)
        rows = predictions_of(lake, model, day_plan)
        lake.predictions.replace_day(day, rows, version=version)
        summary |= {"rows": rows.num_rows, "checkpoint": day_plan.checkpoint, "bootstrap": int(day_plan.bootstrap)}
        uri = f"{lake.predictions.path}?version={version}&ds={day}"
        run.artefact(lake.predictions.path.name, uri, rows=rows.num_rows)
        for name, value, labels in measured(rows):
            run.metric(name, value, **labels)
    lake.catalog.clear_rerun(day, version, before=run.started_at)
    return JobResult(PREDICT, day, version, "done", summary)


#: The jobs of one model, in their order.
MODEL_JOBS: tuple[Job, ...] = (train_model, predict)


def plan_of(lake: Project, model: Ranker | Ensemble, version: str, day: Day) -> Plan:
    """The recorded plan of a model's day; made and recorded where there is none.

    An ensemble has no checkpoints: its plan names the days whose predictions it is fitted on.

    Raises:
        OrderError: a member of the ensemble has not predicted the day.
    """
    if isinstance(model, Ranker):
        return plan(lake, version, day, learn_days=model.learn_days)
    from tokenlake.pipeline.corrections import DAYS

    require_inputs(lake, model, day)
    members = [lake.catalog.plan(lake.config.model_version(member), day) for member in model.ensemble]
    bootstrap = any(of is not None and of.bootstrap for of in members)
    first, last = day - dt.timedelta(days=DAYS), day - ONE_DAY
    return lake.catalog.record_plan(
        Plan(
            version, day, last.isoformat(), None, first, last, day, day, bootstrap=bootstrap, watermark=lake.watermark()
        )
    )


def require_inputs(lake: Project, model: Ranker | Ensemble, day: Day) -> None:
    """Check that what a model reads of a day is there: tokens of its encoders, or predictions of its members.

    Raises:
        OrderError: it is not there yet; transient, since it may be under way.
    """
    if isinstance(model, Ensemble):
        needed = [(lake.config.model_version(member), "predicted") for member in model.ensemble]
    else:
        needed = [(lake.config.version_of(encoder), "published") for encoder in model.encoders(lake.config.tokens)]
    for version, what in needed:
        if day not in versions.finished(lake, version):
            raise OrderError(
                f"{day} must wait: {version} is not {what} for it yet; `tokenlake backfill {lake.root}` runs everything in order"
            )


def _ready(lake: Project, day: Day, version: str) -> Ranker | Ensemble:
    """The model, whose turn it is."""
    model = versions.model_of(lake, version)
    require_inputs(lake, model, day)
    require_order(lake, version, day)
    return model


def _not_kept(lake: Project, day: Day, version: str) -> str | None:
    """Why a day cannot be predicted again, if so: its checkpoint is one of those that are not kept.

    Raises:
        NotFoundError: it was never predicted, or that is gone.
    """
    recorded = lake.catalog.plan(version, day)
    if recorded is None or recorded.checkpoint not in outdated(lake, version):
        return None
    gone = f"checkpoint {recorded.checkpoint} of {version}, by which {day} was predicted, is not kept any more"
    if day not in versions.finished(lake, version):
        raise NotFoundError(
            f"{gone}, and neither are the predictions; take the model out of {lake.file}, `tokenlake drop` its version, put "
            "it in again, and back-fill"
        )
    return f"{gone}; what it predicted stays"


def _ensure_checkpoint(
    lake: Project, ranker: Ranker, day_plan: Plan, run: Run, summary: dict[str, Value], progress: Progress | None
) -> None:
    if _trained(lake, day_plan):
        return
    from tokenlake.pipeline.ranking import train_ranker_checkpoint

    trained = train_ranker_checkpoint(lake, ranker, day_plan, progress)
    curve: Sequence[tuple[int, float]] = trained.pop("curve")
    summary |= trained
    run.artefact("checkpoint", str(versions.path_of(lake, day_plan.version, day_plan.checkpoint)))
    for name in ("loss", "trained_rows", "targets"):
        measure(run, summary, name)
    for rows, loss in curve:
        run.metric("learning_curve", loss, rows=rows)


def _trained(lake: Project, day_plan: Plan) -> bool:
    """Whether a plan's checkpoint is there, and the catalog knows of it: a kill may have come between the two."""
    known = {record.checkpoint for record in lake.catalog.checkpoints(day_plan.version)}
    return day_plan.checkpoint in known and versions.exists(lake, day_plan.version, day_plan.checkpoint)
