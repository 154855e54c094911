"""The offline store against Feast's `duckdb` store: `python benchmarks/feast_offline.py [--users N] [--only NAME ...]`.

Both answer the same `store.get_historical_features(...)` over the same Parquet files; their rows are compared. Each try
runs in a process of its own, in turns, after the imports and a try on a small file, so that its peak of memory is its
own; the best time counts. A thread that looks at the memory every millisecond would be part of the time, so the last
try of each store is for the memory alone; what the imports left for the garbage collector goes before. Feast joins each
question with all rows of its user, so its time grows with rows per user: `--users` sets how many share the rows. Data is
built once into `--folder` and used again. `--small` takes a hundredth of it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

STORES = {"tokenlake": "tokenlake.feast.TokenlakeOfflineStore", "duckdb": "duckdb"}
START = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
SPAN_US = 30 * 86_400_000_000
WIDTH = 64
USERS = 20_000
#: Name -> rows of the file, entity rows, and what must be reached.
CASES = {
    "vectors": (1_000_000, 100_000, {"time": 7.0}),
    "values": (10_000_000, 100_000, {"time": 8.0, "memory": 3.0}),
}


def build(folder: Path, name: str, scale: int, users: int) -> Path:
    """The rows and the entity rows; no two rows of a user have one time, so that the answer is one."""
    made = folder / f"{name}-{users}-{scale}"
    if (made / "entities.parquet").exists():
        return made
    made.mkdir(parents=True, exist_ok=True)
    rows, asked, _ = CASES[name]
    rows, asked, users = rows // scale, asked // scale, users // scale
    rng = np.random.default_rng(0)
    user = rng.integers(0, users, rows)
    micros = int(START.timestamp() * 1e6) + rng.integers(0, SPAN_US, rows)
    order = np.lexsort((micros, user))
    same = np.flatnonzero((np.diff(user[order]) == 0) & (np.diff(micros[order]) == 0))
    micros[order[same]] -= 1
    columns = {"user_id": pa.array(user), "event_timestamp": stamps(micros)}
    if name == "vectors":
        flat = pa.array(rng.standard_normal(rows * WIDTH, dtype=np.float32))
        offsets = pa.array(np.arange(0, rows * WIDTH + 1, WIDTH, dtype=np.int32))
        columns["feature"] = pa.ListArray.from_arrays(offsets, flat)
    else:
        columns["feature"] = pa.array(rng.standard_normal(rows))
    pq.write_table(pa.table(columns), made / "rows.parquet")
    asked_at = int(START.timestamp() * 1e6) + rng.integers(0, SPAN_US, asked)
    entities = {"user_id": pa.array(rng.integers(0, users + users // 50, asked)), "event_timestamp": stamps(asked_at)}
    entities["label"] = pa.array(np.arange(asked))
    pq.write_table(pa.table(entities), made / "entities.parquet")
    return made


def stamps(micros: np.ndarray) -> pa.Array:
    return pa.array(micros).cast(pa.timestamp("us", "UTC"))


def opened(kind: str, folder: Path, repository: Path) -> Any:
    """A feature repository over the rows of a folder."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Array, Float32, Float64
    from feast.value_type import ValueType

    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(repository / "registry.db"),
        offline_store={"type": STORES[kind]},
        online_store={"type": "sqlite", "path": str(repository / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    user = Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.INT64)
    dtype = Array(Float32) if folder.name.startswith("vectors") else Float64
    source = FileSource(name="rows", path=str(folder / "rows.parquet"), timestamp_field="event_timestamp")
    view = FeatureView(name="view", entities=[user], schema=[Field(name="feature", dtype=dtype)], source=source)
    store.apply([user, view])
    return store


def one_try(kind: str, folder: Path, warm: Path, *, watched: bool) -> None:
    """In a process of its own: print seconds, bytes at the peak above what was there before, and a digest."""
    warnings.simplefilter("ignore")  # Feast's duckdb store calls what its dependencies have since deprecated
    with tempfile.TemporaryDirectory() as scratch:
        for place in (warm, folder):  # the first one pays for imports
            store = opened(kind, place, Path(scratch))
            entities = pq.read_table(place / "entities.parquet").to_pandas()
            gc.collect()
            watch = Watch() if watched else None
            start = time.perf_counter()
            table = store.get_historical_features(entities, ["view:feature"]).to_arrow()
            took = time.perf_counter() - start
            peak = watch.stop() if watch else None
    print(json.dumps({"seconds": took, "peak": peak, "digest": digest(table)}))


class Watch:
    """The most anonymous memory above what was there, looked at every millisecond."""

    def __init__(self) -> None:
        self._base = self._peak = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @staticmethod
    def _now() -> int:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

    def _run(self) -> None:
        while not self._done.wait(0.001):
            self._peak = max(self._peak, self._now())

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return max(self._peak, self._now()) - self._base


def digest(table: pa.Table) -> str:
    """Of all rows by their labels: equal for equal rows."""
    table = table.select(["label", "user_id", "event_timestamp", "feature"]).sort_by("label")
    moments = table["event_timestamp"].cast(pa.timestamp("us", "UTC"))
    feature = table["feature"].combine_chunks()
    found = hashlib.sha256()
    for array in (table["label"], table["user_id"], moments.cast(pa.int64())):
        found.update(np.ascontiguousarray(array.to_numpy()).tobytes())
    found.update(feature.is_valid().to_numpy(zero_copy_only=False).tobytes())
    values = feature.flatten() if pa.types.is_list(feature.type) else feature.drop_null()
    found.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
    return f"{table.num_rows} {found.hexdigest()}"


def decode(folder: Path) -> float:
    """Seconds that decoding the columns takes alone, in batches, the fastest way that pyarrow has."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        with pq.ParquetFile(folder / "rows.parquet") as file:
            for _batch in file.iter_batches(65_536, columns=["user_id", "event_timestamp", "feature"]):
                pass
        taken.append(time.perf_counter() - start)
    return min(taken)


def run(kind: str, folder: Path, warm: Path, *, watched: bool) -> dict[str, Any]:
    how = "memory" if watched else "time"
    command = [sys.executable, "-W", "ignore", __file__, "--one", kind, str(folder), str(warm), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads([line for line in done.stdout.splitlines() if line.startswith('{"seconds"')][-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a hundredth of the data")
    parser.add_argument("--only", nargs="+", choices=list(CASES))
    parser.add_argument("--users", type=int, default=USERS, help="how many share the rows (default: %(default)s)")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the data is built, and kept")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        kind, folder, warm, how = given.one
        one_try(kind, Path(folder), Path(warm), watched=how == "memory")
        return
    console = Console()
    load = os.getloadavg()[0]
    report = Table(title=f"offline store, {given.users:,} users, {os.cpu_count()} cores, load {load:.1f}")
    for column in ("work", "tokenlake", "of it decoding", "Feast's duckdb", "ratio", "must"):
        report.add_column(column, justify="left" if column == "work" else "right")
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.only or CASES:
            with console.status(name):
                folder = given.folder or Path(scratch)
                warm = build(folder, name, 100, given.users)
                measured = warm if given.small else build(folder, name, 1, given.users)
                measure(name, measured, warm, given.tries, report)
    console.print(report)


def measure(name: str, folder: Path, warm: Path, count: int, report: Table) -> None:
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in STORES}
    for watched in [False] * count + [True]:
        for kind, runs in found.items():
            runs.append(run(kind, folder, warm, watched=watched))
    digests = {run["digest"] for runs in found.values() for run in runs}
    if len(digests) != 1:
        raise SystemExit(f"{name}: the stores found different rows: {digests}")
    seconds = {kind: min(run["seconds"] for run in runs[:-1]) for kind, runs in found.items()}
    peaks = {kind: runs[-1]["peak"] for kind, runs in found.items()}
    ours, theirs = seconds["tokenlake"], seconds["duckdb"]
    must = CASES[name][2]
    floor = decode(folder)
    report.add_row(
        f"{name}, {pq.read_metadata(folder / 'entities.parquet').num_rows:,} x "
        f"{pq.read_metadata(folder / 'rows.parquet').num_rows:,} rows, equal rows",
        f"{ours:.2f} s",
        f"{floor:.2f} s, {floor / ours:.0%}",
        f"{theirs:.2f} s",
        f"{theirs / ours:.1f}x",
        f">= {must['time']:.0f}x",
    )
    memory = f">= {must['memory']:.0f}x" if "memory" in must else ""
    report.add_row(
        "peak memory above the start",
        f"{peaks['tokenlake'] / 1e6:,.0f} MB",
        "",
        f"{peaks['duckdb'] / 1e6:,.0f} MB",
        f"{peaks['duckdb'] / peaks['tokenlake']:.1f}x",
        memory,
    )


if __name__ == "__main__":
    main()
