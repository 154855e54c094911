"""Rows of `predictions` of a model's day: a ranker's probabilities, or an ensemble's; calibrated, and measured."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.catalog import Plan
from tokenlake.config import Ensemble, Ranker
from tokenlake.features.instances import labels_of
from tokenlake.features.versions import name_of
from tokenlake.lake.project import Project
from tokenlake.pipeline.corrections import Fit, fit_of, raw_name, side_by_side
from tokenlake.pipeline.encoding import predictions_table
from tokenlake.pipeline.ranking import predict_day
from tokenlake.times import Day
from tokenlake_models import metrics

_MEASURES = {
    "auc": metrics.auc,
    "ne": metrics.ne,
    "log_loss": metrics.log_loss,
    "calibration": metrics.calibration,
}


def predictions_of(lake: Project, model: Ranker | Ensemble, plan: Plan) -> pa.Table:
    """Rows of `predictions` of a plan's day, of the model's name; calibrated, also those of `NAME uncalibrated`."""
    raw = _of_ensemble(lake, model, plan) if isinstance(model, Ensemble) else _of_ranker(lake, model, plan)
    if model.calibration == "none":
        return raw
    return pa.concat_tables([_calibrated(raw, fit_of_day(lake, model, plan), name_of(plan.version)), raw])


def fit_of_day(lake: Project, model: Ranker | Ensemble, plan: Plan) -> Fit:
    """What a plan's day is corrected by."""
    return fit_of(lake, model, plan, labels_of(lake.config, model))


def measured(rows: pa.Table) -> Iterator[tuple[str, float | None, dict[str, str]]]:
    """Metrics of a day's rows of `predictions`: name, value, and the model and label that it is of."""
    groups = rows.group_by(["model", "label"], use_threads=False).aggregate([])
    for group in groups.to_pylist():
        of = rows.filter((pc.field("model") == group["model"]) & (pc.field("label") == group["label"]))
        target, value = of["target"].to_numpy(), of["value"].to_numpy()
        for name, measure in _MEASURES.items():
            yield name, measure(target, value), group


def _of_ranker(lake: Project, ranker: Ranker, plan: Plan) -> pa.Table:
    events, scores = predict_day(lake, ranker, plan)
    name = raw_name(name_of(plan.version), ranker)
    return predictions_table(lake, events, scores, name, plan.version, labels_of(lake.config, ranker))


def _of_ensemble(lake: Project, ensemble: Ensemble, plan: Plan) -> pa.Table:
    """Of the events that every member has predicted."""
    fit, name = fit_of_day(lake, ensemble, plan), raw_name(name_of(plan.version), ensemble)
    return pa.concat_tables(
        [_mixed(lake, ensemble, fit, label, name, plan) for label in labels_of(lake.config, ensemble)]
    )


def _mixed(lake: Project, ensemble: Ensemble, fit: Fit, label: str, name: str, plan: Plan) -> pa.Table:
    parts = [_of_member(lake, member, label, plan.day) for member in ensemble.ensemble]
    rows, values = side_by_side(parts)
    new = {
        "value": pa.array(fit.mixed(label, values)),
        "model": pa.repeat(name, rows.num_rows),
        "version": pa.repeat(plan.version, rows.num_rows),
    }
    for column, array in new.items():
        rows = rows.set_column(rows.column_names.index(column), column, array)
    return rows


def _of_member(lake: Project, member: str, label: str, day: Day) -> pa.Table:
    version = lake.config.model_version(member)
    wanted = (pc.field("model") == member) & (pc.field("label") == label)
    return lake.predictions.read(day=day, version=version, filter=wanted).sort_by("event_id")


def _calibrated(raw: pa.Table, fit: Fit, name: str) -> pa.Table:
    values, labels = raw["value"].to_numpy().copy(), raw["label"]
    for label in fit.calibration:
        rows = np.flatnonzero(pc.equal(labels, label).to_numpy())
        values[rows] = fit.calibrated(label, values[rows])
    out = raw.set_column(raw.column_names.index("value"), "value", pa.array(values))
    return out.set_column(out.column_names.index("model"), "model", pa.repeat(name, out.num_rows))
