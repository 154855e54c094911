"""`tokenlake demo`: the whole daily path on real data, step by step."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands._bars import bar
from tokenlake.commands._common import console
from tokenlake.errors import ConfigError

if TYPE_CHECKING:
    from tokenlake._lake import Lake
    from tokenlake.scheduling.client import DagRun

#: Households of Complete Journey that a laptop's two cores take in minutes.
_HOUSEHOLDS = 400


@click.command()
@click.option("--dataset", default="complete-journey", show_default=True, help="See `tokenlake datasets list`.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the lake.  [default: demo/<dataset>]")
@click.option(
    "--households", type=click.IntRange(min=1), default=_HOUSEHOLDS, show_default=True, help="complete-journey only."
)
@click.option(
    "--airflow-days", type=click.IntRange(min=0), default=2, show_default=True, help="Last days, run by Airflow's DAGs."
)
def command(dataset: str, out: Path | None, households: int, airflow_days: int) -> None:
    """Take real interaction data through the whole daily path, Airflow, SQL, candidates and Feast.

    What is done already is left alone, so a second run is quick and changes nothing.
    """
    import tokenlake

    began = time.monotonic()
    folder = out or Path("demo") / dataset
    _say("1. Data", f"{dataset} into {folder}")
    _fetch(dataset, folder, households)
    lake = tokenlake.open(folder)
    days = _landing_days(lake)
    by_hand, by_airflow = (days[:-airflow_days], days[-airflow_days:]) if airflow_days else (days, [])
    _say("2. Ingest", f"{len(by_hand)} days of raw files")
    _ingest(lake, by_hand)
    _say(
        "3. Back-fill", "each day's tokens by both compressors, and its user embeddings; then indexes, graph and Feast"
    )
    _backfill(lake, by_hand)
    if by_airflow:
        _say("4. Airflow", f"the last {len(by_airflow)} days through the real DAGs")
        _airflow(lake, by_airflow)
    from tokenlake.commands import _demo_report
    from tokenlake.commands.evaluate import print_ranker

    _say("5. Reports", "controls, a sequence model over the stored tokens, and retrieval, side by side")
    _demo_report.work_out(lake)
    _say("6. What came of it")
    _demo_report.show(lake)
    _say("7. A sequence model", "two HSTU layers over the stored tokens, one pass in order of time")
    print_ranker(lake)
    if lake.config.embeddings:
        from tokenlake.commands import _demo_retrieval

        _say("8. From embeddings to neighbours", "candidates, similar users, Feast")
        _demo_retrieval.show(lake)
    console.print(f"\nAll of it took {time.monotonic() - began:.0f} s. Where to look next:")
    _demo_report.next_steps(lake, folder)


def _say(step: str, what: str = "") -> None:
    console.rule(f"[bold]{step}[/]  {what}", align="left")


def _fetch(dataset: str, folder: Path, households: int) -> None:
    from tokenlake.datasets import fetch

    options = {"households": households} if dataset == "complete-journey" else {}
    with bar() as tell:
        report = fetch(dataset, folder, progress=tell, **options)
    console.print(
        f"{'built' if report.built else 'there already'}: {report.events:,} events of {report.users:,} users and "
        f"{report.items:,} items, {report.days} days from {report.first} to {report.last}"
    )


def _landing(lake: Lake) -> str:
    if lake.config.landing is None:
        raise ConfigError(f"{lake.file} names no `landing`, where the demo's days lie; choose another folder")
    return lake.config.landing


def _landing_days(lake: Lake) -> list[dt.date]:
    return sorted(dt.date.fromisoformat(path.stem) for path in lake.root.glob(_landing(lake).format(ds="*")))


def _ingest(lake: Lake, days: list[dt.date]) -> None:
    there = set(lake.events.days())
    files = [str(lake.root / _landing(lake).format(ds=day)) for day in days if day not in there]
    if not files:
        console.print("all ingested before")
        return
    report = lake.ingest(files)
    console.print(f"{report.accepted:,} accepted, {report.duplicates:,} duplicates, {report.quarantined:,} quarantined")


def _backfill(lake: Lake, days: list[dt.date]) -> None:
    from tokenlake.pipeline.parallel import backfill_parallel

    with bar() as progress:
        report = backfill_parallel(lake, days[0], days[-1], progress=progress)
    console.print(
        f"{len(report.results):,} jobs in {report.seconds:.0f} s; {len(report.skipped):,} (version, day) pairs were done before"
    )


def _airflow(lake: Lake, days: list[dt.date]) -> None:
    from tokenlake.features.versions import finished
    from tokenlake.pipeline.backfill import daily_versions
    from tokenlake.scheduling.services import Services

    done = [finished(lake, version) for version in daily_versions(lake)]
    todo = [day for day in days if any(day not in each for each in done)]
    if not todo:
        console.print("all done before")
        return
    with console.status("starting Airflow on loopback"), Services(lake.root) as airflow:
        for day in todo:
            first = airflow.trigger("tokenlake_ingest", day.isoformat())
            ended = airflow.wait_all(day.isoformat(), since=first)
            states = ", ".join(f"{dag.removeprefix('tokenlake_')} {_state(run)}" for dag, run in ended.items())
            console.print(f"{day}: {states}", highlight=False)


def _state(run: DagRun | None) -> str:
    return "not started" if run is None else run.state
