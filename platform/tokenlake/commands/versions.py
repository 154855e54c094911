"""`tokenlake versions`: prints the versions of a lake's encoders and models, the serving one, and the progress of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import console, lake_argument
from tokenlake.commands._tables import bare, print_tables

if TYPE_CHECKING:
    import datetime as dt

    from rich.text import Text

    from tokenlake._lake import Lake
    from tokenlake.catalog import Version


@click.command()
@lake_argument
@json_option
def command(lake: Path, *, as_json: bool) -> None:
    """Show the versions of encoders and models of LAKE, oldest first: which one is serving, and the progress of each."""
    import tokenlake

    opened = tokenlake.open(lake)
    if as_json:
        print_json(all_facts(opened))
        return
    show(opened)


def show(lake: Lake) -> None:
    """Print the versions as a table."""
    columns = ("version", "state", "days", "first missing", "re-run", "created", "promoted", "before it")
    table = bare(None, *columns, right={"days", "re-run"})
    for row in all_facts(lake):
        state = state_of(row)
        days = f"{row['published']}/{row['published'] + len(row['missing'])}"
        missing = str(row["missing"][0]) if row["missing"] else "none"
        times = [f"{at:%Y-%m-%d %H:%M}" if at else "never" for at in (row["created_at"], row["promoted_at"])]
        table.add_row(row["version"], state, days, missing, str(len(row["rerun"])), *times, row["previous"] or "none")
    if not table.row_count:
        console.print(f"No version yet: tokenlake backfill {lake.root} makes the first", highlight=False)
        return
    print_tables(table)


def state_of(row: dict[str, Any]) -> Text:
    """A version's state, as tables show it; a model serves no tokens, and is shown as such."""
    from rich.text import Text

    if row["kind"] == "model" and row["state"] == "candidate":
        return Text("model")
    return Text(row["state"], "green" if row["state"] == "serving" else "")


def all_facts(lake: Lake) -> list[dict[str, Any]]:
    """State of each version, oldest first, as plain values."""
    return [_facts(lake, version) for version in lake.versions()]


def _facts(lake: Lake, version: Version) -> dict[str, Any]:
    from tokenlake.features.versions import finished

    name = version.version
    published = finished(lake, name)
    return {
        "version": name,
        "encoder": version.encoder,
        "kind": version.kind,
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
