"""Airflow's LocalExecutor, its workers forked from a process that has imported what the jobs need.

Airflow forks a process for every task. Whatever such a process imports is gone with it, and the next one imports it
again: torch takes 2 s of CPU, Feast 5 s, and a day has twenty tasks.
"""

from __future__ import annotations

import contextlib
import importlib

from airflow.executors.local_executor import LocalExecutor

from tokenlake.scheduling.tasks import feature_repository

#: What the tasks import. None of these starts a thread that a fork would miss: OpenMP's come with the first tensor.
JOBS = (
    "tokenlake.pipeline.jobs",
    "tokenlake.pipeline.training",
    "tokenlake.pipeline.encoding",
    "tokenlake.pipeline.embedding",
    "tokenlake.pipeline.publishing",
    "tokenlake.retrieval.graph_build",
)
FEAST = ("tokenlake.feast.materialize",)


class PreloadedExecutor(LocalExecutor):
    """A LocalExecutor whose tasks start with the jobs' packages in memory."""

    def start(self) -> None:
        """Import the packages, then start the workers; what cannot be imported is left to the tasks, which say so."""
        for module in (*JOBS, *(FEAST if feature_repository() else ())):
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        super().start()
