"""The training job: one checkpoint, continued from the one before it, on the days that its plan names."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from tokenlake.catalog import Checkpoint as CheckpointRecord
from tokenlake.catalog import Plan
from tokenlake.lake.lake import Lake
from tokenlake.pipeline import checkpoints
from tokenlake.pipeline.features import Featurizer
from tokenlake.pipeline.frames import Frame
from tokenlake.pipeline.history import history_of
from tokenlake.pipeline.vocabulary import Vocabulary
from tokenlake.times import Day, day_start
from tokenlake_models.training import Learner

#: How far back a positive is looked for where a label has no `window` to bound it.
_UNBOUNDED = dt.timedelta(days=28)
_ONE_DAY = dt.timedelta(days=1)


def train_checkpoint(lake: Lake, plan: Plan) -> dict[str, int | float | str | None]:
    """Train and save the checkpoint of a plan.

    A label is trained on once, by the checkpoint in whose days it becomes known: an instance whose label matures late
    is read again then, as a row that later rows don't see, since its token is already part of the history.
    """
    assert plan.train_from is not None and plan.train_to is not None
    encoder = checkpoints.encoder_of(lake, plan.version)
    featurizer = Featurizer(lake.config, encoder)
    days = [day for day in lake.events.days() if plan.train_from - _lookback(lake) <= day <= plan.train_to]
    frames = [lake.frames.read(day, plan.watermark) for day in days]
    targets = (day_start(plan.train_from) if plan.parent else None, day_start(plan.train_to + _ONE_DAY))
    frames = [frame if day >= plan.train_from else _matured(frame, targets) for day, frame in zip(days, frames, strict=True)]
    events = pa.concat_tables([frame.events for frame in frames])
    if plan.parent:
        parent = checkpoints.load_fresh(lake, plan.version, plan.parent)
        learner, vocabulary = parent.learner, parent.vocabulary
    else:
        learner, vocabulary = None, Vocabulary()
    featurizer.grow(vocabulary, events)
    if learner is None:
        learner = Learner(featurizer.compressor_config(vocabulary), encoder.learning_rate)
    else:
        learner.grow(vocabulary.sizes())
    instances = featurizer(events, np.concatenate([frame.counts for frame in frames]), vocabulary, targets=targets)
    history = history_of(lake, plan.version, events, before=plan.train_from, length=encoder.history)
    stats = learner.fit(instances, history, batch=encoder.batch, passes=encoder.passes, seed=encoder.seed + plan.train_to.toordinal())
    path = checkpoints.save(lake, plan.version, plan.checkpoint, learner, vocabulary)
    lake.catalog.add_checkpoint(
        CheckpointRecord(plan.version, plan.checkpoint, plan.parent, plan.train_from, plan.train_to, str(path), rows=events.num_rows)
    )
    return {"trained_rows": events.num_rows, "targets": stats.targets, "loss": stats.loss}
