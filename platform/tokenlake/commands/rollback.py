"""`tokenlake rollback`: let the version that served before serve again."""

from __future__ import annotations

from pathlib import Path

import click

from tokenlake.commands._common import console, lake_argument
from tokenlake.commands.versions import show


@click.command()
@lake_argument
def command(lake: Path) -> None:
    """Let the version that served LAKE before the present one serve again."""
    import tokenlake

    opened = tokenlake.open(lake)
    left = opened.catalog.serving()
    console.print(f"{opened.rollback()} serves again, instead of {left}", highlight=False)
    show(opened)
