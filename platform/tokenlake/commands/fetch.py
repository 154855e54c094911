"""`tokenlake fetch`: a user's last tokens before a time, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tokenlake.commands._common import instant, open_store

if TYPE_CHECKING:
    import datetime as dt


@click.command()
@click.argument("lake", type=click.Path(path_type=Path))
@click.argument("user")
@click.option("--before", required=True, callback=instant, metavar="TIME", help="ISO time; UTC without a zone.")
@click.option("--length", default=10, show_default=True, type=click.IntRange(1), help="Most rows to show.")
@click.option("--version", default=None, help="Encoder version; without it the serving one.")
@click.option(
    "--available",
    type=click.Choice(["realtime", "daily"]),
    default="realtime",
    show_default=True,
    help="Count a token from its event on, or from the day after.",
)
def command(
    lake: Path,
    user: str,
    before: dt.datetime,
    length: int,
    version: str | None,
    available: Literal["realtime", "daily"],
) -> None:
    """Print the last tokens of USER in LAKE (or in a token store) strictly before a time."""
    import numpy as np
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tokenlake.tokens.batch import TokenBatch

    store = open_store(lake, version)
    key: int | str = user
    if store.ids == "int64":
        try:
            key = int(user)
        except ValueError:
            raise click.BadParameter(f"{user!r}: user ids are integers in this store", param_hint="USER") from None
    batch: TokenBatch = store.fetch([key], before=before, length=length, available=available)
    table = Table(title=f"user {escape(user)}, last {length} before {before.isoformat()} ({available})")
    for name in ("timestamp (UTC)", *batch.side, f"token ({store.schema.dim} x {store.schema.dtype})", "norm"):
        table.add_column(escape(name))
    tokens = batch.floats()
    for row in range(len(tokens)):
        when = np.datetime64(int(batch.timestamps[row]), "us")
        side = [
            str(column[row]) if name not in batch.known or batch.known[name][row] else "unknown"
            for name, column in batch.side.items()
        ]
        first = " ".join(f"{value:+.3f}" for value in tokens[row, :4]) + (" ..." if tokens.shape[1] > 4 else "")
        table.add_row(str(when).replace("T", " "), *side, first, f"{np.linalg.norm(tokens[row]):.3f}")
    console = Console()
    console.print(table)
    if not len(tokens):
        console.print("no rows: the user is unknown, or has none before that time")
