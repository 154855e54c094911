"""Training a ranker on a plan's days, and predicting a day by its plan's checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.catalog import CheckpointRecord, Plan
from tokenlake.config import Ranker
from tokenlake.features import checkpoints
from tokenlake.features.checkpoints import RankerCheckpoint
from tokenlake.features.day_features import DayFeatureCache, DayFeatures
from tokenlake.features.instances import Targets, labels_of
from tokenlake.features.ranking import RankerFeaturizer
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.lake.project import Project
from tokenlake.pipeline.plan import ONE_DAY
from tokenlake.pipeline.training import training_features
from tokenlake.progress import Progress
from tokenlake.times import Day, day_start
from tokenlake_models.ranker_training import RankerLearner


def train_ranker_checkpoint(
    lake: Project, spec: Ranker, plan: Plan, progress: Progress | None = None
) -> dict[str, Any]:
    """Train and save the checkpoint of a plan, continuing from its parent.

    A label is trained on once, in the days in which it becomes known.

    Returns:
        `trained_rows`, `targets`, `loss`, and `curve`: the loss of each part of the training by rows done.
    """
    train_from, train_to = plan.training
    parent = checkpoints.load_ranker_fresh(lake, plan.version, plan.parent) if plan.parent else None
    targets: Targets = (day_start(train_from) if parent else None, day_start(train_to + ONE_DAY))
    features = training_features(lake, plan, targets, partial(_reader(lake, spec), watermark=plan.watermark))
    featurizer, vocabulary = RankerFeaturizer(lake, spec), parent.vocabulary if parent else Vocabulary()
    featurizer.grow(vocabulary, features.events)
    learner = _learner(featurizer, spec, parent, vocabulary)
    stats = learner.fit(
        featurizer.data(features, vocabulary, plan.watermark, targets=targets),
        batch=spec.batch,
        passes=spec.passes,
        seed=spec.seed + train_to.toordinal(),
        progress=partial(progress, f"training {plan.version}") if progress else None,
    )
    path = checkpoints.save(lake, plan.version, plan.checkpoint, learner, vocabulary)
    record = CheckpointRecord(
        plan.version, plan.checkpoint, plan.parent, plan.train_from, plan.train_to, str(path), rows=stats.instances
    )
    lake.catalog.add_checkpoint(record)
    return {"trained_rows": stats.instances, "targets": stats.targets, "loss": stats.loss, "curve": stats.curve}


def predict_day(lake: Project, spec: Ranker, plan: Plan) -> tuple[pa.Table, NDArray[np.float32]]:
    """Score the rows of a plan's day that have a label at all.

    Returns:
        The rows, of `events`, and their probabilities, float32 (n, labels).
    """
    features = _with_a_label(lake, spec, _reader(lake, spec)(plan.day, watermark=plan.watermark, complete=True))
    checkpoint = checkpoints.load_ranker(lake, plan.version, plan.checkpoint)
    return features.events, scores(lake, spec, checkpoint, features, plan.watermark, plan.day)


def scores(
    lake: Project, spec: Ranker, checkpoint: RankerCheckpoint, features: DayFeatures, watermark: int, day: Day
) -> NDArray[np.float32]:
    """Probabilities of rows of one day, float32 (n, labels), in the order of the rows."""
    data = RankerFeaturizer(lake, spec).data(features, checkpoint.vocabulary, watermark, complete=day)
    found = checkpoint.learner.score(data).numpy()
    out = np.empty_like(found)
    out[data.order] = found
    return out


def _learner(
    featurizer: RankerFeaturizer, spec: Ranker, parent: RankerCheckpoint | None, vocabulary: Vocabulary
) -> RankerLearner:
    if parent is None:
        return RankerLearner.create(featurizer.ranker_config(vocabulary), learning_rate=spec.learning_rate)
    parent.learner.grow(vocabulary.sizes())
    return parent.learner


def _reader(lake: Project, spec: Ranker) -> Callable[..., DayFeatures]:
    cache = lake.shared(DayFeatureCache)
    return cache.read_as_of_midnight if spec.available == "daily" else cache.read


def _with_a_label(lake: Project, spec: Ranker, features: DayFeatures) -> DayFeatures:
    labelled = [features.events[label].is_valid().to_numpy() for label in labels_of(lake.config, spec)]
    rows = np.flatnonzero(np.logical_or.reduce(labelled))
    return DayFeatures(features.events.take(rows), features.counts[rows], features.visible[rows])
