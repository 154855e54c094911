"""`tokenlake verify`: checks checksums, orders and counts of token stores, indexes and graphs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import console
from tokenlake.commands._tables import WholeTable, print_tables
from tokenlake.errors import CorruptionError

if TYPE_CHECKING:
    from tokenlake.tokens.view import StoreStatus

_STORE = ("store", "days", "rows", "tail rows", "unmatched", "files", "MB", "generation")
_DERIVED = ("version", "day", "state", "users", "items", "edges", "files")


@click.command()
@click.argument("path", metavar="LAKE_OR_STORE", type=click.Path(path_type=Path))
@click.option(
    "--parity", type=click.Path(path_type=Path), metavar="LOG", help="Repeat the fetches of a log, and compare."
)
@json_option
def command(path: Path, parity: Path | None, *, as_json: bool) -> None:
    """Check a token store, or all stores, indexes and graphs of a lake; the first fault is an error that names the file.

    With --json the document also has the fault, after the parts that were checked before it.
    """
    facts: dict[str, Any] = {"stores": [], "retrieval": [], "parity": None, "fault": None}
    try:
        _verify(path, parity, facts)
    except CorruptionError as error:
        facts["fault"] = {"error": type(error).__name__, "message": str(error)}
        if as_json:
            print_json(facts)
        raise
    if as_json:
        print_json(facts)
    else:
        _show(path, facts)


def _verify(path: Path, parity: Path | None, facts: dict[str, Any]) -> None:
    """Check, and add the valid parts to `facts`."""
    from rich.console import Console

    from tokenlake import _lake as lakes
    from tokenlake.tokens import manifest
    from tokenlake.tokens.store import TokenStore

    progress = Console(stderr=True)
    folders, lake = [path], None
    if not (path / manifest.NAME).is_file():
        lake = lakes.open(path)
        folders = sorted(p.parent for p in (lake.data / "tokens").glob(f"*/{manifest.NAME}"))
    for folder in folders:
        with progress.status(f"checking {folder}"):
            facts["stores"].append(_facts(folder, TokenStore.open(folder).verify()))
    if lake is not None and (lake.data / "retrieval").is_dir():
        from tokenlake.retrieval.verify import verify

        with progress.status("checking indexes and graphs"):
            facts["retrieval"].extend(vars(day) for day in verify(lake))
    if parity is not None:
        from tokenlake.tokens.replay import replay

        replayed = replay(parity)
        collected = [{"generation": of, "fetches": fetches} for of, fetches in replayed.collected.items()]
        facts["parity"] = {"fetches": replayed.fetches, "queries": replayed.queries, "collected": collected}


def _facts(folder: Path, status: StoreStatus) -> dict[str, Any]:
    return {
        "store": folder.name,
        "days": len(status.days),
        "rows": status.rows,
        "tail_rows": status.tail_rows,
        "unmatched": status.unmatched,
        "files": status.segments,
        "bytes": status.bytes,
        "generation": status.generation,
    }


def _show(path: Path, facts: dict[str, Any]) -> None:
    stores = WholeTable(*_STORE, title="verified", right=_STORE[1:])
    for row in facts["stores"]:
        cells = (f"{row[name]:,}" for name in ("days", "rows", "tail_rows", "unmatched", "files"))
        stores.add_row(row["store"], *cells, f"{row['bytes'] / 1e6:,.1f}", str(row["generation"]))
    if facts["stores"]:
        print_tables(stores)
    else:
        console.print(f"{path} holds no token stores yet")
    derived = WholeTable(*_DERIVED, title="verified indexes and graphs", right=_DERIVED[3:])
    for row in facts["retrieval"]:
        edges = "none" if row["edges"] is None else f"{row['edges']:,}"
        numbers = (f"{row['users']:,}", f"{row['items']:,}", edges, str(row["files"]))
        derived.add_row(row["version"], row["day"], row["state"], *numbers)
    if facts["retrieval"]:
        print_tables(derived)
    if (parity := facts["parity"]) is not None:
        told = f"{parity['fetches']:,} fetches of {parity['queries']:,} queries"
        console.print(f"parity: {told} gave the same bytes again")
        for gone in parity["collected"]:
            generation, fetches = gone["generation"], gone["fetches"]
            console.print(f"generation {generation} was collected: {fetches:,} fetches of it cannot be asked again")
