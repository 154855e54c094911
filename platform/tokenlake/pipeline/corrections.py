"""What a day's predictions are corrected by: weights of an ensemble's members, and calibration.

Both are fitted on predictions of the 28 days before, of rows whose label was known before the day began, and recorded
in the catalog when the day is first predicted: the day's next run takes them from there, and writes the same. Imports no
torch.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.catalog import IndexVersion, Plan
from tokenlake.config import Ensemble, Ranker
from tokenlake.config.models import Calibration
from tokenlake.errors import NotFoundError
from tokenlake.features.versions import name_of
from tokenlake.lake.project import Project
from tokenlake.times import Day
from tokenlake_models.calibration import Isotonic, Platt, fit_isotonic, fit_mixture, fit_platt, mix

#: Days of earlier predictions that a fit reads.
DAYS = 28
#: Name of a day's fit among what the catalog knows of the days of a version.
FIT = "fit"
_ONE_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Fit:
    """What was fitted for one day of a model.

    Attributes:
        rows: rows with a known label that it was fitted on, of all labels together.
        weights: of an ensemble: the members' weights, by label.
        calibration: by label, where the model is calibrated.
    """

    rows: int
    weights: Mapping[str, tuple[float, ...]]
    calibration: Mapping[str, Platt | Isotonic]

    def mixed(self, label: str, members: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The ensemble's probabilities (n,) from its members' (n, m)."""
        return mix(members, np.array(self.weights[label]))

    def calibrated(self, label: str, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Calibrated probabilities, in the shape of `values`."""
        return self.calibration[label].apply(values)


def raw_name(name: str, model: Ranker | Ensemble) -> str:
    """What `predictions` calls a model's values before calibration."""
    return name if model.calibration == "none" else f"{name} uncalibrated"


def fit_of(lake: Project, model: Ranker | Ensemble, plan: Plan, labels: tuple[str, ...]) -> Fit:
    """The recorded fit of a plan's day; made and recorded where there is none."""
    recorded = recorded_fit(lake, plan.version, plan.day)
    if recorded is not None:
        return recorded
    fit = _made(lake, model, plan, labels)
    stats = dataclasses.asdict(fit)
    path = f"{lake.predictions.path}?version={plan.version}&ds={plan.day}"
    lake.catalog.add_index(IndexVersion(FIT, plan.version, plan.checkpoint, plan.day, path, fit.rows, stats=stats))
    return fit


def recorded_fit(lake: Project, version: str, day: Day) -> Fit | None:
    """The fit that a day was predicted with; None where it has none yet."""
    return next((_read(found) for found in _recorded(lake, version) if found.day == day), None)


def standing_fit(lake: Project, version: str, day: Day) -> Fit:
    """The fit of a day, or while it has none yet the newest of an earlier day.

    Raises:
        NotFoundError: there is none.
    """
    earlier = [found for found in _recorded(lake, version) if found.day <= day]
    if not earlier:
        raise NotFoundError(f"{version} is not fitted for {day} yet; `tokenlake train {lake.root}` does it")
    return _read(max(earlier, key=lambda found: found.day))


def _recorded(lake: Project, version: str) -> list[IndexVersion]:
    return [found for found in lake.catalog.indexes(version) if found.name == FIT]


def _read(found: IndexVersion) -> Fit:
    weights = {label: tuple(values) for label, values in found.stats["weights"].items()}
    return Fit(found.rows, weights, {k: _curve(v) for k, v in found.stats["calibration"].items()})


def _made(lake: Project, model: Ranker | Ensemble, plan: Plan, labels: tuple[str, ...]) -> Fit:
    weights: dict[str, tuple[float, ...]] = {}
    calibration: dict[str, Platt | Isotonic] = {}
    rows = 0
    for label in labels:
        if isinstance(model, Ensemble):
            target, values = _of_members(lake, model, label, plan.day)
            weights[label] = tuple(fit_mixture(target, values).tolist())
            rows += len(target)
        if model.calibration != "none":
            earlier = known_predictions(lake, plan.version, raw_name(name_of(plan.version), model), label, plan.day)
            calibration[label] = _fitted(model.calibration, earlier["target"].to_numpy(), earlier["value"].to_numpy())
            rows += earlier.num_rows
    return Fit(rows, weights, calibration)


def _of_members(lake: Project, model: Ensemble, label: str, day: Day) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Labels (n,) and all members' probabilities (n, m) of the rows that every member has predicted."""
    parts = [
        known_predictions(lake, lake.config.model_version(member), member, label, day) for member in model.ensemble
    ]
    own, values = side_by_side(parts)
    return own["target"].to_numpy(), values


def side_by_side(parts: list[pa.Table]) -> tuple[pa.Table, NDArray[np.float64]]:
    """Rows of the events that every part has, as of the first one, and all parts' values (n, m).

    Args:
        parts: m tables with unique `event_id`s, sorted by them.
    """
    shared = parts[0]["event_id"].combine_chunks()
    for part in parts[1:]:
        shared = shared.filter(pc.is_in(shared, part["event_id"].combine_chunks()))
    own = [part.filter(pc.is_in(part["event_id"], shared)) for part in parts]
    return own[0], np.stack([part["value"].to_numpy() for part in own], axis=1)


def known_predictions(lake: Project, version: str, model: str, label: str, day: Day) -> pa.Table:
    """Earlier predictions of a label that was known before a day began: `event_id`, `value`, `target`.

    Days whose checkpoint was trained on themselves are left out. In a fixed order.
    """
    first, last = day - dt.timedelta(days=DAYS), day - _ONE_DAY
    bootstrap = [p.day for p in lake.catalog.plans(version) if p.bootstrap and first <= p.day <= last]
    wanted = (pc.field("model") == model) & (pc.field("label") == label)
    columns = ["event_id", "user_id", "timestamp", "value", "target", "ds"]
    rows = lake.predictions.read(version=version, between=(first, last), columns=columns, filter=wanted)
    rows = rows.filter(pc.invert(pc.is_in(rows["ds"], pa.array(bootstrap, pa.date32()))))
    if label in lake.config.events.labels:
        rows = _matured(lake, rows, label, first, day)
    order = ["event_id", "user_id", "timestamp", "value", "target"]
    return rows.sort_by([(name, "ascending") for name in order]).select(["event_id", "value", "target"])


def _matured(lake: Project, rows: pa.Table, label: str, first: Day, day: Day) -> pa.Table:
    """Rows whose label was known before the day began, and would have been known whatever it is.

    Positives may be known within minutes and negatives after a week: of rows younger than that week, only positives
    would be there.
    """
    known_at, declared = f"{label}_known_at", lake.config.events.labels[label]
    if declared.known_at is not None and declared.window is None:
        return rows.slice(0, 0)  # no negative is ever known
    events = lake.events.read(between=(first, day - _ONE_DAY), columns=["event_id", "timestamp", known_at])
    start = dt.datetime.combine(day, dt.time(), dt.UTC)
    decided = pa.scalar(start - (declared.window or dt.timedelta()), events["timestamp"].type)
    known = pc.and_(
        pc.less(events[known_at], pa.scalar(start, events[known_at].type)), pc.less(events["timestamp"], decided)
    )
    return rows.filter(pc.is_in(rows["event_id"], events.filter(known)["event_id"].combine_chunks()))


def _fitted(kind: Calibration, target: NDArray[np.int8], value: NDArray[np.float64]) -> Platt | Isotonic:
    return fit_platt(target, value) if kind == "platt" else fit_isotonic(target, value)


def _curve(stats: Mapping[str, Any]) -> Platt | Isotonic:
    if "slope" in stats:
        return Platt(**stats)
    return Isotonic(tuple(stats["scores"]), tuple(stats["values"]))
