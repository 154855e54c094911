"""Training: a model and its vocabulary, carried on from plan to plan, on the days that each plan names."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.catalog import CheckpointRecord as CheckpointRecord
from tokenlake.catalog import Plan
from tokenlake.config import Encoder
from tokenlake.features import checkpoints
from tokenlake.features.checkpoints import TokenCheckpoint
from tokenlake.features.day_features import DayFeatureCache, DayFeatures
from tokenlake.features.instances import Featurizer, Targets, compressor_config, label_names
from tokenlake.features.label_maturity import lookback
from tokenlake.features.token_history import token_history
from tokenlake.features.versions import encoder_of
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.lake.project import Project
from tokenlake.times import Day, day_start
from tokenlake_models.fitting import FitStats
from tokenlake_models.instances import History, Instances
from tokenlake_models.training import Learner

ModelKind = Literal["compressor", "logistic"]
#: Gives the tokens from before a day of the users of some events, in order of their first appearance.
HistoryOf: TypeAlias = Callable[[pa.Table, Day], History | None]
_ONE_DAY = dt.timedelta(days=1)


def train_checkpoint(lake: Project, plan: Plan) -> dict[str, int | float | str | None]:
    """Train and save the checkpoint of a plan, continuing from its parent."""
    encoder = encoder_of(lake, plan.version)
    parent = checkpoints.load_fresh(lake, plan.version, plan.parent) if plan.parent else None
    trainer = Trainer(lake, encoder, parent=parent)

    def stored(events: pa.Table, before: Day) -> History | None:
        return token_history(lake, plan.version, events, before=before, length=encoder.history)

    stats = trainer.fit(plan, stored)
    path = checkpoints.save(lake, plan.version, plan.checkpoint, trainer.learner, trainer.vocabulary)
    record = CheckpointRecord(
        plan.version, plan.checkpoint, plan.parent, plan.train_from, plan.train_to, str(path), rows=stats.instances
    )
    lake.catalog.add_checkpoint(record)
    return {"trained_rows": stats.instances, "targets": stats.targets, "loss": stats.loss}


class Trainer:
    """A model with its vocabulary, fit to plan after plan.

    Attributes:
        learner: the model; made at the first `fit` unless given.
        vocabulary: raw values that the model has rows for.
    """

    learner: Learner

    def __init__(
        self,
        lake: Project,
        encoder: Encoder,
        *,
        kind: ModelKind = "compressor",
        parent: TokenCheckpoint | None = None,
    ) -> None:
        self.vocabulary = parent.vocabulary if parent else Vocabulary()
        if parent:
            self.learner = parent.learner
        self._fresh = parent is None
        self._lake = lake
        self._encoder = encoder
        self._kind: ModelKind = kind
        self._featurizer = Featurizer(lake.config, encoder)

    def fit(self, plan: Plan, history: HistoryOf) -> FitStats:
        """Train on the days of a plan.

        A label is trained on once, in the days in which it becomes known: an instance whose label matures late is
        read again then, as a row that no other row sees, since its token is part of the history already.
        """
        train_from, train_to = plan.training
        targets = (None if self._fresh else day_start(train_from), day_start(train_to + _ONE_DAY))
        features = training_features(self._lake, plan, targets)
        self._featurizer.grow(self.vocabulary, features.events)
        if self._fresh:
            config = compressor_config(self._featurizer, self._encoder, self.vocabulary)
            self.learner = Learner.create(config, model=self._kind, learning_rate=self._encoder.learning_rate)
        else:
            self.learner.grow(self.vocabulary.sizes())
        self._fresh = False
        return self.learner.fit(
            self.instances(features, targets),
            history(features.events, train_from),
            batch=self._encoder.batch,
            passes=self._encoder.passes,
            seed=self._encoder.seed + train_to.toordinal(),
        )

    def instances(self, features: DayFeatures, targets: Targets | None = None) -> Instances:
        """Rows of day features as tensors."""
        return self._featurizer(
            features.events, features.counts, self.vocabulary, targets=targets, seen=features.visible
        )


def training_features(
    lake: Project, plan: Plan, targets: Targets, read: Callable[[Day], DayFeatures] | None = None
) -> DayFeatures:
    """Rows of a plan's training days, and those of earlier days whose label becomes known within the targets.

    Args:
        lake: the lake.
        plan: it names the days and the watermark.
        targets: from, and before: the instants at which a label must become known.
        read: reads a day; by default with counts strictly before each row's timestamp.
    """
    train_from, train_to = plan.training
    first = train_from - lookback(lake.config.events.labels.values())
    read = read or partial(lake.shared(DayFeatureCache).read, watermark=plan.watermark)
    days = []
    for day in lake.events.days():
        if train_from <= day <= train_to:
            days.append(read(day))
        elif first <= day < train_from:
            days.append(_newly_matured(lake, read(day), targets))
    return DayFeatures(
        pa.concat_tables([day.events for day in days]),
        np.concatenate([day.counts for day in days]),
        np.concatenate([day.visible for day in days]),
    )


def _newly_matured(lake: Project, features: DayFeatures, targets: Targets) -> DayFeatures:
    """Rows of an earlier day whose label becomes known within the target window only."""
    begin, end = (pa.scalar(bound, pa.timestamp("us", "UTC")) for bound in targets)
    fresh = pa.array(np.zeros(features.events.num_rows, bool))
    for label in label_names(lake.config):
        known_at = features.events[f"{label}_known_at"]
        within = pc.and_(pc.greater_equal(known_at, begin), pc.less(known_at, end))
        fresh = pc.or_(fresh, pc.fill_null(within, False))  # noqa: FBT003  # Arrow's fill value is positional
    rows = np.flatnonzero(fresh)
    return DayFeatures(features.events.take(rows), features.counts[rows], np.zeros(len(rows), bool))
