"""Declared counts against one query of DuckDB: `python benchmarks/counts.py [--events N] [--queries N] [--alone] [--json]`.

A lake of a year of events is made first, whose users and items follow power laws. Both sides compute the same numbers for
the same queries, each strictly before its own instant, and the numbers are compared. DuckDB has the events in its memory
as a table of the five columns that it needs; ours come from the state on the disk, through `lake.counts`. Times are CPU
seconds of all threads, the least of several tries.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

import tokenlake
from tokenlake._lake import Lake
from tokenlake.features.aggregations import Aggregations
from tokenlake.times import DAY_US, day_start

FIRST = dt.date(2017, 1, 1)
DAYS = 365
YAML = """
project: counts
events: {id: event_id, features: {amount: numeric}, labels: [clicked]}
counts:
  pair: {by: [user, item], as: [count, recency], windows: [all, 28d]}
  pair_clicked: {by: [user, item], of: {label: clicked}, as: [count, known]}
  spend: {by: user, of: {numeric: amount, unit: 0.01}, as: [sum, min, max], windows: 28d}
  item_recent: {by: item, as: count, decay: 14d}
"""
#: What DuckDB is asked: the same columns by the definition's name.
PEER = {
    "pair": (
        "q.user_id = e.user_id and q.item_id = e.item_id",
        (
            "count(e.t), (q.t - max(e.t)) / 1e6, count(e.t) filter (e.t >= q.t - 28 * {day}), "
            "(q.t - max(e.t) filter (e.t >= q.t - 28 * {day})) / 1e6"
        ),
    ),
    "pair_clicked": (
        "q.user_id = e.user_id and q.item_id = e.item_id",
        "coalesce(sum(e.clicked), 0), count(e.clicked)",
    ),
    "spend": (
        "q.user_id = e.user_id and e.t >= q.t - 28 * {day}",
        "coalesce(sum(e.cents), 0) / 100, min(e.cents) / 100, max(e.cents) / 100",
    ),
    "item_recent": (
        "q.item_id = e.item_id and e.t >= q.t - 24 * 14 * {day}",
        "coalesce(sum(pow(2, (e.t - q.t) / (14.0 * {day}))), 0)",
    ),
}


#: Of these DuckDB joins each query with all of its key's events, of which popular keys have a million: a thousandth is asked.
SLOW = ("spend", "item_recent")
SHARE = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without DuckDB, which takes long from 10M events on")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), options)
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    (folder / "tokenlake.yaml").write_text(YAML)
    lake, table = tokenlake.open(folder), events(options.events)
    last = pa.scalar(day_start(FIRST) + (DAYS - 1) * DAY_US, pa.timestamp("us", "UTC"))
    early = table.filter(pa.compute.less(table["timestamp"], last))
    lake.ingest(early)
    aggregations = lake.shared(Aggregations)
    build = cpu(lambda: aggregations.roll_on(lake.watermark()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    lake.ingest(table.slice(early.num_rows))
    day = cpu(lambda: aggregations.roll_on(lake.watermark()))
    use = aggregations.use("pair")[aggregations.streams("pair")[0]]
    rng = np.random.default_rng(1)
    rows = table.take(pa.array(rng.choice(table.num_rows, options.queries, replace=False)))
    return {
        "events": table.num_rows,
        "queries": rows.num_rows,
        "pairs": use.keys,
        "bytes_a_pair": use.bytes / use.keys,
        "build_cpu_s": build,
        "build_peak_mb": peak,
        "day_events": table.num_rows - early.num_rows,
        "day_cpu_s": day,
        "definitions": {
            name: (
                alone(lake, name, rows, options.tries)
                if options.alone
                else compared(lake, name, table, rows, options.tries)
            )
            for name in PEER
        },
    }


def events(count: int) -> pa.Table:
    """A year of events in order of time."""
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "event_id": np.arange(count),
            "user_id": rng.zipf(1.2, count) % 500_000,
            "item_id": rng.zipf(1.15, count) % 300_000,
            "timestamp": pa.array(
                day_start(FIRST) + np.sort(rng.integers(0, DAYS * DAY_US, count)), pa.timestamp("us", "UTC")
            ),
            "amount": rng.integers(0, 10_000, count) / 100,
            "clicked": (rng.random(count) < 0.2).astype(np.int8),
        }
    )


def alone(lake: Lake, name: str, rows: pa.Table, tries: int) -> dict[str, float]:
    """CPU seconds of a definition, the first call and its reading of the state left out."""
    lake.counts(rows, names=[name])
    return {
        "queries": rows.num_rows,
        "tokenlake_cpu_s": min(cpu(lambda: lake.counts(rows, names=[name])) for _ in range(tries)),
    }


def compared(lake: Lake, name: str, table: pa.Table, rows: pa.Table, tries: int) -> dict[str, float]:
    """CPU seconds of a definition on both sides, after comparing the numbers."""
    rows = rows.slice(0, rows.num_rows // SHARE) if name in SLOW else rows
    peer = duckdb.connect()
    peer.execute("SET threads = 2")
    select = "select user_id, item_id, epoch_us(timestamp) t, clicked, round(amount * 100)::bigint cents from {}"
    peer.register("given", table)
    peer.register("asked", rows)
    peer.execute(f"create table e as {select.format('given')}")
    peer.execute(f"create table q as select row_number() over () i, * from ({select.format('asked')})")
    on, numbers = (text.format(day=DAY_US) for text in PEER[name])
    question = f"select {numbers} from q left join e on {on} and e.t < q.t group by q.i, q.t order by q.i"
    ours = lake.counts(rows, names=[name])
    theirs = peer.sql(question).to_arrow_table()
    for column, right in zip(ours.columns, theirs.columns, strict=True):
        mine, their = (values.to_numpy().astype(float) for values in (column, right.cast(pa.float64())))
        # Decayed weights are kept in fixed point; all else is equal.
        np.testing.assert_allclose(
            mine, their, **({"rtol": 1e-5, "atol": 1e-5} if name == "item_recent" else {"rtol": 1e-12})
        )
    mine = min(cpu(lambda: lake.counts(rows, names=[name])) for _ in range(tries))
    their = min(cpu(lambda: peer.sql(question).to_arrow_table()) for _ in range(1 if name == "item_recent" else tries))
    return {"queries": rows.num_rows, "tokenlake_cpu_s": mine, "duckdb_cpu_s": their}


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of all threads of this process during a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def show(facts: dict[str, object]) -> None:
    console = Console(width=110)
    console.print(
        f"{facts['events']:,} events, {facts['pairs']:,} pairs of user and item, {facts['bytes_a_pair']:.0f} bytes a pair\n"
        f"build of all states {facts['build_cpu_s']:.1f} CPU s, the process' peak {facts['build_peak_mb']:,.0f} MB with the log in it\n"
        f"a day of {facts['day_events']:,} events {facts['day_cpu_s']:.2f} CPU s"
    )
    table = Table(title="CPU seconds")
    for column in ("definition", "queries", "Tokenlake", "DuckDB", "ratio"):
        table.add_column(column, justify="left" if column == "definition" else "right")
    for name, times in facts["definitions"].items():  # type: ignore[attr-defined]
        ours, theirs = times["tokenlake_cpu_s"], times.get("duckdb_cpu_s", float("nan"))
        table.add_row(name, f"{times['queries']:,}", f"{ours:.3f}", f"{theirs:.3f}", f"{ours / theirs:.2f}x")
    console.print(table)


if __name__ == "__main__":
    main()
