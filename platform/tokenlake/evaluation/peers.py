"""A peer of the encoders: LightGBM on the same rows and the same counts. Needs the extra `peers`.

It sees what the encoders' own models see of an event, as trees want it: numeric features and counts as they are, and
categorical features as categories, but those of many values, which trees overfit. Ids and multi-valued features enter
by their counts alone; vectors are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.catalog import Plan
from tokenlake.config import Encoder
from tokenlake.evaluation.controls import BUILT_IN, DECLARED
from tokenlake.features.count_inputs import read_by
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.features.instances import label_names
from tokenlake.features.label_maturity import event_labels
from tokenlake.lake.project import Project
from tokenlake.pipeline.encoding import predictions_table
from tokenlake.progress import Progress
from tokenlake.times import as_micros, day_start

#: Days that one model scores; then it is trained anew.
RETRAINED_AFTER = 28
#: Most values of a categorical feature that LightGBM reads as categories.
_CATEGORIES = 64
_ROUNDS = 300
_SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


@dataclass(frozen=True)
class Peer:
    """LightGBM on the counts that an encoder reads.

    Attributes:
        name: name in the report.
        encoder: whose counts it reads.
    """

    name: str
    encoder: Encoder

    def version(self, lake: Project) -> str:
        """The version of its predictions, which depends on its settings, the features and the counts."""
        config = lake.config
        counts = [
            (name, c.model_dump(mode="json", exclude={"serve"})) for name, c in config.counts_of(self.encoder).items()
        ]
        made_of = [_SETTINGS, _ROUNDS, RETRAINED_AFTER, _CATEGORIES, config.events.model_dump(mode="json"), counts]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return f"peer-{self.name.replace(' ', '-')}-{digest[:8]}"


def peers_of(encoder: Encoder) -> list[Peer]:
    """LightGBM with the built-in counts, and with those that an encoder declares."""
    return [
        Peer(f"LightGBM with {BUILT_IN}", encoder.model_copy(update={"counts": True})),
        Peer(f"LightGBM with {DECLARED}", encoder),
    ]


def run_peer(lake: Project, peer: Peer, plans: Sequence[Plan], progress: Progress | None = None) -> int:
    """Train and score a peer along plans; returns the rows written to `predictions`.

    The scored days are those of an encoder, in periods of `RETRAINED_AFTER` days. Each period is scored by a model that was
    trained on all rows of earlier days whose label was known before the period.
    """
    rows = _Rows.of(lake, peer.encoder, plans)
    version, labels = peer.version(lake), label_names(lake.config)
    scores = np.zeros((len(rows.days), len(labels)), np.float32)
    scored = np.zeros(len(rows.days), np.bool_)
    periods = list(_periods(plans))
    for done, period in enumerate(periods, 1):
        asked = np.isin(rows.days, np.array(period, "datetime64[D]"))
        for i, label in enumerate(labels):
            scores[asked, i] = rows.predict(label, day_start(period[0].astype(object)), asked)
        scored |= asked
        if progress:
            progress(peer.name, done, len(periods))
    events = rows.events.filter(pa.array(scored))
    written = predictions_table(lake, events, scores[scored], peer.name, version)
    lake.predictions.replace_version(version, written)
    return int(written.num_rows)


def _periods(plans: Sequence[Plan]) -> Iterator[list[np.datetime64]]:
    """The scored days, in groups that one model scores."""
    days = sorted(np.datetime64(plan.day, "D") for plan in plans if not plan.bootstrap)
    while days:
        end = days[0] + np.timedelta64(RETRAINED_AFTER, "D")
        yield [day for day in days if day < end]
        days = [day for day in days if day >= end]


@dataclass(frozen=True)
class _Rows:
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
    def of(cls, lake: Project, encoder: Encoder, plans: Sequence[Plan]) -> _Rows:
        labels, counted = label_names(lake.config), read_by(lake.config, encoder)
        tables, counts = list[pa.Table](), list[NDArray[np.float32]]()
        for plan in sorted(plans, key=lambda plan: plan.day):
            features = lake.shared(DayFeatureCache).read(plan.day, plan.watermark)
            labelled = np.any([features.events[label].is_valid().to_numpy() for label in labels], axis=0)
            tables.append(features.events.filter(pa.array(labelled)))
            counts.append(features.counts[labelled][:, counted])
        events = pa.concat_tables(tables).combine_chunks()
        categories = [_codes(events[name]) for name in lake.config.events.of_kind("categorical")]
        few = [codes for codes in categories if len(codes) == 0 or codes.max() < _CATEGORIES]
        numbers = [events[name].cast(pa.float32()).fill_null(np.nan) for name in lake.config.events.of_kind("numeric")]
        columns = [np.asarray(column, np.float32)[:, None] for column in (*few, *numbers)]
        inputs = np.concatenate([*columns, np.concatenate(counts)], axis=1)
        return cls(events, events["ds"].to_numpy().astype("datetime64[D]"), inputs, len(few))

    def predict(self, label: str, now: int, asked: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Probabilities of a label for the rows asked for, by a model of all rows whose label was known before `now` (us)."""
        found = event_labels(self.events, label, as_micros(self.events["timestamp"], "timestamp"))
        known = found.matures & (found.known_from < now)
        if not known.any():
            return np.full(int(asked.sum()), 0.5)
        data = lightgbm.Dataset(
            self.inputs[known], found.positive[known], categorical_feature=list(range(self.categories))
        )
        model = lightgbm.train(_SETTINGS, data, _ROUNDS)
        return np.asarray(model.predict(self.inputs[asked]), np.float64)


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each distinct value, in order of first appearance; null is a value too."""
    codes = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
    numbers: NDArray[np.int64] = codes.indices.to_numpy().astype(np.int64)
    return numbers
