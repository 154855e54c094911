"""`tokenlake neighbors`: whom a user is like, and what that recommends."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from tokenlake.commands._common import console, lake_argument


@click.command()
@lake_argument
@click.argument("user")
@click.option("--day", help="Day of the graph, as 2017-06-01; default: the newest.")
@click.option("-k", "count", default=10, show_default=True, type=click.IntRange(1), help="Most rows to show.")
@click.option("--at", type=click.DateTime(), help="Also the user's candidates at this time (UTC).")
def command(lake: Path, user: str, day: str | None, count: int, at: dt.datetime | None) -> None:
    """Print the users of LAKE that are most like USER, with the weights of the similarity graph."""
    import pyarrow as pa
    from rich.table import Table

    import tokenlake

    opened = tokenlake.open(lake)
    graph = opened.graph(day)
    try:
        key = pa.array([user]).cast(graph.ids.type)
    except pa.ArrowInvalid:
        raise click.BadParameter(f"{user!r}: user ids are integers in this lake", param_hint="USER") from None
    found = graph.neighbors(key, count)
    table = Table(title=f"like user {user} at the end of {graph.identity.day} ({graph.model.kind} weights)")
    table.add_column("user")
    table.add_column("weight", justify="right")
    for neighbor, weight in zip(found.ids.to_pylist(), found.weights, strict=True):
        table.add_row(str(neighbor), f"{weight:.4f}")
    console.print(table)
    if at is not None:
        answer = opened.candidates(key, at.replace(tzinfo=dt.UTC), k=count)
        served = answer.days[0] or "popularity alone: no embeddings were available"
        listed = Table(title=f"candidates at {at.isoformat()} UTC, served by {served}")
        listed.add_column("item")
        listed.add_column("score", justify="right")
        for item, score in zip(answer.items.to_pylist(), answer.scores, strict=True):
            listed.add_row(str(item), f"{score:.4f}")
        console.print(listed)
