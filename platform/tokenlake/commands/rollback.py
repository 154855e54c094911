"""`tokenlake rollback`: makes the previous serving version the serving one again."""

from __future__ import annotations

from pathlib import Path

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import console, lake_argument
from tokenlake.commands.versions import all_facts, show


@click.command()
@lake_argument
@json_option
def command(lake: Path, *, as_json: bool) -> None:
    """Make the previous serving version of LAKE the serving one again."""
    import tokenlake

    opened = tokenlake.open(lake)
    left = opened.catalog.serving()
    serving = opened.rollback()
    if as_json:
        print_json({"serving": serving, "before": left, "versions": all_facts(opened)})
        return
    console.print(f"{serving} serves again, instead of {left}", highlight=False)
    show(opened)
