"""`tokenlake index`: builds indexes and graphs of many days."""

from __future__ import annotations

from pathlib import Path

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._bars import bar
from tokenlake.commands._common import console, lake_argument


@click.command()
@lake_argument
@click.argument("first", required=False)
@click.argument("last", required=False)
@click.option("--rebuild", is_flag=True, help="Also rebuild days that are up to date.")
@json_option
def command(lake: Path, first: str | None, last: str | None, *, rebuild: bool, as_json: bool) -> None:
    """Build the FAISS indexes and the graph of similar users of the days FIRST to LAST (YYYY-MM-DD) of LAKE.

    Without LAST, only of the day FIRST; without both, of every day with embeddings. Days that are up to date are skipped.
    A back-fill builds those of its last day, and the daily jobs those of each new day. Earlier days are needed only for
    candidates, neighbours or graphs of the past.
    """
    import tokenlake
    from tokenlake.errors import NotFoundError
    from tokenlake.pipeline.indexing import index_days
    from tokenlake.times import as_day

    opened = tokenlake.open(lake)
    low = as_day(first) if first else None
    high = as_day(last) if last else low
    if low and high and high < low:
        raise click.UsageError(f"LAST ({high}) lies before FIRST ({low})")
    embedded = opened.user_embeddings.days(opened.config.embedding_version)
    days = [day for day in embedded if (low is None or day >= low) and (high is None or day <= high)]
    if not days:
        there = f"there are those of {embedded[0]} to {embedded[-1]}" if embedded else "there are none at all"
        raise NotFoundError(f"no embeddings on these days ({there}); `tokenlake backfill {lake}` makes them")
    with bar() as progress:
        results = index_days(opened, days, rebuild=rebuild, progress=progress)
    built = len({result.day for result in results})
    if as_json:
        print_json({"built": built, "current": len(days) - built, "results": results})
        return
    console.print(f"{built} days indexed and linked, {len(days) - built} were up to date", highlight=False)
