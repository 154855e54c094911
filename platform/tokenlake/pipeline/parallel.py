"""Work whose parts don't touch, one process a part: a back-fill of several versions, or of a report's models."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from queue import Empty, Queue
from typing import Any, TypeVar

from tokenlake.feast import repository
from tokenlake.lake.project import Project
from tokenlake.pipeline.backfill import (
    Indexed,
    Report,
    backfill,
    count_statistics,
    daily_stages,
    days_of,
    has_work,
    to_feast,
)
from tokenlake.pipeline.statistics import stale_days
from tokenlake.progress import Progress
from tokenlake.times import Day

_Result = TypeVar("_Result")
_CORES = os.cpu_count() or 1


def backfill_parallel(
    lake: Project,
    first: Day | None = None,
    last: Day | None = None,
    *,
    chunk_days: int | None = None,
    index: Indexed = "last",
    progress: Progress | None = None,
) -> Report:
    """Do what `backfill` does for every encoder, then for every model, and for the statistics, each in a process of its own.

    What is up to date is looked at here: a process would take seconds to start, and find nothing to do.

    Raises:
        TokenlakeError: whatever the first failing version raised; the others are finished.
    """
    began = time.monotonic()
    reports: list[Report] = []
    for number, versions in enumerate(daily_stages(lake)):
        here: list[Callable[[Progress], Report]] = []
        parts: list[Callable[[Progress], Report]] = []
        for version in versions:
            part = partial(_backfill, lake, version, first, last, chunk_days, index)
            (parts if has_work(lake, version, first, last) else here).append(part)
        if not number and repository.exists(lake.root) and stale_days(lake, days_of(lake, first, last)):
            parts.append(partial(_statistics, lake, first, last))
        reports += each_in_its_process(parts, progress) + [part(progress or _nobody) for part in here]
    whole = Report(
        [result for report in reports for result in report.results],
        [pair for report in reports for pair in report.skipped],
    )
    to_feast(lake, days_of(lake, first, last), whole, progress)
    whole.seconds = time.monotonic() - began
    return whole


def each_in_its_process(parts: Sequence[Callable[[Progress], _Result]], progress: Progress | None) -> list[_Result]:
    """Call every part with a progress callback, the cores shared out among the processes.

    One process more than there are cores, since parts wait for the disk too, and are seldom of one length.

    Spawned, since torch's threads don't survive a fork. Results come in the order of the parts.
    """
    if not parts:
        return []
    workers = min(len(parts), _CORES + 1)
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(workers, mp_context=context) as pool:
        messages: Queue[Any] = manager.Queue()
        running = [pool.submit(_call, part, max(1, _CORES // workers), messages) for part in parts]
        _relay(running, messages, progress)
        return [future.result() for future in running]


def _call(part: Callable[[Progress], _Result], threads: int, messages: Queue[Any]) -> _Result:
    import torch

    torch.set_num_threads(threads)
    return part(lambda *what: messages.put(what))


def _nobody(*_: object) -> None:
    """Progress that nobody asked for."""


def _backfill(
    lake: Project,
    version: str,
    first: Day | None,
    last: Day | None,
    chunk_days: int | None,
    index: Indexed,
    progress: Progress,
) -> Report:
    return backfill(lake, first, last, version=version, chunk_days=chunk_days, index=index, progress=progress)


def _statistics(lake: Project, first: Day | None, last: Day | None, progress: Progress) -> Report:
    report = Report()
    count_statistics(lake, days_of(lake, first, last), report, progress)
    return report


def _relay(running: Sequence[Future[Any]], messages: Queue[Any], progress: Progress | None) -> None:
    pending: set[Future[Any]] = set(running)
    while pending:
        _, pending = wait(pending, timeout=0.2)
        while True:
            try:
                what = messages.get_nowait()
            except Empty:
                break
            if progress:
                progress(*what)
