"""`tokenlake tails`: lists the streams of token stores in a Redis, and removes those of deleted stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import console
from tokenlake.commands._tables import bare, print_tables

if TYPE_CHECKING:
    from tokenlake.tokens.garbage import StoreStreams


@click.command()
@click.argument("url")
@click.option("--remove", metavar="STORE", help="Remove all streams of this store, for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(url: str, remove: str | None, *, yes: bool, as_json: bool) -> None:
    """Show the streams of token stores in the Redis at URL, and which of the stores' folders are gone.

    A renamed folder counts as `gone` until its store is written again: look for it before you remove its streams.
    """
    from tokenlake.tokens import garbage

    if as_json and remove is not None and not yes:
        raise click.UsageError("--json asks nothing: add --yes")
    if remove is not None:
        _remove(url, remove, ask=not yes)
    if as_json:
        print_json({"removed": remove, "stores": [_facts(held) for held in garbage.streams_in(url)]})
    elif remove is None:
        _show(garbage.streams_in(url))
    else:
        console.print(f"{remove} is gone", highlight=False)


def _remove(url: str, store: str, *, ask: bool) -> None:
    from tokenlake.tokens import garbage

    if ask:
        _show([held for held in garbage.streams_in(url) if held.store == store])
        click.confirm("Remove it for good?", abort=True)
    garbage.remove_streams(url, store)


def _facts(held: StoreStreams) -> dict[str, Any]:
    return {
        "store": held.store,
        "state": held.state,
        "folder": held.folder,
        "host": held.host,
        "entries": held.entries,
        "idle_seconds": held.idle,
    }


def _show(streams: list[StoreStreams]) -> None:
    table = bare(None, "store", "state", "folder", "host", "entries", "last used", right={"entries"})
    for held in streams:
        idle = "unknown" if held.idle is None else f"{held.idle:,} s ago"
        table.add_row(held.store, held.state, held.folder or "", held.host or "", f"{held.entries:,}", idle)
    if streams:
        print_tables(table)
    else:
        console.print("Nothing of a token store is there")
