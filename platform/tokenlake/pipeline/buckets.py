"""A day's embedding in buckets: each stages the vectors of its users, and `gather` puts them together when all are there.

Staging: `<data>/staging/<version>/<day>/<bucket>-of-<buckets>.arrow`, written whole or not at all, each with what it was
made of (checkpoint, state of the events). A file made from anything else is never used, but made again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.catalog import Plan
from tokenlake.errors import CorruptionError, NotFoundError, SchemaError
from tokenlake.features.keys import Ints
from tokenlake.lake.project import Project
from tokenlake.pipeline.embedding import EmbeddingInputs, JobSummary, Vectors, events_fingerprint
from tokenlake.storage.arrays import as_ints, read_arrays, write_arrays


def stage(lake: Project, plan: Plan, bucket: int, buckets: int) -> JobSummary:
    """Embed a bucket's users into its staging file, unless that is there already.

    Raises:
        SchemaError: no such bucket.
    """
    if not 0 <= bucket < buckets:
        raise SchemaError(f"bucket {bucket} of {buckets} given; buckets are numbered from 0")
    path = _path(lake, plan, bucket, buckets)
    found = _staged(path, _origin(plan, events_fingerprint(lake, plan)))
    if found is None:
        inputs, origin = _read(lake, plan)
        found = places, vectors = inputs.vectors(bucket, buckets)
        write_arrays(path, {"places": pa.array(places), "vectors": pa.array(vectors.ravel())}, origin)
    return {"rows": len(found[0]), "bucket": bucket, "buckets": buckets, "checkpoint": plan.checkpoint}


def gather(lake: Project, plan: Plan, buckets: int) -> JobSummary:
    """Put all buckets together into the day's tables, to what `embed_day` writes, bit for bit.

    A bucket that is missing, damaged, or was made of other events or by another plan is made here.
    """
    if buckets < 1:
        raise SchemaError(f"buckets={buckets} given; at least 1 is needed")
    inputs, origin = _read(lake, plan)
    out = np.zeros((len(inputs.users), inputs.width), np.float32)
    missing = 0
    for bucket in range(buckets):
        found = _staged(_path(lake, plan, bucket, buckets), origin)
        if found is None:
            missing += 1
        places, vectors = found or inputs.vectors(bucket, buckets)
        out[places] = vectors.reshape(-1, out.shape[1])
    return inputs.save(out) | {"buckets": buckets, "made_here": missing}


def discard(lake: Project, plan: Plan) -> None:
    """Remove what was staged for a day."""
    shutil.rmtree(_folder(lake, plan), ignore_errors=True)


def _read(lake: Project, plan: Plan) -> tuple[EmbeddingInputs, dict[str, str]]:
    """Read the events and their fingerprint; again where more events arrived meanwhile."""
    while True:
        state = events_fingerprint(lake, plan)
        inputs = EmbeddingInputs(lake, plan)
        if events_fingerprint(lake, plan) == state:
            return inputs, _origin(plan, state)


def _origin(plan: Plan, events: str) -> dict[str, str]:
    return {"checkpoint": plan.checkpoint, "watermark": str(plan.watermark), "events": events}


def _staged(path: Path, origin: dict[str, str]) -> tuple[Ints, Vectors] | None:
    try:
        arrays, header = read_arrays(path)
    except (NotFoundError, CorruptionError):
        return None
    if header != origin:
        return None
    places = as_ints(arrays["places"])
    vectors: NDArray[np.float32] = arrays["vectors"].to_numpy()
    return places, vectors


def _folder(lake: Project, plan: Plan) -> Path:
    return lake.data / "staging" / plan.version / plan.day.isoformat()


def _path(lake: Project, plan: Plan, bucket: int, buckets: int) -> Path:
    return _folder(lake, plan) / f"{bucket}-of-{buckets}.arrow"
