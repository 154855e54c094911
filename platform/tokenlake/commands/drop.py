"""`tokenlake drop`: removes a version for good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import console, lake_argument
from tokenlake.commands.versions import all_facts, show

if TYPE_CHECKING:
    from tokenlake._lake import Lake
    from tokenlake.pipeline.dropping import Contents


@click.command()
@lake_argument
@click.argument("version")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(lake: Path, version: str, *, yes: bool, as_json: bool) -> None:
    """Remove VERSION of LAKE for good: its store, checkpoints, rows and runs.

    Refused while it is serving, and while an encoder or model of tokenlake.yaml has this version. If it is interrupted, run it again.
    """
    import tokenlake
    from tokenlake.pipeline.dropping import contents

    if as_json and not yes:
        raise click.UsageError("--json asks nothing: add --yes")
    opened = tokenlake.open(lake)
    dropped = contents(opened, version)
    if not as_json:
        _announce(opened, dropped)
    if not yes:
        click.confirm("Remove all of it for good?", abort=True)
    opened.drop(version)
    if as_json:
        print_json(vars(dropped) | {"versions": all_facts(opened)})
        return
    console.print(f"{version} is gone", highlight=False)
    show(opened)


def _announce(lake: Lake, dropped: Contents) -> None:
    store = f"its store {lake.store_path(dropped.version)}" if dropped.store else "no store"
    console.print(
        f"{dropped.version} ({dropped.state}) has {store}, {dropped.checkpoints} checkpoints, {dropped.tokens:,} rows of instance_tokens "
        f"and {dropped.predictions:,} of predictions",
        highlight=False,
        soft_wrap=True,
    )
    if dropped.rollback:
        console.print(f"A rollback of {lake.resolve()} would go to it; then it goes nowhere", highlight=False)
