"""Which checkpoints of a model are kept: the newest eight, and the newest of each month. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from tokenlake.catalog import CheckpointRecord
from tokenlake.features.versions import is_model, path_of
from tokenlake.lake.project import Project
from tokenlake.storage import atomic

#: So many of the newest checkpoints are kept.
NEWEST = 8


def kept(records: Sequence[CheckpointRecord]) -> set[str]:
    """Names of the checkpoints that are kept, of all that were trained, in their order."""
    newest_of_month = {(r.trained_to.year, r.trained_to.month): r.checkpoint for r in records if r.trained_to}
    return {r.checkpoint for r in records[-NEWEST:]} | set(newest_of_month.values())


def outdated(lake: Project, version: str) -> set[str]:
    """Names of the checkpoints that a model no longer keeps; of a version of tokens or embeddings none."""
    if not is_model(lake, version):
        return set()
    records = lake.catalog.checkpoints(version)
    return {record.checkpoint for record in records} - kept(records)


def remove_outdated(lake: Project, version: str) -> None:
    """Delete the folders of checkpoints that are no longer kept; the catalog keeps their records."""
    folder = path_of(lake, version, "")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    for name in sorted(outdated(lake, version)):
        # With a dot before it, what was left of a removal that was cut short.
        if any(found == name or found.startswith(f".{name}-") for found in there):
            atomic.remove(folder / name)
