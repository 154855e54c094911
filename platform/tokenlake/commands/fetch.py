"""`tokenlake fetch`: prints a user's last tokens before a time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import instant, open_store
from tokenlake.commands._tables import WholeTable, print_tables

if TYPE_CHECKING:
    from tokenlake.tokens.batch import TokenBatch


@click.command()
@click.argument("lake", type=click.Path(path_type=Path))
@click.argument("user")
@click.option("--before", required=True, callback=instant, metavar="TIME", help="ISO time; UTC without a zone.")
@click.option("--length", default=10, show_default=True, type=click.IntRange(1), help="Most rows to show.")
@click.option("--version", default=None, help="Encoder version; default: the serving one.")
@click.option(
    "--available",
    type=click.Choice(["realtime", "daily"]),
    default="realtime",
    show_default=True,
    help="A token is visible from its event on, or from the next day on.",
)
@json_option
def command(
    lake: Path,
    user: str,
    before: dt.datetime,
    length: int,
    version: str | None,
    available: Literal["realtime", "daily"],
    *,
    as_json: bool,
) -> None:
    """Print the last tokens of USER in LAKE (or in a token store) strictly before a time, oldest first.

    With --json tokens are complete; the table shows only their first numbers.
    """
    store = open_store(lake, version)
    key: int | str = user
    if store.ids == "int64":
        try:
            key = int(user)
        except ValueError:
            raise click.BadParameter(f"{user!r}: user ids are integers in this store", param_hint="USER") from None
    batch = store.fetch([key], before=before, length=length, available=available)
    rows = _rows(batch)
    schema = {"dim": store.schema.dim, "dtype": store.schema.dtype}
    if as_json:
        asked = {"user": key, "before": before, "length": length, "available": available}
        print_json(asked | schema | {"rows": rows})
        return
    columns = ("timestamp (UTC)", *batch.side, "token ({dim} x {dtype})".format(**schema), "norm")
    table = WholeTable(*columns, title=f"user {user}, last {length} before {before.isoformat()} ({available})")
    for row in rows:
        side = ["unknown" if value is None else str(value) for value in row["side"].values()]
        token = row["token"]
        first = " ".join(f"{value:+.3f}" for value in token[:4]) + (" ..." if len(token) > 4 else "")
        table.add_row(f"{row['timestamp']:%Y-%m-%d %H:%M:%S.%f}", *side, first, f"{row['norm']:.3f}")
    print_tables(table)
    if not rows:
        click.echo("no rows: the user is unknown, or has none before that time")


def _rows(batch: TokenBatch) -> list[dict[str, Any]]:
    """One object per token; None for a label that was not known before the query time."""
    import numpy as np

    tokens, times = batch.floats(), batch.timestamps.astype("datetime64[us]").tolist()
    return [
        {
            "timestamp": times[row].replace(tzinfo=dt.UTC),
            "side": {
                name: column[row].item() if name not in batch.known or batch.known[name][row] else None
                for name, column in batch.side.items()
            },
            "norm": float(np.linalg.norm(tokens[row])),
            "token": tokens[row].tolist(),
        }
        for row in range(len(tokens))
    ]
