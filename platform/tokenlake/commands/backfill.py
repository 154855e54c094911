"""`tokenlake backfill`: runs every daily job of many days."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._bars import bar
from tokenlake.commands._common import console, lake_argument

if TYPE_CHECKING:
    from tokenlake._lake import Lake
    from tokenlake.pipeline.backfill import Indexed, Report


@click.command()
@lake_argument
@click.argument("first", required=False)
@click.argument("last", required=False)
@click.option("--version", help="One encoder, model or version; default: all of the config.")
@click.option("--chunk-days", type=click.IntRange(min=1), help="Days of one training; default from the config.")
@click.option(
    "--index",
    type=click.Choice(["last", "all"]),
    default="last",
    show_default=True,
    help="Days for which indexes and a graph are built.",
)
@click.option("--parallel", is_flag=True, help="One process per version.")
@json_option
def command(
    lake: Path,
    first: str | None,
    last: str | None,
    version: str | None,
    chunk_days: int | None,
    index: Indexed,
    *,
    parallel: bool,
    as_json: bool,
) -> None:
    """Run every daily job from FIRST to LAST (YYYY-MM-DD; default: all days with events).

    Ctrl-C is safe: the same command continues where it stopped.
    """
    import tokenlake
    from tokenlake.pipeline.backfill import backfill
    from tokenlake.pipeline.parallel import backfill_parallel
    from tokenlake.times import as_day

    opened = tokenlake.open(lake)
    days = as_day(first) if first else None, as_day(last) if last else None
    if days[0] and days[1] and days[1] < days[0]:
        raise click.UsageError(f"LAST ({days[1]}) lies before FIRST ({days[0]})")
    try:
        with bar() as progress:
            if parallel and version is None:
                report = backfill_parallel(opened, *days, chunk_days=chunk_days, index=index, progress=progress)
            else:
                report = backfill(opened, *days, version=version, chunk_days=chunk_days, index=index, progress=progress)
    except KeyboardInterrupt:
        click.echo("Stopped; nothing is torn. The same command goes on from here.", err=as_json)
        raise SystemExit(130) from None
    if as_json:
        print_json(facts_of(report))
        return
    if not report.results and not report.skipped:
        console.print(_nothing(opened))
        return
    console.print(
        f"{len(report.results)} jobs on {len({r.day for r in report.results})} days in {report.seconds:.1f} s; "
        f"{len(report.skipped)} (version, day) pairs were done before."
    )
    for result in report.results:
        if result.job in {"index", "graph"}:
            told = ", ".join(f"{key} {value}" for key, value in result.summary.items() if key != "built")
            console.print(f"{result.job} of {result.day}: {told}", highlight=False)


def facts_of(report: Report) -> dict[str, Any]:
    """A report of daily jobs as JSON values."""
    return {
        "seconds": report.seconds,
        "results": report.results,
        "skipped": [{"version": version, "day": day} for version, day in report.skipped],
    }


def _nothing(lake: Lake) -> str:
    """Why there was nothing to do, with advice."""
    if days := lake.events.days():
        return f"No events on these days; the lake has {len(days)} days with events, from {days[0]} to {days[-1]}."
    if lake.config.landing:
        return f"No events yet. Name FIRST and LAST of the days to bring in from {lake.config.landing}"
    return f"No events yet: tokenlake ingest {lake.root} FILE"
