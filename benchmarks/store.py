"""The token store against `ndarray.copy()` and DuckDB: `python benchmarks/store.py [--full] [--only NAME ...]`.

Each line tells what was measured, what a peer took for the same in the same run, and what must be reached. Times are
the best of several tries that alternate with the peer's. `--full` adds the store of 50M tokens in 500 days (8 GB of
disk, some minutes). Data is built once into `--folder` and used again.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from tokenlake.tokens import compaction
from tokenlake.tokens.store import TokenStore

DAY = 86_400_000_000
USERS = 20_000
console = Console()


def day(number: int) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(days=number)


def best(tries: int, **work: Callable[[], object]) -> dict[str, float]:
    """Seconds of the fastest try of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(tries):
        for name, call in work.items():
            start = time.perf_counter()
            result = call()
            times[name].append(time.perf_counter() - start)
            del result
    return {name: min(found) for name, found in times.items()}


def build(path: Path, days: int, rows: int, dim: int = 64, dtype: str = "float16", users: int = USERS) -> TokenStore:
    """A store of so many days; `rows` a day."""
    if path.exists():
        return TokenStore.open(path)
    rng = np.random.default_rng(0)
    store = TokenStore.create(path, dim=dim, dtype=dtype)
    tokens = rng.standard_normal((rows, dim), dtype=np.float32).astype(dtype)
    with console.status(f"building {days} days of {rows:,} rows"):
        for number in range(days):
            times = number * DAY + rng.integers(0, DAY, rows)
            store.write_day(day(number), rng.integers(0, users, rows), times, np.roll(tokens, number, axis=0))
    return store


def queries(days: int, count: int = 4096, users: int = USERS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(0, users, count), rng.integers(days // 2 * DAY, days * DAY, count)


class Report:
    def __init__(self) -> None:
        self.table = Table(title=f"token store, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for name in ("work", "took", "peer", "ratio", "must"):
            self.table.add_column(name, justify="left" if name == "work" else "right")

    def line(self, work: str, took: str, peer: str = "", ratio: str = "", must: str = "") -> None:
        self.table.add_row(work, took, peer, ratio, must)


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"


def fetch_5m(folder: Path, report: Report) -> None:
    """As the days left it, and compacted: 4096 queries, and DuckDB's best."""
    store = build(folder / "5m", 50, 100_000)
    if not (folder / "5m-compact").exists():
        shutil.copytree(store.path, folder / "5m-compact")
        TokenStore.open(folder / "5m-compact").compact()
    compacted = TokenStore.open(folder / "5m-compact")
    users, before = queries(50)
    name, fresh = fetch_many(store, users, before, report)
    fetch_many(compacted, users, before, report)
    duck = duck_last(store, users, before, 256)
    report.line(name, ms(fresh), f"DuckDB {ms(duck)}", f"{duck / fresh:.0f}x", ">= 100x")


def fetch_many(store: TokenStore, users: np.ndarray, before: np.ndarray, report: Report) -> tuple[str, float]:
    batch, again = store.fetch(users, before=before), store.fetch(users, before=before)
    arrays = (batch.values, batch.timestamps, batch.offsets)
    took = best(
        30,
        copy=lambda: [a.copy() for a in arrays],
        fresh=lambda: store.fetch(users, before=before),
        out=lambda: store.fetch(users, before=before, out=again),
    )
    rows = len(batch.values)
    name = f"4096 x last 256 of 5M, {rows:,} rows, {store.status().slices} slices"
    peer = f"ndarray.copy() {ms(took['copy'])}"
    report.line(name, ms(took["fresh"]), peer, f"{took['copy'] / took['fresh']:.2f}x", ">= 1.2x")
    report.line(f"{name}, out=", ms(took["out"]), peer, f"{took['copy'] / took['out']:.2f}x", ">= 1.6x")
    return name, took["fresh"]


def duck_last(store: TokenStore, users: np.ndarray, before: np.ndarray, length: int) -> float:
    """DuckDB's window over (user, time, row number), and NumPy to take the tokens by row number."""
    everything = store.fetch(np.arange(USERS), before=np.iinfo(np.int64).max, length=1 << 40)
    user = np.repeat(np.arange(USERS), everything.lengths)
    con = duckdb.connect()
    con.execute("set threads = 2")
    con.register("t0", pa.table({"u": user, "ts": everything.timestamps, "row": np.arange(len(user))}))
    con.execute("create table t as select * from t0")
    con.register("q", pa.table({"i": np.arange(len(users)), "u": users, "before": before}))

    def run() -> np.ndarray:
        found = con.sql(
            f"select i, row from q join t using (u) where ts < before "
            f"qualify row_number() over (partition by i order by ts desc) <= {length} order by i, ts"
        ).to_arrow_table()
        return everything.values[found["row"].to_numpy()]

    return best(2, run=run)["run"]


def fetch_50m(folder: Path, report: Report) -> None:
    small, large = build(folder / "5m", 50, 100_000), build(folder / "50m", 500, 100_000)
    few, many = queries(50), queries(500)
    outs = [small.fetch(few[0], before=few[1]), large.fetch(many[0], before=many[1])]
    for name in ("as written", "after compact()"):
        took = best(
            20,
            small=lambda: small.fetch(few[0], before=few[1], out=outs[0]),
            large=lambda: large.fetch(many[0], before=many[1], out=outs[1]),
        )
        status = large.status()
        work = f"the same of 50M in 500 days, {status.slices} slices, {name}"
        report.line(
            work, ms(took["large"]), f"of 5M {ms(took['small'])}", f"{took['large'] / took['small']:.2f}x", "<= 1.5x"
        )
        if status.slices == 1:
            return
        start = time.perf_counter()
        large.compact()
        report.line(
            "compact() of 50M rows",
            f"{time.perf_counter() - start:.1f} s",
            "",
            f"{50 / (time.perf_counter() - start):.1f}M rows/s",
        )


def one_user(folder: Path, report: Report) -> None:
    store = build(folder / "5m", 50, 100_000)
    for name, store_ in (("", store), (", after append()", with_tail(folder, store))):
        times = np.empty(4000)
        for i in range(-500, 4000):
            start = time.perf_counter()
            store_.fetch(7, before=45 * DAY, length=256)
            times[max(i, 0)] = time.perf_counter() - start
        p50, p99 = np.percentile(times, [50, 99]) * 1e6
        report.line(f"one user, last 256, warm{name}", f"p50 {p50:.1f} us, p99 {p99:.1f} us", "", "", "30, 200 us")


def with_tail(folder: Path, store: TokenStore) -> TokenStore:
    path = folder / "5m-tail"
    if not path.exists():
        shutil.copytree(store.path, path)
    copy = TokenStore.open(path)
    copy.append(np.arange(100), 45 * DAY - 1 - np.arange(100), np.ones((100, 64)))
    return copy


def last_128(folder: Path, report: Report) -> None:
    rng = np.random.default_rng(2)
    events, count = 10_000_000, 100_000
    users, times = rng.integers(0, 50_000, events), rng.integers(0, DAY, events)
    tokens = rng.standard_normal((events, 1), dtype=np.float32)
    path = folder / "10m"
    shutil.rmtree(path, ignore_errors=True)
    store = TokenStore.create(path, dim=1, dtype="float32")
    start = time.perf_counter()
    store.write_day(day(0), users, times, tokens)
    report.line("build of 10M events", f"{time.perf_counter() - start:.2f} s", "", "", "<= 2 s")
    who, before = rng.integers(0, 50_000, count), rng.integers(DAY // 2, DAY, count)
    with peak() as memory:
        batch = store.fetch(who, before=before, length=128)
    size = sum(a.nbytes for a in (batch.values, batch.timestamps, batch.offsets))
    over = (memory[0] - size) / 1e6
    del batch
    took = best(5, fetch=lambda: store.fetch(who, before=before, length=128))["fetch"]
    con = duckdb.connect()
    con.execute("set threads = 2")
    con.register("t0", pa.table({"u": users, "ts": times, "x": tokens[:, 0]}))
    con.execute("create table t as select * from t0")
    con.register("q", pa.table({"i": np.arange(count), "u": who, "before": before}))
    sql = "select i, arg_max(x, ts, 128) from q join t using (u) where ts < before group by i"
    duck = best(1, run=lambda: con.sql(sql).to_arrow_table())["run"]
    report.line("100k x last 128 of 10M", ms(took), f"DuckDB {ms(duck)}", f"{duck / took:.0f}x", "<= 350 ms")
    report.line("its memory over the output", f"{over:,.0f} MB", "", "", "<= 200 MB")


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most anonymous memory above what was there."""

    def now() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    base, found, done = now(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            found[0] = max(found[0], now() - base)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        found[0] = max(found[0], now() - base)
        done.set()
        thread.join()


def open_1000(folder: Path, report: Report) -> None:
    path = folder / "1000"
    if not path.exists():
        store = TokenStore.create(path, dim=8, dtype="float16")
        due, compaction.next_merge = compaction.next_merge, lambda _: None  # as no writer would leave it
        with console.status("building 1,000 segments"):
            for number in range(1000):
                store.write_day(day(number), [1, 2, 3], [number * DAY + i for i in range(3)], np.ones((3, 8)))
        compaction.next_merge = due
    took = best(7, open=lambda: TokenStore.open(path))["open"]
    first = TokenStore.open(path)
    start = time.perf_counter()
    first.fetch(1, before=1000 * DAY, length=1000)
    report.line("open a store of 1,000 segments", ms(took), "", "", "<= 50 ms")
    report.line("first fetch of all of them", ms(time.perf_counter() - start))


def write_day(folder: Path, report: Report) -> None:
    rng = np.random.default_rng(3)
    rows = 1_000_000
    users, times = rng.integers(0, 200_000, rows), rng.integers(0, DAY, rows)
    tokens = rng.standard_normal((rows, 64), dtype=np.float32).astype(np.float16)
    plain = folder / "plain.npy"
    shutil.rmtree(folder / "write", ignore_errors=True)
    store = TokenStore.create(folder / "write", dim=64, dtype="float16")

    def save() -> None:
        with plain.open("wb") as file:
            np.save(file, tokens, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())

    took = best(4, write=lambda: store.write_day(day(0), users, times, tokens), save=save)
    peer = f"np.save + fsync {ms(took['save'])}"
    report.line(
        "write_day, 1M x 64 fp16",
        f"{rows / took['write'] / 1e6:.2f}M rows/s",
        peer,
        f"{took['save'] / took['write']:.2f}x",
        ">= 1M rows/s",
    )


def append(folder: Path, report: Report) -> None:
    shutil.rmtree(folder / "append", ignore_errors=True)
    store = TokenStore.create(folder / "append", dim=64, dtype="float16")
    tokens = np.ones((100, 64), np.float16)
    groups = 200
    plain = (folder / "plain.log").open("wb", buffering=0)
    data = bytes(tokens.nbytes + 2400)

    def ours() -> None:
        for i in range(groups):
            store.append(np.arange(100), np.full(100, i), tokens)

    def log() -> None:
        for _ in range(groups):
            plain.write(data)
            os.fdatasync(plain.fileno())

    took = best(4, ours=ours, log=log)
    rate = groups * 100 / took["ours"]
    peer = f"write + fdatasync {groups * 100 / took['log']:,.0f}/s"
    report.line(
        "append, groups of 100 x 64 fp16",
        f"{rate:,.0f} rows/s",
        peer,
        f"{took['log'] / took['ours']:.2f}x",
        ">= 20,000/s",
    )


ROWS = {f.__name__: f for f in (fetch_5m, one_user, last_128, open_1000, write_day, append)}
FULL = {f.__name__: f for f in (fetch_50m,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also the 50M tokens")
    parser.add_argument("--only", nargs="+", choices=[*ROWS, *FULL])
    parser.add_argument("--folder", type=Path, help="where the data is built, and kept")
    given = parser.parse_args()
    names = given.only or [*ROWS, *(FULL if given.full else [])]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        report = Report()
        for name in names:
            (ROWS | FULL)[name](folder, report)
        console.print(report.table)


if __name__ == "__main__":
    main()
