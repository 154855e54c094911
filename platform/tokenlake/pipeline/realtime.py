"""Tokens of new events in real time: the implementation of `lake.encode`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import NotFoundError
from tokenlake.features import checkpoints
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.features.instances import Featurizer
from tokenlake.features.versions import encoder_of, exists
from tokenlake.lake.ingest import canonical
from tokenlake.lake.project import Project
from tokenlake.times import Day
from tokenlake.tokens.quantize import round_to


def encode(lake: Project, events: pa.Table, version: str) -> NDArray[np.float32]:
    """Encode rows with the checkpoint and count state of their day's plan, or for a day without one the newest."""
    rows = canonical(lake, events)
    tokens = np.empty((rows.num_rows, encoder_of(lake, version).dim), np.float32)
    new = _not_in_lake(lake, rows)
    for day in sorted(pc.unique(rows["ds"]).to_pylist()):
        of_day = np.flatnonzero(pc.equal(rows["ds"], pa.scalar(day)).to_numpy())
        tokens[of_day] = _encode_day(lake, version, day, rows.take(of_day), new)
    return round_to(tokens, lake.config.tokens.dtype)


def _encode_day(lake: Project, version: str, day: Day, rows: pa.Table, new: pa.Table) -> NDArray[np.float32]:
    plan = lake.catalog.plan(version, day)
    checkpoint = checkpoints.load(lake, version, _checkpoint_for(lake, version, day))
    watermark = plan.watermark if plan else lake.watermark()
    counts = lake.shared(DayFeatureCache).counts_of(rows, new.filter(pc.field("ds") <= pa.scalar(day)), day, watermark)
    instances = Featurizer(lake.config, encoder_of(lake, version))(rows, counts, checkpoint.vocabulary)
    tokens: NDArray[np.float32] = checkpoint.learner.encode(instances).numpy()
    return tokens


def _checkpoint_for(lake: Project, version: str, day: Day) -> str:
    """The checkpoint of the day's plan, or while that is not trained yet the newest of an earlier day."""
    plans = [p for p in lake.catalog.plans(version) if p.day <= day and exists(lake, version, p.checkpoint)]
    if not plans:
        raise NotFoundError(f"{version} has no checkpoint for {day} yet; `tokenlake backfill {lake.root}` trains one")
    return max(plans, key=lambda plan: plan.day).checkpoint


def _not_in_lake(lake: Project, rows: pa.Table) -> pa.Table:
    """Rows of the call that ingest would accept: the lake's own are counted from the lake."""
    there = [lake.events.read(day=day, columns=["event_id"])["event_id"] for day in pc.unique(rows["ds"]).to_pylist()]
    known = pa.chunked_array([chunk for column in there for chunk in column.chunks], rows.schema.field("event_id").type)
    return rows.filter(pc.invert(pc.is_in(rows["event_id"], value_set=known)))
