"""`tokenlake train`: trains models, and predicts the days that they have not predicted yet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._bars import bar
from tokenlake.commands._common import console, lake_argument
from tokenlake.commands.backfill import facts_of

if TYPE_CHECKING:
    from tokenlake._lake import Lake
    from tokenlake.pipeline.backfill import Report
    from tokenlake.times import Day


@click.command()
@lake_argument
@click.argument("model", required=False)
@click.option("--days", default="..", metavar="A..B", help="First and last day (YYYY-MM-DD); default: all with events.")
@json_option
def command(lake: Path, model: str | None, days: str, *, as_json: bool) -> None:
    """Train MODEL of LAKE (default: every one in tokenlake.yaml) day by day, and predict each day before learning from it.

    What a model reads must be there: tokens of its encoders, predictions of an ensemble's members. `tokenlake backfill`
    makes all of it, in order. Ctrl-C is safe: the same command continues where it stopped.
    """
    import tokenlake

    first, last = _range(days)
    opened = tokenlake.open(lake)
    versions = _versions(opened, model)
    reports: dict[str, Report] = {}
    from tokenlake.pipeline.backfill import backfill

    try:
        with bar() as progress:
            for version in versions:
                reports[version] = backfill(opened, first, last, version=version, progress=progress)
    except KeyboardInterrupt:
        click.echo("Stopped; nothing is torn. The same command goes on from here.", err=as_json)
        raise SystemExit(130) from None
    if as_json:
        print_json([{"version": version} | facts_of(report) for version, report in reports.items()])
        return
    for version, report in reports.items():
        console.print(_told(version, report), highlight=False)


def _range(days: str) -> tuple[Day | None, Day | None]:
    from tokenlake.times import as_day

    first, dots, last = days.partition("..")
    if not dots:
        raise click.UsageError(f"--days {days}: write A..B, such as 2017-03-01..2017-03-31; either may be left out")
    bounds = as_day(first) if first else None, as_day(last) if last else None
    if bounds[0] and bounds[1] and bounds[1] < bounds[0]:
        raise click.UsageError(f"--days {days}: the last day lies before the first")
    return bounds


def _versions(lake: Lake, model: str | None) -> list[str]:
    from tokenlake.errors import ConfigError
    from tokenlake.pipeline.backfill import model_versions

    if not lake.config.models:
        raise ConfigError(f"{lake.file} has no `models:`; docs/models.md tells how one is named")
    return model_versions(lake) if model is None else [lake.config.model_version(model)]


def _told(version: str, report: Report) -> str:
    """What was done for a version, in a line."""
    done = Counter(result.job for result in report.results if result.status == "done")
    trained = sum("trained_rows" in result.summary for result in report.results)
    rows = sum(int(r.summary.get("trained_rows") or 0) for r in report.results)
    learned = f", {trained} trainings on {rows:,} rows" if trained else ""
    return f"{version}: {done['predict']} days predicted{learned}, in {report.seconds:.1f} s; {len(report.skipped)} were done before"
