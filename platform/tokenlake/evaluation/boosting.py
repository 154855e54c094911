"""LightGBM on the rows and counts that a model reads. Needs the extra `peers`.

It sees what an encoder or a ranker sees of an event, as trees want it: numeric features and counts as they are, and
categorical features as categories, but those of many values, which trees overfit. Ids and multi-valued features enter
by their counts alone; vectors are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.catalog import Plan
from tokenlake.config import Encoder, Ranker
from tokenlake.features.count_inputs import read_by
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.features.instances import label_names
from tokenlake.features.label_maturity import event_labels
from tokenlake.lake.project import Project
from tokenlake.times import as_micros

#: What LightGBM is trained with: its own parameters, and `rounds`, the number of trees.
Settings: TypeAlias = dict[str, float]

#: Most values of a categorical feature that LightGBM reads as categories.
CATEGORIES = 64
#: The same in every training.
FIXED: dict[str, float | str | bool] = {
    "objective": "binary",
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
_LOOSE = {"min_data_in_leaf": 50, "feature_fraction": 0.7, "bagging_fraction": 0.7, "bagging_freq": 1}
_TIGHT = {"min_data_in_leaf": 200, "feature_fraction": 0.4, "lambda_l2": 10.0}
#: The configurations that are searched: sizes of trees and their number, each loosely and tightly regularised.
CONFIGURATIONS: tuple[Settings, ...] = tuple(
    {"num_leaves": leaves, "learning_rate": rate, "rounds": rounds, **regularised}
    for leaves, rate, rounds in (
        (7, 0.05, 150),
        (7, 0.05, 300),
        (7, 0.1, 150),
        (15, 0.03, 200),
        (15, 0.05, 100),
        (15, 0.05, 200),
        (15, 0.05, 400),
        (31, 0.03, 150),
        (31, 0.05, 80),
        (31, 0.05, 200),
        (63, 0.03, 150),
        (63, 0.05, 300),
    )
    for regularised in (_LOOSE, _TIGHT)
)


@dataclass(frozen=True)
class BoostingRows:
    """The rows with a label of all planned days, as LightGBM reads them.

    Attributes:
        events: n rows of `events`.
        days: datetime64[D] (n,).
        inputs: float32 (n, columns), the categories first.
        categories: how many columns are categories.
    """

    events: pa.Table
    days: NDArray[np.datetime64]
    inputs: NDArray[np.float32]
    categories: int

    @classmethod
    def of(cls, lake: Project, reader: Encoder | Ranker, plans: Sequence[Plan]) -> BoostingRows:
        """The rows of plans' days, with the counts that an encoder or a ranker reads."""
        labels, counted = label_names(lake.config), read_by(lake.config, reader)
        tables, counts = list[pa.Table](), list[NDArray[np.float32]]()
        for plan in sorted(plans, key=lambda plan: plan.day):
            features = lake.shared(DayFeatureCache).read(plan.day, plan.watermark)
            labelled = np.any([features.events[label].is_valid().to_numpy() for label in labels], axis=0)
            tables.append(features.events.filter(pa.array(labelled)))
            counts.append(features.counts[labelled][:, counted])
        events = pa.concat_tables(tables).combine_chunks()
        categories = [_codes(events[name]) for name in lake.config.events.of_kind("categorical")]
        few = [codes for codes in categories if len(codes) == 0 or codes.max() < CATEGORIES]
        numbers = [events[name].cast(pa.float32()).fill_null(np.nan) for name in lake.config.events.of_kind("numeric")]
        columns = [np.asarray(column, np.float32)[:, None] for column in (*few, *numbers)]
        inputs = np.concatenate([*columns, np.concatenate(counts)], axis=1)
        return cls(events, events["ds"].to_numpy().astype("datetime64[D]"), inputs, len(few))

    def of_days(self, days: Sequence[np.datetime64]) -> NDArray[np.bool_]:
        """Which rows are of these days."""
        return np.isin(self.days, np.array(days, "datetime64[D]"))

    def targets(self, label: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows have a value of a label, and which of those are positive."""
        values = self.events[label]
        return values.is_valid().to_numpy(), pc.greater(values.fill_null(0), 0).to_numpy()

    def predict(self, label: str, now: int, asked: NDArray[np.bool_], settings: Settings) -> NDArray[np.float64]:
        """Probabilities of a label for the rows asked for, by a model of all rows whose label was known before `now` (us)."""
        found = event_labels(self.events, label, as_micros(self.events["timestamp"], "timestamp"))
        known = found.matures & (found.known_from < now)
        if not known.any():
            return np.full(int(asked.sum()), 0.5)
        data = lightgbm.Dataset(
            self.inputs[known], found.positive[known], categorical_feature=list(range(self.categories))
        )
        parameters = {name: value for name, value in settings.items() if name != "rounds"}
        model = lightgbm.train({**FIXED, **parameters}, data, int(settings["rounds"]))
        return np.asarray(model.predict(self.inputs[asked]), np.float64)


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each distinct value, in order of first appearance; null is a value too."""
    codes = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
    numbers: NDArray[np.int64] = codes.indices.to_numpy().astype(np.int64)
    return numbers
