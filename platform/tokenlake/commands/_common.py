"""Shared parts of commands: the lake argument and the console."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

if TYPE_CHECKING:
    from tokenlake.tokens.store import TokenStore

#: In a file or a pipe, tables are as wide as needed.
console = Console(width=None if sys.stdout.isatty() else 140)
lake_argument = click.argument("lake", type=click.Path(path_type=Path))


def instant(_: click.Context, __: click.Parameter, value: str) -> dt.datetime:
    """Parse a time option; a time without a zone is UTC."""
    try:
        found = dt.datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time; write 2017-06-01 or 2017-06-01T12:30:00+02:00") from None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def open_store(path: Path, version: str | None) -> TokenStore:
    """Open the token store of a version in a lake, or the token store at `path`."""
    from tokenlake import _lake as lakes
    from tokenlake.tokens import manifest
    from tokenlake.tokens.store import TokenStore

    if (path / manifest.NAME).is_file():
        return TokenStore.open(path)
    return lakes.open(path).tokens(version)
