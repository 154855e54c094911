"""Other user encoders on the same events, trained and embedded for comparison: `tokenlake evaluate --retrain`.

Each is a lineage of its own in the lake's tables, with a version of its own; the daily jobs do not go on with it.
"""

from __future__ import annotations

from tokenlake.config import EMBEDDINGS, Embeddings
from tokenlake.lake.project import Project
from tokenlake.progress import Progress
from tokenlake.times import Day

#: Widths of the vector that are compared.
DIMS = (16, 32, 64)


def variants(lake: Project) -> dict[str, Project]:
    """The lake, with the time encoder switched, and with vectors of each other width; by what is different.

    Raises:
        ConfigError: the config has no `embeddings` block.
    """
    spec = lake.config.require_embeddings()
    switched: dict[str, dict[str, int]] = {
        "without time encoder" if spec.time else "with time encoder": {"time": not spec.time}
    }
    widths = {f"vectors of {dim}": {"dim": dim} for dim in DIMS if dim != spec.dim}
    return {name: _with(lake, spec, change) for name, change in (switched | widths).items()}


def embed(lake: Project, name: str, last: Day, progress: Progress) -> None:
    """Train and embed what is missing of a variant, up to a day: chunk by chunk, as a back-fill of the lake does."""
    from tokenlake.pipeline.backfill import backfill  # needs torch, which a report without variants may do without

    def told(_: str, done: int, total: int) -> None:
        progress(f"training {name}", done, total)

    backfill(lake, last=last, version=EMBEDDINGS, progress=told)


def _with(lake: Project, spec: Embeddings, change: dict[str, int]) -> Project:
    other = Embeddings.model_validate(spec.model_dump() | {"buckets": spec.buckets} | change)
    return type(lake)(lake.file, lake.config.model_copy(update={"embeddings": other}))
