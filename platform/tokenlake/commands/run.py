"""`tokenlake run`: every daily job of one day."""

from __future__ import annotations

from pathlib import Path

import click

from tokenlake.commands._common import console, lake_argument


@click.command()
@lake_argument
@click.argument("day")
@click.option("--force", is_flag=True, help="Do it again although it is done: it writes the same.")
def command(lake: Path, day: str, *, force: bool) -> None:
    """Run every daily job of DAY (YYYY-MM-DD): ingest, then train, encode and publish for each encoder."""
    from rich.table import Table

    import tokenlake
    from tokenlake.pipeline.backfill import run
    from tokenlake.times import as_day

    report = run(tokenlake.open(lake), as_day(day), force=force)
    table = Table("job", "version", "status", "what it did", title=f"{day}, {report.seconds:.1f} s")
    for result in report.results:
        summary = ", ".join(f"{key} {value}" for key, value in result.summary.items())
        table.add_row(result.job, result.version or "", result.status, summary)
    for version, _ in report.skipped:
        table.add_row("all", version, "done before", "nothing changed; --force does it again")
    console.print(table)
