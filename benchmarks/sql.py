"""SQL over a lake against plain DuckDB on the same files: `python benchmarks/sql.py [--events N] [--days N]`.

A lake of 365 days with 26 columns is made first. Both sides ask the same questions; the times are CPU seconds of all
threads, the least of several tries, and for whole commands those of the process and its imports. Plain DuckDB reads
the files by `read_parquet(..., hive_partitioning = true)`, and writes by `COPY`; the lake's answers are read from the
table's log, checked by the fence, and written by Tokenlake.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import io
import os
import resource
import subprocess
import sys
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
from tokenlake.commands._output import write
from tokenlake.lake.database import Database

FEATURES = 17
FIRST = dt.date(2017, 1, 1)
YAML = "project: sql\nevents:\n  id: event\n  features:\n{features}    tags: multi\n  labels: {{bought: {{}}}}\n"
Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=349_175)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--ids", type=int, default=20_000, help="length of the IN list")
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(build(Path(folder), options.events, options.days), Path(folder), options)


def build(folder: Path, events: int, days: int) -> Lake:
    """A lake with `events` rows, of which each day has as many as the others."""
    features = "".join(f"    f{i}: categorical\n" for i in range(FEATURES))
    (folder / "tokenlake.yaml").write_text(YAML.format(features=features))
    lake, rng = tokenlake.open(folder), np.random.default_rng(0)
    start = int(dt.datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=dt.UTC).timestamp())
    seconds = np.sort(rng.integers(start, start + days * 86_400, events))
    words = pa.array([f"word {i}" for i in range(1000)])
    tags = pa.array([[f"tag {j}" for j in range(i % 4)] for i in range(64)])
    columns: dict[str, object] = {
        "event": np.arange(events),
        "user_id": rng.integers(0, 2_000, events),
        "item_id": rng.integers(0, 20_000, events),
        "timestamp": pa.array(seconds * 1_000_000, pa.timestamp("us", "UTC")),
        "tags": tags.take(pa.array(rng.integers(0, 64, events))),
        "bought": rng.integers(0, 2, events).astype(np.int8),
    }
    for i in range(FEATURES):
        columns[f"f{i}"] = words.take(pa.array(rng.integers(0, 1000, events)))
    lake.ingest(pa.table(columns))
    return lake


def report(lake: Lake, folder: Path, options: argparse.Namespace) -> None:
    plain = f"FROM read_parquet('{lake.events.path}/*/*.parquet', hive_partitioning = true)"
    wanted = ", ".join(map(str, range(0, 3 * options.ids, 3)))
    among = f"select count(*) from events where event_id in ({wanted})"
    day = FIRST + dt.timedelta(options.days // 2)
    database, peer = Database(lake), duckdb.connect()
    peer.execute(f"SET TimeZone = 'UTC'; CREATE VIEW events AS {plain}")
    database.sql("from events limit 1")
    questions: dict[str, tuple[Work, Work]] = {
        "first 50 of `from events`": (
            lambda: shown(database, "from events"),
            lambda: shown_by_duckdb(peer, "from events"),
        ),
        "events of one day": (
            lambda: fetched(database.sql(f"select user_id, count(*) from events where ds = '{day}' group by 1")),
            lambda: fetched(peer.sql(f"select user_id, count(*) from events where ds = '{day}' group by 1")),
        ),
        f"IN list of {options.ids:,} ids": (
            lambda: fetched(database.sql(among)),
            lambda: fetched(peer.sql(among)),
        ),
    }
    for form in ("csv", "json", "parquet"):
        questions[f"{options.events:,} events as {form.upper()}"] = (
            lambda form=form: write(database.sql("from events"), form, folder / f"ours.{form}"),
            lambda form=form: peer.execute(
                f"COPY (FROM events) TO '{folder / f'theirs.{form}'}' (FORMAT {form}{', ARRAY true' * (form == 'json')})"
            ),
        )
    console = Console(width=110)
    table = Table(
        title=f"CPU seconds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, DuckDB {duckdb.__version__}"
    )
    for column in ("question", "Tokenlake", "plain DuckDB", "ratio"):
        table.add_column(column, justify="left" if column == "question" else "right")
    command = [sys.executable, "-m", "tokenlake", "sql", str(lake.root), "-c"]
    script = f"import duckdb; duckdb.execute(\"CREATE VIEW events AS {plain}\"); duckdb.sql('{{}}').show()"
    for question in ("select 1", "from events limit 50"):
        ours = least(options.tries, lambda question=question: of_process([*command, question]))
        theirs = least(
            options.tries, lambda question=question: of_process([sys.executable, "-c", script.format(question)])
        )
        table.add_row(f"whole process: `{question}`", f"{ours:.3f}", f"{theirs:.3f}", f"{ours / theirs:.2f}x")
    for name, (our, their) in questions.items():
        ours, theirs = (least(options.tries, lambda work=work: of_call(work)) for work in (our, their))
        table.add_row(name, f"{ours:.3f}", f"{theirs:.3f}", f"{ours / theirs:.2f}x")
    rows = lake.events.read(day=day)
    lake.events.replace_day(day, rows)
    table.add_row("`select 1` after a commit", f"{of_call(lambda: fetched(database.sql('select 1'))):.3f}", "", "")
    table.add_row(
        "`from events limit 1` then", f"{of_call(lambda: fetched(database.sql('from events limit 1'))):.3f}", "", ""
    )
    console.print(table)


def fetched(relation: duckdb.DuckDBPyRelation | None) -> object:
    return None if relation is None else relation.fetchall()


def shown(database: Database, question: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        write(database.sql(question), "table", None)


def shown_by_duckdb(connection: duckdb.DuckDBPyConnection, question: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        connection.sql(f"{question} limit 50").show()


def least(tries: int, measured: Callable[[], float]) -> float:
    return min(measured() for _ in range(tries))


def of_call(work: Work) -> float:
    """CPU seconds of all threads of this process during a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def of_process(command: list[str]) -> float:
    """CPU seconds of another process from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
