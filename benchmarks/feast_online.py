"""Feast's online store on our files against its SQLite store: `python benchmarks/feast_online.py [--rows N] [--only NAME ...]`.

Both hold the same values; each line tells what ours took, what Feast's took for the same in the same run (in turns, the
best of several tries), and what must be reached.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Array, Float32, Int64
from feast.utils import _convert_arrow_to_proto
from feast.value_type import ValueType
from rich.console import Console
from rich.table import Table

import tokenlake
from tokenlake.feast import TokenSource
from tokenlake.tokens.store import TokenStore

START = dt.datetime(2017, 3, 1, tzinfo=dt.UTC)
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
OURS = "tokenlake.feast.TokenlakeOnlineStore"
DIM, LENGTH, ASKED, USERS = 64, 256, 128, 2000
console = Console()


class Report:
    def __init__(self) -> None:
        self.table = Table(title=f"Feast online store, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for name in ("work", "took", "Feast's", "ratio", "must"):
            self.table.add_column(name, justify="left" if name == "work" else "right")

    def line(self, work: str, took: float, peer: float, must: str = "") -> None:
        self.table.add_row(work, f"{took * 1e3:,.1f} ms", f"{peer * 1e3:,.1f} ms", f"{peer / took:.1f}x", must)


def best(tries: int, **work: Callable[[], object]) -> dict[str, float]:
    """Seconds of the fastest try of each, taken in turns; a callable may tell its own seconds."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(tries):
        for name, call in work.items():
            start = time.perf_counter()
            told = call()
            times[name].append(told if isinstance(told, float) else time.perf_counter() - start)
            del told
    return {name: min(found) for name, found in times.items()}


def again(call: Callable[[], object]) -> float:
    """Seconds of the second of two calls: what others leave in the processor's caches weighs on the first."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def open_store(folder: Path, kind: str, lake: Path | None = None, engine: str = "local") -> FeatureStore:
    folder.mkdir(parents=True)
    online = {"type": kind, "path": str(folder / "online"), **({"lake": str(lake)} if lake else {})}
    return FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": "file"},
            online_store=online,
            batch_engine={"type": engine},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )


def embeddings(folder: Path, rows: int) -> tuple[FeatureView, pa.Table]:
    """128-d vectors of so many users, and the view over their file."""
    rng = np.random.default_rng(0)
    vectors = pa.array(rng.standard_normal(rows * 128, dtype=np.float32))
    table = pa.table(
        {
            "user_id": rng.permutation(rows),
            "embedding": pa.FixedSizeListArray.from_arrays(vectors, 128).cast(pa.list_(pa.float32())),
            "event_timestamp": pa.array([START] * rows, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, folder / "embeddings.parquet")
    source = FileSource(name="file", path=str(folder / "embeddings.parquet"), timestamp_field="event_timestamp")
    fields = [Field(name="user_id", dtype=Int64), Field(name="embedding", dtype=Array(Float32))]
    return FeatureView(name="embeddings", entities=[USER], schema=fields, source=source), table


def bulk_load(folder: Path, report: Report, rows: int) -> None:
    """Arrow columns into the store: Feast's goes by protobuf objects, ours takes the columns."""
    view, table = embeddings(folder, rows)
    theirs, ours = open_store(folder / "theirs", "sqlite"), open_store(folder / "ours", OURS)
    for store in (theirs, ours):
        store.apply([USER, view])
    protos: list[Any] = []

    def fresh(store: FeatureStore, write: Callable[[Any], object]) -> float:
        provider = store._get_provider()
        provider.online_store.teardown(store.config, [view], [])
        provider.online_store.update(store.config, [], [view], [], [], partial=False)
        start = time.perf_counter()
        write(provider.online_store)
        return time.perf_counter() - start

    def convert() -> None:
        protos[:] = _convert_arrow_to_proto(table, view, {"user_id": ValueType.INT64})

    took = best(
        3,
        convert=convert,
        sqlite=lambda: fresh(theirs, lambda s: s.online_write_batch(theirs.config, view, protos, None)),
        protos=lambda: fresh(ours, lambda s: s.online_write_batch(ours.config, view, protos, None)),
        **{f"arrow{i}": lambda: fresh(ours, lambda s: s.write_arrow(ours.config, view, table)) for i in range(3)},
    )
    arrow = min(took[f"arrow{i}"] for i in range(3))
    theirs_whole = took["convert"] + took["sqlite"]
    what = f"{rows:,} x 128-d"
    report.line(f"bulk load of {what} from Arrow", arrow, theirs_whole, ">= 100x")
    report.line("the same, by Feast's protobuf objects", took["convert"] + took["protos"], theirs_whole)
    report.line("online_write_batch alone, objects at hand", took["protos"], took["sqlite"])
    raw = table["embedding"].combine_chunks().flatten().buffers()[1]
    plain = min(write_plain(folder / "plain", raw) for _ in range(3))
    report.line("write + fdatasync of the plain vectors", plain, theirs_whole)


def write_plain(path: Path, data: pa.Buffer) -> float:
    start = time.perf_counter()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fdatasync(file.fileno())
    took = time.perf_counter() - start
    path.unlink()
    return took


def materialize(folder: Path, report: Report, rows: int) -> None:
    """`store.materialize` from Parquet, both through Feast's `file` offline store."""
    view, _ = embeddings(folder, rows)
    stores = {
        "theirs": open_store(folder / "theirs", "sqlite"),
        "ours": open_store(folder / "ours", OURS, engine="tokenlake.feast.TokenlakeComputeEngine"),
    }
    for store in stores.values():
        store.apply([USER, view])
    window = (START - dt.timedelta(days=1), START + dt.timedelta(days=1))
    took = best(1, **{name: lambda s=store: s.materialize(*window) for name, store in stores.items()})
    report.line(f"store.materialize of {rows:,} x 128-d from Parquet", took["ours"], took["theirs"])


def sequences(folder: Path, report: Report, rows: int) -> None:
    """128 users x their last 256 tokens of 64-d: the same values from SQLite, our files, and the token store."""
    lake_folder = folder / "lake"
    lake_folder.mkdir()
    (lake_folder / "tokenlake.yaml").write_text("project: bench\nevents: {}\ntokens: {encoders: {iat: {dim: 64}}}\n")
    lake = tokenlake.open(lake_folder)
    tokens = TokenStore.create(lake.store_path(lake.resolve("iat")), dim=DIM, dtype="float16")
    rng = np.random.default_rng(0)
    for number in range(4):
        day = START.date() + dt.timedelta(days=number)
        times = np.datetime64(day, "us").astype(np.int64) + np.tile(np.arange(LENGTH // 2) * 10**6, USERS)
        values = rng.standard_normal((len(times), DIM), dtype=np.float32)
        tokens.write_day(day, np.repeat(np.arange(USERS), LENGTH // 2), times, values)
    tokens.compact()
    fields = [
        Field(name="user_id", dtype=Int64),
        Field(name="tokens", dtype=Array(Float32)),
        Field(name="timestamps", dtype=Array(Int64)),
    ]
    batch = tokens.fetch(np.arange(USERS), before=time.time_ns() // 1000, length=LENGTH)
    held = pa.table(
        {
            "user_id": np.arange(USERS),
            "tokens": pa.ListArray.from_arrays(
                pa.array(batch.offsets * DIM, pa.int32()), pa.array(batch.floats().reshape(-1))
            ),
            "timestamps": pa.ListArray.from_arrays(pa.array(batch.offsets, pa.int32()), pa.array(batch.timestamps)),
            "event_timestamp": pa.array([START] * USERS, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(held, folder / "tokens.parquet")
    file = FileSource(name="file", path=str(folder / "tokens.parquet"), timestamp_field="event_timestamp")
    copied = FeatureView(name="seq", entities=[USER], schema=fields, source=file)
    live = FeatureView(name="seq", entities=[USER], schema=fields, source=TokenSource(name="live", length=LENGTH))
    stores = {
        "sqlite": open_store(folder / "theirs", "sqlite"),
        "files": open_store(folder / "ours", OURS),
        "tokens": open_store(folder / "live", OURS, lake_folder),
    }
    for name, store in stores.items():
        view = live if name == "tokens" else copied
        store.apply([USER, view])
        if name != "tokens":
            data = _convert_arrow_to_proto(held, view, {"user_id": ValueType.INT64})
            store._get_provider().online_write_batch(store.config, view, data, None)
    who = rng.permutation(USERS)[:ASKED]
    asked = [{"user_id": int(user)} for user in who]

    def ask(store: FeatureStore) -> Any:
        return store.get_online_features(["seq:tokens", "seq:timestamps"], asked)

    answers = {name: ask(store) for name, store in stores.items()}
    lists = [[list(result.values) for result in answers[name].proto.results] for name in stores]
    assert lists[0] == lists[1] == lists[2], "the stores answer alike"
    asks = {name: lambda s=store: ask(s) for name, store in stores.items()}
    took = best(15, **asks)
    warm = best(15, **{name: lambda call=call: again(call) for name, call in asks.items()})
    took |= best(
        7,
        whole=lambda: ask(stores["sqlite"]).to_dict(),
        sdk=lambda: tokens.fetch(who, before=time.time_ns() // 1000, length=LENGTH),
    )
    what = f"{ASKED} users x {LENGTH} tokens of {DIM}-d"
    report.line(f"get_online_features, {what}, before to_dict", took["tokens"], took["sqlite"], ">= 3x")
    report.line("the same, materialized into our files", took["files"], took["sqlite"], ">= 3x")
    report.line("each right after itself: from the token store", warm["tokens"], warm["sqlite"], ">= 3x")
    report.line("and from our files", warm["files"], warm["sqlite"], ">= 3x")
    report.line("lake.tokens().fetch against get_online_features().to_dict()", took["sdk"], took["whole"], ">= 50x")


def lookups(folder: Path, report: Report, rows: int) -> None:
    """128 users x one 128-d vector."""
    view, table = embeddings(folder, rows)
    theirs, ours = open_store(folder / "theirs", "sqlite"), open_store(folder / "ours", OURS)
    protos = _convert_arrow_to_proto(table, view, {"user_id": ValueType.INT64})
    for store in (theirs, ours):
        store.apply([USER, view])
        store._get_provider().online_write_batch(store.config, view, protos, None)
    asked = [{"user_id": int(user)} for user in np.random.default_rng(1).integers(0, rows, ASKED)]
    took = best(
        30,
        theirs=lambda: theirs.get_online_features(["embeddings:embedding"], asked),
        ours=lambda: ours.get_online_features(["embeddings:embedding"], asked),
    )
    report.line(f"get_online_features, {ASKED} users x 128-d of {rows:,}", took["ours"], took["theirs"])


ROWS = {f.__name__: f for f in (bulk_load, materialize, sequences, lookups)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="embeddings of the bulk load")
    parser.add_argument("--only", nargs="+", choices=[*ROWS])
    given = parser.parse_args()
    report = Report()
    for name in given.only or ROWS:
        with tempfile.TemporaryDirectory() as scratch:
            with console.status(name):
                ROWS[name](Path(scratch), report, given.rows)
            shutil.rmtree(scratch, ignore_errors=True)
            Path(scratch).mkdir()
    console.print(report.table)


if __name__ == "__main__":
    main()
