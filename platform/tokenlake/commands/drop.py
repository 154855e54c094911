"""`tokenlake drop`: remove a version that nobody needs any more."""

from __future__ import annotations

from pathlib import Path

import click

from tokenlake.commands._common import console, lake_argument
from tokenlake.commands.versions import show


@click.command()
@lake_argument
@click.argument("version")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(lake: Path, version: str, *, yes: bool) -> None:
    """Remove VERSION of LAKE for good: its store, checkpoints, rows and runs.

    Refused while it serves, and while an encoder of tokenlake.yaml would make it again. Cut short, it is run again.
    """
    import tokenlake
    from tokenlake.pipeline.dropping import contents

    opened = tokenlake.open(lake)
    found = contents(opened, version)
    store = f"its store {opened.store_path(version)}" if found.store else "no store"
    console.print(
        f"{version} ({found.state}) has {store}, {found.checkpoints} checkpoints, {found.tokens:,} rows of instance_tokens "
        f"and {found.predictions:,} of predictions",
        highlight=False,
        soft_wrap=True,
    )
    if found.rollback:
        console.print(f"A rollback of {opened.resolve()} would go to it; then it goes nowhere", highlight=False)
    if not yes:
        click.confirm("Remove all of it for good?", abort=True)
    opened.drop(version)
    console.print(f"{version} is gone", highlight=False)
    show(opened)
