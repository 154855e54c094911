"""`tokenlake run`: runs every daily job of one day."""

from __future__ import annotations

from pathlib import Path

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import lake_argument
from tokenlake.commands._tables import WholeTable, print_tables


@click.command()
@lake_argument
@click.argument("day")
@click.option("--force", is_flag=True, help="Run finished jobs again; they write the same.")
@json_option
def command(lake: Path, day: str, *, force: bool, as_json: bool) -> None:
    """Run every daily job of DAY (YYYY-MM-DD): ingest; train, encode and publish for each encoder; train and predict for each model."""
    import tokenlake
    from tokenlake.commands.backfill import facts_of
    from tokenlake.pipeline.backfill import run
    from tokenlake.times import as_day

    report = run(tokenlake.open(lake), as_day(day), force=force)
    if as_json:
        print_json(facts_of(report))
        return
    table = WholeTable("job", "version", "status", "what it did", title=f"{day}, {report.seconds:.1f} s")
    for result in report.results:
        summary = ", ".join(f"{key} {value}" for key, value in result.summary.items())
        table.add_row(result.job, result.version or "", result.status, summary)
    for version, _ in report.skipped:
        table.add_row("all", version, "done before", "nothing changed; --force does it again")
    print_tables(table)
