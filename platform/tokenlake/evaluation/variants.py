"""Other user encoders on the same events, trained and embedded for comparison: `tokenlake evaluate --retrain`.

Each has its own version in the lake's tables; the daily jobs do not continue it.
"""

from __future__ import annotations

from tokenlake.config import EMBEDDINGS, Embeddings
from tokenlake.lake.project import Project
from tokenlake.progress import Progress
from tokenlake.times import Day

#: Widths of the embedding that are compared.
DIMS = (16, 32, 64)


def variants(lake: Project) -> dict[str, Project]:
    """Name of the variant -> the lake with that change: time inputs on or off, and other widths of the embedding.

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
    """Train and embed the missing days of a variant up to `last`, chunk by chunk, as a back-fill does."""
    from tokenlake.pipeline.backfill import backfill  # imports torch, which a report without variants does not need

    def report_progress(_: str, done: int, total: int) -> None:
        progress(f"training {name}", done, total)

    backfill(lake, last=last, version=EMBEDDINGS, progress=report_progress)


def _with(lake: Project, spec: Embeddings, change: dict[str, int]) -> Project:
    other = Embeddings.model_validate(spec.model_dump() | {"buckets": spec.buckets} | change)
    return type(lake)(lake.file, lake.config.model_copy(update={"embeddings": other}))
