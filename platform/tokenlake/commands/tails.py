"""`tokenlake tails`: what stores keep in a Redis, and the removal of what is left of those that are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tokenlake.commands._common import console

if TYPE_CHECKING:
    from tokenlake.tokens.garbage import StoreStreams


@click.command()
@click.argument("url")
@click.option("--remove", metavar="STORE", help="Remove all that this one has there, for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(url: str, remove: str | None, *, yes: bool) -> None:
    """Show what token stores keep in the Redis at URL, and which of their folders are gone.

    A folder that was renamed is found again only once it was written: look for it before you remove what is `gone`.
    """
    from tokenlake.tokens import garbage

    if remove is None:
        _show(garbage.streams_in(url))
        return
    if not yes:
        _show([held for held in garbage.streams_in(url) if held.store == remove])
        click.confirm("Remove it for good?", abort=True)
    garbage.remove_streams(url, remove)
    console.print(f"{remove} is gone", highlight=False)


def _show(found: list[StoreStreams]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("store", "state", "folder", "host", "entries", "last used"):
        table.add_column(name, no_wrap=name == "store", justify="right" if name == "entries" else "left")
    for held in found:
        idle = "unknown" if held.idle is None else f"{held.idle:,} s ago"
        table.add_row(held.store, held.state, held.folder or "", held.host or "", f"{held.entries:,}", idle)
    console.print(table if found else "Nothing of a token store is there")
