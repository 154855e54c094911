"""`tokenlake promote`: makes a complete version the serving one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import console, lake_argument
from tokenlake.commands.versions import all_facts, missing, show
from tokenlake.errors import VersionError

if TYPE_CHECKING:
    from tokenlake._lake import Lake


@click.command()
@lake_argument
@click.argument("version")
@click.option("--incomplete", is_flag=True, help="Promote even if days with events are missing.")
@json_option
def command(lake: Path, version: str, *, incomplete: bool, as_json: bool) -> None:
    """Make VERSION, a version or an encoder's name, the serving version of LAKE; the old one stays readable.

    Refused while days with events are missing or wait to be run again.
    """
    import tokenlake

    opened = tokenlake.open(lake)
    name, before = opened.resolve(version), opened.catalog.serving()
    if not incomplete:
        _require_complete(opened, name)
    opened.promote(name)
    if as_json:
        print_json({"serving": name, "before": before, "versions": all_facts(opened)})
        return
    told = "serves already" if name == before else f"serves now, instead of {before}" if before else "serves now"
    console.print(f"{name} {told}", highlight=False)
    show(opened)


def _require_complete(lake: Lake, version: str) -> None:
    days, again = missing(lake, lake.published(version)), [mark.day for mark in lake.catalog.restatements(version)]
    if not (days or again):
        return
    told = [f"{len(days)} days with events are missing, the first {days[0]}"] if days else []
    told += [f"{len(again)} days wait to be run again, the first {again[0]}"] if again else []
    raise VersionError(
        f"version {version!r} is not complete: {'; '.join(told)}. `tokenlake backfill {lake.root} --version {version}` "
        "makes them; --incomplete promotes it as it is"
    )
