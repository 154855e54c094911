"""Progressive evaluation of the source models over all days after the bootstrap chunk, with baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import NotFoundError, OrderError
from tokenlake.evaluation.controls import controls_of, title
from tokenlake.evaluation.model_controls import controls_of_models
from tokenlake.lake.project import Project
from tokenlake.times import Day
from tokenlake_models import metrics
from tokenlake_models.metrics import Interval

#: Order of predictions in which the rows of models meet.
KEYS = [("ds", "ascending"), ("event_id", "ascending"), ("user_id", "ascending"), ("timestamp", "ascending")]


@dataclass(frozen=True)
class Score:
    """Metrics of one model on one label; None is n/a, as on rows of one class.

    Attributes:
        auc: probability that a positive scores above a negative, with a 95% user-bootstrap interval.
        gauc: mean of the users' own AUC, weighted by their rows.
        ne: log loss divided by the entropy of the base rate; below 1 is better than the base rate.
        log_loss: in nats per row.
        calibration: mean prediction over the share of positives, with a 95% user-bootstrap interval.
    """

    model: str
    label: str
    version: str | None
    auc: Interval | None
    gauc: float | None
    ne: Interval | None
    log_loss: float | None
    calibration: Interval | None


@dataclass(frozen=True)
class TokenReport:
    """Metrics of all models on the same rows.

    Attributes:
        first: first scored day; earlier days were encoded by a checkpoint trained on them.
        last: last scored day.
        rows: label -> scored rows.
        users: label -> users.
        base_rate: label -> share of positives.
        sampled: whether the log has no label, so that negatives were sampled.
        scores: one entry per model and label, the base rate first.
    """

    first: Day
    last: Day
    rows: dict[str, int]
    users: dict[str, int]
    base_rate: dict[str, float]
    sampled: bool
    scores: list[Score]


def token_report(lake: Project, *, resamples: int = 200) -> TokenReport:
    """Score every encoder, model of `models:` and control with predictions, on the days that all of them have.

    Args:
        lake: the lake.
        resamples: number of resamples of the user bootstrap.

    Raises:
        NotFoundError: no day after the bootstrap chunk was encoded yet.
        OrderError: late events were not scored by all models yet.
    """
    models = dict(_models(lake))
    days = common_days(lake, list(models.values()))
    if not days:
        raise NotFoundError("no predictions after the bootstrap chunk yet; `tokenlake backfill` makes them")
    tables = {name: of_model(read(lake, version, days), name) for name, version in models.items()}
    return report_on(lake, tables, models, resamples)


def report_on(lake: Project, tables: dict[str, pa.Table], versions: dict[str, str], resamples: int) -> TokenReport:
    """Score models on the same rows, label by label, with the base rate, and record the scores in the catalog.

    Args:
        lake: the lake.
        tables: model -> its rows of `predictions`; at least one model.
        versions: model -> its version.
        resamples: number of resamples of the user bootstrap.

    Raises:
        OrderError: the models have not scored the same rows yet.
    """
    some = next(iter(tables.values()))
    days = pc.min_max(some["ds"]).as_py()
    report = TokenReport(days["min"], days["max"], {}, {}, {}, not lake.config.events.labels, [])
    labels = dict.fromkeys(label for table in tables.values() for label in pc.unique(table["label"]).to_pylist())
    for label in labels:
        of_all = {name: table.filter(pc.field("label") == label) for name, table in tables.items()}
        # A ranker may predict some labels only.
        parts = {name: part.sort_by(KEYS) for name, part in of_all.items() if part.num_rows}
        _score_label(lake, report, label, parts, versions, resamples)
    _record(lake, report)
    return report


def encoders_with_predictions(lake: Project) -> Iterator[tuple[str, str]]:
    """The encoders' own models: name in a report, and version."""
    for name, encoder in lake.config.tokens.encoders.items():
        version = lake.config.version_of(name)
        if lake.predictions.days(version):
            yield title(f"{encoder.scheme} ({name})", encoder), version


def models_with_predictions(lake: Project) -> Iterator[tuple[str, str]]:
    """Models of `models:`, as they were before calibration too, and their controls: name in a report, and version."""
    for name, model in lake.config.models.items():
        version = lake.config.model_version(name)
        if lake.predictions.days(version):
            yield name, version
            if model.calibration != "none":
                yield f"{name} uncalibrated", version
    for control in controls_of_models(lake):
        if lake.predictions.days(control.version(lake)):
            yield control.name, control.version(lake)


def _models(lake: Project) -> Iterator[tuple[str, str]]:
    yield from encoders_with_predictions(lake)
    yield from models_with_predictions(lake)
    for control in controls_of(lake):
        version = control.version(lake)
        if lake.predictions.days(version):
            yield control.name, version


def common_days(lake: Project, versions: list[str]) -> list[Day]:
    """Days that all of the versions have predictions of, without those of a bootstrap chunk."""
    bootstrap = {plan.day for version in versions for plan in lake.catalog.plans(version) if plan.bootstrap}
    days = [set(lake.predictions.days(version)) for version in versions]
    return sorted(set.intersection(*days) - bootstrap) if days else []


def read(lake: Project, version: str, days: list[Day]) -> pa.Table:
    """Predictions of a version on some days."""
    rows = lake.predictions.read(version=version, between=(days[0], days[-1]))
    return rows.filter(pc.is_in(rows["ds"], value_set=pa.array(days)))


def of_model(rows: pa.Table, name: str) -> pa.Table:
    """Of rows of a version those of one model: a calibrated one also has its rows before."""
    own = rows.filter(pc.field("model") == name)
    return own if own.num_rows else rows


def _score_label(
    lake: Project,
    report: TokenReport,
    label: str,
    parts: dict[str, pa.Table],
    models: dict[str, str],
    resamples: int,
) -> None:
    some = next(iter(parts.values()))
    target = some["target"].to_numpy()
    users = pc.index_in(some["user_id"], value_set=pc.unique(some["user_id"])).to_numpy().astype(np.int64)
    report.rows[label], report.users[label] = len(target), int(users.max()) + 1
    report.base_rate[label] = float(target.mean())
    constant = np.full(len(target), target.mean())
    report.scores.append(score_of("base rate", label, None, target, constant, users, resamples))
    for name, part in parts.items():
        if part.num_rows != len(target):
            raise OrderError(
                f"{name} scored {part.num_rows} rows of {label}, others {len(target)}: events came late, and not every "
                f"model has scored them yet; `tokenlake backfill {lake.root}` and evaluate again"
            )
        report.scores.append(score_of(name, label, models[name], target, part["value"].to_numpy(), users, resamples))


def score_of(
    model: str,
    label: str,
    version: str | None,
    target: NDArray[np.int8],
    value: NDArray[np.float64],
    users: NDArray[np.int64],
    resamples: int,
) -> Score:
    """Metrics of one model on one label.

    Args:
        model: name in the report.
        label: the label.
        version: its version.
        target: (n,) 0 or 1.
        value: (n,) probabilities; (k, n) of k models gives the mean of their metrics.
        users: (n,) a number for each user.
        resamples: number of resamples of the user bootstrap.
    """
    return Score(
        model,
        label,
        version,
        auc=metrics.user_bootstrap("auc", target, value, users, resamples=resamples),
        gauc=metrics.gauc(target, value, users),
        ne=metrics.user_bootstrap("ne", target, value, users, resamples=resamples),
        log_loss=metrics.log_loss(target, value),
        calibration=metrics.user_bootstrap("calibration", target, value, users, resamples=resamples),
    )


def _record(lake: Project, report: TokenReport) -> None:
    with lake.catalog.run("evaluate", report.last) as run:
        for score in report.scores:
            of = {"model": score.model, "label": score.label}
            run.metric("auc", score.auc.value if score.auc else None, **of)
            run.metric("ne", score.ne.value if score.ne else None, **of)
            run.metric("gauc", score.gauc, **of)
            run.metric("log_loss", score.log_loss, **of)
            run.metric("calibration", score.calibration.value if score.calibration else None, **of)
