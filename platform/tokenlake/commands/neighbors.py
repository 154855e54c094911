"""`tokenlake neighbors`: whom a user is like, and what that recommends."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands._common import console, lake_argument
from tokenlake.storage import atomic

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

    from tokenlake._lake import Lake
    from tokenlake.retrieval.graph import Graph


@click.command()
@lake_argument
@click.argument("user", required=False)
@click.option("--day", help="Day of the graph, as 2017-06-01; default: the newest.")
@click.option("-k", "count", default=10, show_default=True, type=click.IntRange(1), help="Most rows to show.")
@click.option("--at", type=click.DateTime(), help="Also the user's candidates at this time (UTC).")
@click.option("--explore", is_flag=True, help="Also communities and centrality in the whole graph.")
@click.option("--seed", default=0, show_default=True, help="Of the communities.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="With --explore: all users, as CSV or Parquet.")
def command(
    lake: Path,
    user: str | None,
    day: str | None,
    count: int,
    at: dt.datetime | None,
    seed: int,
    output: Path | None,
    *,
    explore: bool,
) -> None:
    """Print the users of LAKE that are most like USER, with the weights of the similarity graph.

    With --explore and without USER: the graph's largest communities, and who is central in them.
    """
    import tokenlake

    if user is None and not explore:
        raise click.UsageError("give a USER, or --explore")
    if output is not None and (not explore or output.suffix not in {".csv", ".parquet"}):
        raise click.UsageError("-o writes what --explore finds, to a .csv or .parquet file")
    opened = tokenlake.open(lake)
    graph = opened.graph(day)
    key = None if user is None else _key(user, graph)
    found = graph.explore(seed=seed) if explore else None
    if output is not None and found is not None:
        _save(found, output)
        console.print(f"{found.num_rows:,} users of {graph.identity.day} in {output}", highlight=False)
    if key is not None:
        console.print(table_of_neighbors(graph, key, count, found))
    elif found is not None and output is None:
        console.print(_communities(graph, found, count))
    if at is not None and key is not None:
        console.print(table_of_candidates(opened, key, at, count))


def _key(user: str, graph: Graph) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array([user]).cast(graph.ids.type)
    except pa.ArrowInvalid:
        raise click.BadParameter(f"{user!r}: user ids are integers in this lake", param_hint="USER") from None


def table_of_neighbors(graph: Graph, key: pa.Array, count: int, found: pa.Table | None = None) -> Table:
    """The users most like one, with what exploring `found` of them."""
    import pyarrow.compute as pc
    from rich.table import Table

    near = graph.neighbors(key, count)
    title = f"like user {key[0]} at the end of {graph.identity.day} ({graph.model.kind} weights)"
    table = Table(title=title, min_width=len(title))
    table.add_column("user")
    table.add_column("weight", justify="right")
    rows = [[str(user), f"{weight:.4f}"] for user, weight in zip(near.ids.to_pylist(), near.weights, strict=True)]
    if found is not None:
        for name in ("community", "centrality", "followers"):
            table.add_column(name, justify="right")
        told = found.take(pc.index_in(near.ids, value_set=graph.ids)).to_pylist()
        rows = [[*row, *_told(place)] for row, place in zip(rows, told, strict=True)]
        own = found.take(pc.index_in(key, value_set=graph.ids)).to_pylist()[0]
        table.caption = "itself: community {}, centrality {}, followers {}".format(*_told(own))
    for row in rows:
        table.add_row(*row)
    return table


def _communities(graph: Graph, found: pa.Table, count: int) -> Table:
    import pyarrow.compute as pc
    from rich.table import Table

    sizes = pc.value_counts(found["community"]).to_pylist()
    title = f"{len(sizes)} communities of {len(graph):,} users at the end of {graph.identity.day}"
    table = Table(title=title, min_width=len(title))
    for name in ("community", "users"):
        table.add_column(name, justify="right")
    table.add_column("most central")
    for size in sorted(sizes, key=lambda size: int(size["values"]))[:count]:
        members = found.filter(pc.equal(found["community"], size["values"])).sort_by([("centrality", "descending")])
        table.add_row(
            str(size["values"]), f"{size['counts']:,}", ", ".join(map(str, members["user_id"].to_pylist()[:5]))
        )
    return table


def table_of_candidates(lake: Lake, key: pa.Array, at: dt.datetime, count: int) -> Table:
    """What similar users recommend to one at a time (UTC)."""
    from rich.table import Table

    answer = lake.candidates(key, at=at.replace(tzinfo=dt.UTC), k=count)
    served = answer.days[0] or "popularity alone: no embeddings were available"
    title = f"candidates at {at.isoformat()} UTC, served by {served}"
    table = Table(title=title, min_width=len(title))
    table.add_column("item")
    table.add_column("score", justify="right")
    for item, score in zip(answer.items.to_pylist(), answer.scores, strict=True):
        table.add_row(str(item), f"{score:.4f}")
    return table


def _told(place: dict[str, object]) -> tuple[str, str, str]:
    return str(place["community"]), f"{place['centrality']:.5f}", str(place["followers"])


def _save(found: pa.Table, output: Path) -> None:
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    with atomic.file(output) as part:
        if output.suffix == ".csv":
            csv.write_csv(found, part)
        else:
            parquet.write_table(found, part)
