"""`tokenlake verify`: every checksum, order and count of token stores."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("path", metavar="LAKE_OR_STORE", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Check a token store, or all those of a lake, on disk; the first fault is an error that names the file."""
    from rich.console import Console
    from rich.table import Table

    from tokenlake.lake import lake as lakes
    from tokenlake.tokens import manifest
    from tokenlake.tokens.store import TokenStore

    folders = [path]
    if not (path / manifest.NAME).is_file():
        stores = lakes.open(path).data / "tokens"
        folders = sorted(p.parent for p in stores.glob(f"*/{manifest.NAME}"))
    table = Table(title="verified")
    for name in ("store", "days", "rows", "tail rows", "unmatched", "files", "MB", "generation"):
        table.add_column(name, justify="left" if name == "store" else "right", no_wrap=name == "store")
    console = Console()
    for folder in folders:
        with console.status(f"checking {folder}"):
            status = TokenStore.open(folder).verify()
        cells = (len(status.days), status.rows, status.tail_rows, status.unmatched, status.segments)
        table.add_row(folder.name, *(f"{n:,}" for n in cells), f"{status.bytes / 1e6:,.1f}", str(status.generation))
    console.print(table if folders else f"{path} holds no token stores yet")
