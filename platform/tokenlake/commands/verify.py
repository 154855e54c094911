"""`tokenlake verify`: every checksum, order and count of token stores, indexes and graphs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("path", metavar="LAKE_OR_STORE", type=click.Path(path_type=Path))
@click.option("--parity", type=click.Path(path_type=Path), metavar="LOG", help="Ask the fetches of a log again.")
def command(path: Path, parity: Path | None) -> None:
    """Check a token store, or all stores, indexes and graphs of a lake; the first fault is an error that names the file."""
    from rich.console import Console
    from rich.table import Table

    from tokenlake import _lake as lakes
    from tokenlake.tokens import manifest
    from tokenlake.tokens.store import TokenStore

    folders, lake = [path], None
    if not (path / manifest.NAME).is_file():
        lake = lakes.open(path)
        folders = sorted(p.parent for p in (lake.data / "tokens").glob(f"*/{manifest.NAME}"))
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
    if lake is not None and (lake.data / "retrieval").is_dir():
        from tokenlake.retrieval.verify import verify

        derived = Table(title="verified indexes and graphs")
        for name in ("version", "day", "state", "users", "items", "edges", "files"):
            derived.add_column(name, justify="left" if name in {"version", "day", "state"} else "right")
        with console.status("checking indexes and graphs"):
            for day in verify(lake):
                edges = "none" if day.edges is None else f"{day.edges:,}"
                derived.add_row(
                    day.version, day.day, day.state, f"{day.users:,}", f"{day.items:,}", edges, str(day.files)
                )
        console.print(derived)
    if parity is not None:
        from tokenlake.tokens.replay import replay

        report = replay(parity)
        console.print(f"parity: {report.fetches:,} fetches of {report.queries:,} queries gave the same bytes again")
        for generation, fetches in report.collected.items():
            console.print(f"generation {generation} was collected: {fetches:,} fetches of it cannot be asked again")
