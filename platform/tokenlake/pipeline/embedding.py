"""The jobs of user and item embeddings: training a day's checkpoint, and embedding with it."""

from __future__ import annotations

import datetime as dt
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from tokenlake.catalog import CheckpointRecord as CheckpointRecord
from tokenlake.catalog import Plan
from tokenlake.features import checkpoints
from tokenlake.features.activity import EventDayCache, training_queries
from tokenlake.features.encoding_cache import block_start, encoding_cache
from tokenlake.features.keys import Ints
from tokenlake.features.label_maturity import lookback
from tokenlake.features.user_inputs import UserFeaturizer, positions_of
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.lake.project import Project
from tokenlake.lake.tables import Table
from tokenlake.times import Day, available_at, day_start
from tokenlake_models.activity import Targets
from tokenlake_models.alure_training import AlureLearner, batches

JobSummary = dict[str, int | float | str | None]
Vectors: TypeAlias = NDArray[np.float32]
_ONE_DAY = dt.timedelta(days=1)


def train_user_checkpoint(lake: Project, plan: Plan) -> JobSummary:
    """Train and save the checkpoint of a plan, continuing from its parent."""
    train_from, train_to = plan.training
    spec, featurizer = lake.config.require_embeddings(), UserFeaturizer(lake.config)
    parent = checkpoints.load_users_fresh(lake, plan.version, plan.parent) if plan.parent else None
    vocabulary = parent.vocabulary if parent else Vocabulary()

    first = (
        train_from
        - dt.timedelta(days=spec.retention_days + spec.replay_days)
        - lookback(lake.config.events.labels.values())
    )
    log = lake.shared(EventDayCache).read(first, train_to, plan.watermark)
    since = None if parent is None else day_start(train_from - dt.timedelta(days=spec.replay_days))
    users, now, positives, offsets = training_queries(log, since, day_start(train_to + _ONE_DAY), spec.group)

    featurizer.grow(vocabulary, log)
    quantizers = featurizer.quantizers(parent.quantizers if parent else {}, log, spec.seed)
    if parent is None:
        learner = AlureLearner.create(featurizer.alure_config(vocabulary), learning_rate=spec.learning_rate)
    else:
        learner = parent.learner
        learner.grow(vocabulary.sizes())
    table = log.item_table()
    items = featurizer.items(table, vocabulary, quantizers)
    wanted = positions_of(log.column("item_id").take(pa.array(positives)), table["item_id"].combine_chunks())
    stats = learner.fit(
        featurizer.activity(log, vocabulary, quantizers),
        featurizer.queries(log, users, now),
        Targets(torch.from_numpy(wanted), torch.from_numpy(offsets)),
        items,
        batch=spec.batch,
        negatives=spec.negatives,
        passes=spec.passes,
        seed=spec.seed + train_to.toordinal(),
    )
    path = checkpoints.save(lake, plan.version, plan.checkpoint, learner, vocabulary, quantizers)
    record = CheckpointRecord(
        plan.version, plan.checkpoint, plan.parent, train_from, train_to, str(path), rows=len(positives)
    )
    lake.catalog.add_checkpoint(record)
    return {"moments": stats.queries, "targets": stats.targets, "loss": stats.loss}


class EmbeddingInputs:
    """The inputs of a day's embedding, read from the lake: the log, and a query for each active user.

    Args:
        lake: the lake that holds the events.
        plan: the plan of the day.

    Attributes:
        users: the users to embed: those with an event of some source in the last `retention_days`.
    """

    def __init__(self, lake: Project, plan: Plan) -> None:
        self._lake, self._plan = lake, plan
        self._cache = encoding_cache(lake, plan.version, plan.checkpoint)
        self._first = _first_retained(lake, plan)
        self._log = lake.shared(EventDayCache).read(
            _first_read(lake, plan), plan.day, plan.watermark, complete=plan.day
        )
        everyone, end = np.arange(len(self._log.users)), day_start(plan.day + _ONE_DAY)
        queries = self._cache.featurizer.queries(self._log, everyone, np.full(len(everyone), end))
        there = queries.lengths() > 0
        self.users: pa.Array = self._log.users.filter(pa.array(there.numpy()))
        self._queries = queries.select(there.nonzero()[:, 0])

    @property
    def width(self) -> int:
        """Width of a vector."""
        return self._cache.checkpoint.learner.config.dim

    def vectors(self, bucket: int = 0, buckets: int = 1) -> tuple[Ints, Vectors]:
        """Positions in `users` of a bucket's users, and their vectors. A bucket has every `buckets`-th batch, from number `bucket` on."""
        own_batches = batches(self._queries)[bucket::buckets]
        places = torch.cat([torch.zeros(0, dtype=torch.int64), *own_batches])
        if not own_batches:
            return places.numpy(), np.zeros((0, self.width), np.float32)
        encoded, times = self._cache.events(self._log), self._cache.featurizer.times(self._log)
        found = self._cache.checkpoint.learner.pool(times, self._queries, encoded, own_batches)
        return places.numpy(), found[places].numpy()

    def save(self, users: Vectors) -> JobSummary:
        """Replace the day's `user_embeddings` by these vectors of `users`, and its `item_embeddings`."""
        ids, items = self._cache.items(self._log, self._first)
        write(self._lake.user_embeddings, self.users, users, self._plan)
        write(self._lake.item_embeddings, ids, items, self._plan)
        return {
            "rows": len(self.users),
            "items": len(ids),
            "checkpoint": self._plan.checkpoint,
            "bootstrap": int(self._plan.bootstrap),
        }


def embed_day(lake: Project, plan: Plan) -> JobSummary:
    """Write the day's `user_embeddings` and `item_embeddings`, replacing what stood there.

    Everyone who did something in the last `retention_days` is embedded as of the day's end, and so is every item met.
    """
    task = EmbeddingInputs(lake, plan)
    places, vectors = task.vectors()
    return task.save(vectors[np.argsort(places)])


def events_fingerprint(lake: Project, plan: Plan) -> str:
    """A fingerprint of the events that a day's embedding reads: it changes when any of them does."""
    return lake.shared(EventDayCache).fingerprint(_first_read(lake, plan), plan.day)


def _first_retained(lake: Project, plan: Plan) -> Day:
    return plan.day - dt.timedelta(days=lake.config.require_embeddings().retention_days - 1)


def _first_read(lake: Project, plan: Plan) -> Day:
    """Events of before the retained days are read too, whose labels may have become known within these days."""
    return block_start(_first_retained(lake, plan) - lookback(lake.config.events.labels.values()))


def write(table: Table, ids: pa.Array, vectors: Vectors, plan: Plan) -> None:
    """Replace a day of an embedding table."""
    count, width = vectors.shape
    offsets = pa.array(np.arange(0, count * width + 1, width, dtype=np.int32))
    rows = {
        table.schema.names[0]: ids,
        "embedding": pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel())),
        "version": pa.repeat(plan.version, count),
        "checkpoint": pa.repeat(plan.checkpoint, count),
        "ds": pa.repeat(pa.scalar(plan.day, pa.date32()), count),
        "available_at": pa.repeat(pa.scalar(available_at(plan.day), pa.timestamp("us", "UTC")), count),
    }
    table.replace_day(plan.day, pa.table(rows), version=plan.version)
