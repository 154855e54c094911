"""Run work on a lake in a process that dies on the way: by `kill -9`, by Ctrl-C, or not at all.

`python -m tests.pipeline.kills FOLDER SIGNAL POINTS WORK...` imports everything once, then forks a child for each of
POINTS (`40,90`), which the signal meets at that point; a last child is left alone. WORK is `backfill`, `days` (one by
one, transient errors tried again), `buckets` (the embeddings of the days, in three buckets), `embeddings` (every job of
the embeddings, of all days or of those given, transient errors tried again), or `cli` with its arguments; `race` before
it lets two processes do that at once. Points are what Python's audit hooks tell of files being opened for writing,
renamed and removed, of processes being started, and both ends of each Delta commit. Prints a JSON list of
how each child ended: its exit code, negative for a signal, and how many points it passed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fixtures.patience import HANG_S
from tests.strict import STRICT

_COUNTED = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "subprocess.Popen"}
_WRITES = os.O_WRONLY | os.O_RDWR


def ended(folder: Path, points: Sequence[int], *work: str, how: str = "SIGKILL") -> list[tuple[int, int]]:
    """Exit code and points passed of each child; see the module."""
    told = ",".join(map(str, points))
    command = [sys.executable, *STRICT, "-m", "tests.pipeline.kills", str(folder), how, told, *work]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, env=environment)
    assert done.returncode == 0, done.stderr
    return [(code, passed) for code, passed in json.loads(done.stdout.splitlines()[-1])]


def _arm(at: int, how: signal.Signals, passed: Any) -> None:
    """Send the signal to this process when it has passed so many points."""

    def point() -> None:
        passed.value += 1
        if passed.value == at:
            os.kill(os.getpid(), how)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _COUNTED or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            point()

    sys.addaudithook(hook)
    from tokenlake.lake.tables import Table

    def counted(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **keywords: Any) -> None:
            point()
            method(*arguments, **keywords)
            point()

        return call

    Table._write = counted(Table._write)  # type: ignore[method-assign]  # the process ends with it


def _work(folder: Path, work: Sequence[str]) -> None:
    import tokenlake
    from tokenlake import cli

    lake = tokenlake.open(folder)
    if work[0] == "cli":
        sys.argv = ["tokenlake", *work[1:]]
        cli.main()
    elif work[0] == "backfill":
        lake.backfill()
    elif work[0] == "buckets":
        _buckets(lake)
    elif work[0] == "embeddings":
        _embeddings(lake, work[1:])
    else:
        for day in lake.events.days():
            _as_a_scheduler(lambda day=day: lake.run(day))


def _buckets(lake: Any) -> None:
    from tokenlake.pipeline import jobs

    version = lake.config.embedding_version
    done = lake.catalog.done(version, jobs.EMBED)
    for day in (day for day in lake.events.days() if day not in done):
        jobs.train_embeddings(lake, day, version)
        for bucket in range(3):
            jobs.embed_bucket(lake, day, version, bucket, 3)
        jobs.gather(lake, day, version, 3)


def _embeddings(lake: Any, days: Sequence[str]) -> None:
    from tokenlake.pipeline import jobs

    version = lake.config.embedding_version
    for day in lake.events.days():
        for job in (*jobs.EMBEDDING_JOBS, *jobs.RETRIEVAL_JOBS):
            if not days or day.isoformat() in days:
                _as_a_scheduler(lambda job=job, day=day: job(lake, day, version))


def _as_a_scheduler(call: Callable[[], object]) -> None:
    """Try again after a transient error, as Airflow does."""
    from tokenlake.errors import TransientError

    for _ in range(500):
        try:
            call()
        except TransientError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("500 transient errors")


def _start(folder: Path, at: int | None, how: signal.Signals, work: Sequence[str]) -> tuple[int, Any]:
    passed = multiprocessing.get_context("fork").Value("q", 0, lock=False)
    if pid := os.fork():
        return pid, passed
    code = 1
    try:
        _arm(-1 if at is None else at, how, passed)
        os.dup2(2, 1)
        _work(folder, work)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(child: tuple[int, Any]) -> tuple[int, int]:
    pid, passed = child
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), passed.value


def main() -> None:
    """Run the module's command line."""
    folder, name, points, *work = sys.argv[1:]
    import torch

    # Imported before the forks, and used by none: their threads don't survive one.
    import tokenlake.catalog
    import tokenlake.lake.tables
    import tokenlake.pipeline.backfill
    import tokenlake.pipeline.encoding
    import tokenlake.pipeline.publishing
    import tokenlake.pipeline.training
    import tokenlake.retrieval.graph_build  # noqa: F401

    torch.set_num_threads(1)
    how = signal.Signals[name]
    if work[0] == "race":
        what = work[1:] or ["days"]
        told = [_wait(child) for child in [_start(Path(folder), None, how, what) for _ in range(2)]]
    else:
        plan = [*(int(point) for point in points.split(",") if point), None]
        told = [_wait(_start(Path(folder), at, how, work)) for at in plan]
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
