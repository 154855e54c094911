"""A back-fill with one process per version: their days don't touch."""

from __future__ import annotations

import os
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tokenlake.lake.lake import Lake
from tokenlake.lake.lake import open as open_lake
from tokenlake.pipeline.backfill import Progress, Report, all_versions, backfill
from tokenlake.times import Day


def backfill_parallel(
    lake: Lake,
    first: Day | None = None,
    last: Day | None = None,
    *,
    chunk_days: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Do what `backfill` does for every encoder, each in a process of its own, the cores shared out.

    Raises:
        TokenlakeError: whatever the first failing version raised; the others are finished.
    """
    versions = all_versions(lake)
    threads = max(1, (os.cpu_count() or 1) // len(versions))
    # Spawned, since torch's threads don't survive a fork.
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(len(versions), mp_context=context) as pool:
        news: Queue[Any] = manager.Queue()
        running = [pool.submit(_one, lake.file, name, first, last, chunk_days, threads, news) for name in versions]
        _relay(running, news, progress)
        reports = [future.result() for future in running]
    return Report(
        [result for report in reports for result in report.results],
        [pair for report in reports for pair in report.skipped],
        max(report.seconds for report in reports),
    )


def _one(
    file: Path, version: str, first: Day | None, last: Day | None, chunk_days: int | None, threads: int, news: Queue[Any]
) -> Report:
    import torch

    torch.set_num_threads(threads)

    def tell(*what: object) -> None:
        news.put(what)

    return backfill(open_lake(file), first, last, version=version, chunk_days=chunk_days, progress=tell)


def _relay(running: list[Future[Report]], news: Queue[Any], progress: Progress | None) -> None:
    pending: set[Future[Report]] = set(running)
    while pending:
        _, pending = wait(pending, timeout=0.2)
        while True:
            try:
                what = news.get_nowait()
            except Empty:
                break
            if progress:
                progress(*what)
