"""The encoding job: a day's events into tokens, and into the source model's predictions of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.catalog import Plan
from tokenlake.features import checkpoints
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.features.instances import Featurizer, label_names
from tokenlake.features.token_history import token_history
from tokenlake.features.versions import encoder_of
from tokenlake.lake.project import Project
from tokenlake.lake.schema import label_columns
from tokenlake.tokens.quantize import round_to

JobSummary = dict[str, int | float | str | None]


def encode_day(lake: Project, plan: Plan) -> JobSummary:
    """Write `instance_tokens` and `predictions` of a plan's day, replacing what stood there."""
    encoder = encoder_of(lake, plan.version)
    features = lake.shared(DayFeatureCache).read(plan.day, plan.watermark, complete=True)
    checkpoint = checkpoints.load(lake, plan.version, plan.checkpoint)
    instances = Featurizer(lake.config, encoder)(
        features.events, features.counts, checkpoint.vocabulary, seen=features.visible
    )
    tokens = round_to(checkpoint.learner.encode(instances).numpy(), lake.config.tokens.dtype)
    history = token_history(lake, plan.version, features.events, before=plan.day, length=encoder.history)
    scores = checkpoint.learner.score(instances, history).numpy()

    rows = np.flatnonzero(features.visible)
    written = tokens_table(lake, features.events.take(rows), tokens[rows], plan)
    predicted = predictions_table(lake, features.events, scores, encoder.scheme, plan.version)
    lake.instance_tokens.replace_day(plan.day, written, version=plan.version)
    lake.predictions.replace_day(plan.day, predicted, version=plan.version)
    return {
        "rows": written.num_rows,
        "predictions": predicted.num_rows,
        "checkpoint": plan.checkpoint,
        "bootstrap": int(plan.bootstrap),
    }


def tokens_table(lake: Project, events: pa.Table, tokens: NDArray[np.float32], plan: Plan) -> pa.Table:
    """Rows of `instance_tokens`: float32 `(rows, dim)` tokens beside their keys and labels."""
    width = tokens.shape[1]
    offsets = np.arange(0, tokens.size + 1, width, dtype=np.int32)
    columns = {
        name: events[name] for name in ("user_id", "timestamp", "event_id", "item_id", *label_columns(lake.config))
    }
    columns["token"] = pa.ListArray.from_arrays(offsets, tokens.ravel())
    columns["version"] = pa.repeat(plan.version, events.num_rows)
    columns["checkpoint"] = pa.repeat(plan.checkpoint, events.num_rows)
    columns["ds"] = events["ds"]
    schema = lake.instance_tokens.schema
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def predictions_table(
    lake: Project,
    events: pa.Table,
    scores: NDArray[np.floating[Any]],
    model: str,
    version: str,
    labels: Sequence[str] | None = None,
) -> pa.Table:
    """Rows of `predictions`: one per event and label, where the event has that label at all.

    Args:
        lake: the lake.
        events: n rows with the labels' columns.
        scores: (n, len(labels)) probabilities.
        model: what `predictions` calls the model.
        version: its version.
        labels: names of the columns of `scores`; by default all.
    """
    names = label_names(lake.config) if labels is None else labels
    return pa.concat_tables(
        [_of_label(lake, events, scores[:, i], label, model, version) for i, label in enumerate(names)]
    )


def _of_label(
    lake: Project, events: pa.Table, scores: NDArray[np.floating[Any]], label: str, model: str, version: str
) -> pa.Table:
    schema = lake.predictions.schema
    columns = {name: events[name] for name in ("event_id", "user_id", "timestamp", "ds")}
    columns["model"] = pa.repeat(model, events.num_rows)
    columns["label"] = pa.repeat(label, events.num_rows)
    columns["value"] = pa.array(scores, pa.float64())
    columns["target"] = events[label]
    columns["version"] = pa.repeat(version, events.num_rows)
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    return table.filter(table["target"].is_valid())
