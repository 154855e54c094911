"""`tokenlake versions`: the encoder versions of a lake, which one serves, and how far each is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._common import console, lake_argument

if TYPE_CHECKING:
    import datetime as dt

    from tokenlake._lake import Lake
    from tokenlake.catalog import Version


@click.command()
@lake_argument
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of objects.")
def command(lake: Path, *, as_json: bool) -> None:
    """Show the encoder versions of LAKE, oldest first: which one serves, and how far each is."""
    import tokenlake

    opened = tokenlake.open(lake)
    if as_json:
        facts = [facts_of(opened, version) for version in opened.versions()]
        click.echo(json.dumps(facts, indent=2, default=str))
        return
    show(opened)


def show(lake: Lake) -> None:
    """Print the versions as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("version", "state", "days", "first missing", "re-run", "created", "promoted", "before it"):
        table.add_column(name, no_wrap=name == "version", justify="right" if name in {"days", "re-run"} else "left")
    for version in lake.versions():
        row = facts_of(lake, version)
        state = f"[green]{row['state']}[/green]" if row["state"] == "serving" else row["state"]
        days = f"{row['published']}/{row['published'] + len(row['missing'])}"
        missing = str(row["missing"][0]) if row["missing"] else "none"
        times = [f"{at:%Y-%m-%d %H:%M}" if at else "never" for at in (row["created_at"], row["promoted_at"])]
        table.add_row(row["version"], state, days, missing, str(len(row["rerun"])), *times, row["previous"] or "none")
    if not table.row_count:
        console.print(f"No version yet: tokenlake backfill {lake.root} makes the first", highlight=False)
        return
    console.print(table)


def facts_of(lake: Lake, version: Version) -> dict[str, Any]:
    """What there is to say of a version, as plain values."""
    name = version.version
    published = lake.published(name)
    return {
        "version": name,
        "encoder": version.encoder,
        "state": version.state,
        "published": len(published),
        "missing": missing(lake, published),
        "rerun": [mark.day for mark in lake.catalog.restatements(name)],
        "created_at": version.created_at,
        "promoted_at": version.promoted_at,
        "previous": version.previous,
    }


def missing(lake: Lake, published: set[dt.date]) -> list[dt.date]:
    """Days with events that are not among the published ones."""
    return [day for day in lake.events.days() if day not in published]
