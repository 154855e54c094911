"""Airflow's LocalExecutor with workers that are forked after the jobs' packages were imported.

Airflow forks a process for every task, which would import the packages again: torch takes 2 s of CPU, Feast 5 s, and a
day has twenty tasks.
"""

from __future__ import annotations

import contextlib
import importlib

from airflow.executors.local_executor import LocalExecutor

from tokenlake.scheduling.tasks import feature_repository

#: Packages of the tasks. Importing them starts no thread, which a fork would lose: OpenMP starts with the first tensor.
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
    """A LocalExecutor whose tasks start with the jobs' packages already imported."""

    def start(self) -> None:
        """Import the packages, then start the workers; an import error is ignored here, and raised in the tasks."""
        for module in (*JOBS, *(FEAST if feature_repository() else ())):
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        super().start()
