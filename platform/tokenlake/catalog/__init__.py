"""The catalog: runs of jobs with their inputs and results, in SQLite or Postgres.

runs ─┬─ artefacts      what a run wrote
      └─ metrics        what a run measured
versions ─┬─ plans      which checkpoint encodes a day; recorded once, never changed
          ├─ checkpoints
          └─ index_versions
reruns                  days that got late events
"""

from tokenlake.catalog.catalog import Catalog
from tokenlake.catalog.records import (
    Artefact,
    CheckpointRecord,
    IndexVersion,
    Metric,
    Plan,
    Restatement,
    RunRecord,
    Version,
)
from tokenlake.catalog.runs import Run

__all__ = [
    "Artefact",
    "Catalog",
    "CheckpointRecord",
    "IndexVersion",
    "Metric",
    "Plan",
    "Restatement",
    "Run",
    "RunRecord",
    "Version",
]
