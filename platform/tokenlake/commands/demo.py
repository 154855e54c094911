"""`tokenlake demo`: runs the whole daily path on real data, step by step."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._bars import bar
from tokenlake.commands._common import console
from tokenlake.commands._demo_forms import Form, form_of
from tokenlake.errors import ConfigError
from tokenlake.times import as_day

if TYPE_CHECKING:
    from tokenlake._lake import Lake
    from tokenlake.scheduling.client import DagRun


@click.command()
@click.option("--dataset", default="complete-journey", show_default=True, help="See `tokenlake datasets list`.")
@click.option("--full", is_flag=True, help="All days, more households, and control models: ten minutes or more.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the lake.  [default: demo/<dataset>[-full]]")
@click.option(
    "--households", type=click.IntRange(min=1), help="complete-journey only.  [default: 300; 400 with --full]"
)
@click.option("--days", nargs=2, metavar="A B", help="First and last day.  [default: eight weeks; all with --full]")
@click.option(
    "--airflow-days",
    type=click.IntRange(min=0),
    help="Number of last days, run by Airflow's DAGs.  [default: 1; 2 with --full]",
)
def command(
    dataset: str,
    out: Path | None,
    households: int | None,
    days: tuple[str, str] | None,
    airflow_days: int | None,
    *,
    full: bool,
) -> None:
    """Run the whole daily path on real interaction data, with Airflow, SQL, candidates and Feast.

    By default eight weeks of a few hundred households, in a few minutes. Finished steps are skipped: an interrupted run
    continues where it stopped, and a second run is quick and changes nothing.
    """
    form = form_of(dataset, full=full)
    given: dict[str, Any] = {
        "households": households,
        "days": (as_day(days[0]), as_day(days[1])) if days else None,
        "airflow_days": airflow_days,
    }
    form = dataclasses.replace(form, **{name: value for name, value in given.items() if value is not None})
    _run(dataset, out or Path("demo") / (f"{dataset}-full" if full else dataset), form)


def _run(dataset: str, folder: Path, form: Form) -> None:
    import tokenlake
    from tokenlake.commands import _demo_report

    began = time.monotonic()

    def say(step: str, title: str, what: str) -> None:
        console.rule(f"[bold]{title}[/]  about {form.takes[step]}", align="left")
        console.print(what, highlight=False)

    say("data", "1. Data", f"{dataset} as raw files, one a day, into {folder}")
    _fetch(dataset, folder, form)
    lake = tokenlake.open(folder)
    days = _landing_days(lake)
    by_hand, by_airflow = (days[: -form.airflow_days], days[-form.airflow_days :]) if form.airflow_days else (days, [])
    say("ingest", "2. Ingest", f"{len(by_hand)} days of raw files become the table of events; bad rows are kept aside")
    _ingest(lake, by_hand)
    say(
        "backfill",
        "3. Back-fill",
        "each day's tokens by both compressors, trained on the days before it; its user embeddings; what the ranker\n"
        "predicts; then indexes, the graph of similar users, and Feast",
    )
    _backfill(lake, by_hand)
    if by_airflow:
        say("airflow", "4. Airflow", f"{_days(by_airflow)} through the real DAGs, in services of its own on loopback")
        _airflow(lake, by_airflow)
    compared = "models to compare with, and " if form.controls else ""
    say("models", "5. Models", f"{compared}questions to the candidates")
    _demo_report.work_out(lake, form)
    say("reports", "6. What came of it", "the tables, how well the tokens' encoders predict, one user's tokens, SQL")
    _demo_report.show(lake)
    if lake.config.embeddings:
        from tokenlake.commands import _demo_retrieval

        say(
            "retrieval",
            "7. From embeddings to neighbours",
            "candidates, similar users, and all of it read through Feast",
        )
        _demo_retrieval.show(lake, form)
    console.rule(f"[bold]Done[/]  {time.monotonic() - began:.0f} s. Where to look next:", align="left")
    _demo_report.next_steps(lake, folder)


def _days(days: list[dt.date]) -> str:
    return f"the last {len(days)} days" if len(days) > 1 else f"the last day, {days[0]},"


def _fetch(dataset: str, folder: Path, form: Form) -> None:
    from tokenlake.datasets import fetch

    options = {"days": form.days} | ({"households": form.households} if dataset == "complete-journey" else {})
    with bar() as tell:
        report = fetch(dataset, folder, progress=tell, **options)
    console.print(
        f"{'built' if report.built else 'there already'}: {report.events:,} events of {report.users:,} users and "
        f"{report.items:,} items,\n{report.days} days from {report.first} to {report.last}"
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
            states = "\n".join(f"  {dag.removeprefix('tokenlake_'):16} {_state(run)}" for dag, run in ended.items())
            console.print(f"{day}:\n{states}", highlight=False)


def _state(run: DagRun | None) -> str:
    return "not started" if run is None else run.state
