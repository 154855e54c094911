"""`tokenlake neighbors`: prints similar users of a user, and the items that they recommend."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import lake_argument
from tokenlake.commands._tables import WholeTable, print_tables
from tokenlake.storage import atomic

if TYPE_CHECKING:
    import pyarrow as pa

    from tokenlake._lake import Lake
    from tokenlake.retrieval.graph import Graph

Facts: TypeAlias = dict[str, Any]
_PLACE = ("community", "centrality", "followers")


@click.command()
@lake_argument
@click.argument("user", required=False)
@click.option("--day", help="Day of the graph, as 2017-06-01; default: the newest.")
@click.option("-k", "count", default=10, show_default=True, type=click.IntRange(1), help="Most rows to show.")
@click.option("--at", type=click.DateTime(), help="Also print the user's candidates at this time (UTC).")
@click.option("--explore", is_flag=True, help="Also compute communities and centrality of the whole graph.")
@click.option("--seed", default=0, show_default=True, help="Seed of the communities.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="With --explore: write all users to a CSV or Parquet file."
)
@json_option
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
    as_json: bool,
) -> None:
    """Print the users of LAKE that are most similar to USER, with the weights of the similarity graph.

    With --explore and without USER: the graph's largest communities and their most central users.
    """
    import tokenlake

    if user is None and not explore:
        raise click.UsageError("give a USER, or --explore")
    if output is not None and (not explore or output.suffix not in {".csv", ".parquet"}):
        raise click.UsageError("-o writes what --explore finds, to a .csv or .parquet file")
    opened = tokenlake.open(lake)
    graph = opened.graph(day)
    key = None if user is None else _key(user, graph)
    explored = graph.explore(seed=seed) if explore else None
    if output is not None and explored is not None:
        _save(explored, output)
        click.echo(f"{explored.num_rows:,} users of {graph.identity.day} in {output}", err=as_json)
    if as_json:
        print_json(_facts(opened, graph, key, at, count, explored))
        return
    if key is not None:
        print_tables(table_of_neighbors(graph, key, count, explored))
    elif explored is not None and output is None:
        print_tables(_table_of_communities(graph, explored, count))
    if at is not None and key is not None:
        print_tables(_table_of_candidates(opened, key, at, count))


def _facts(
    lake: Lake, graph: Graph, key: pa.Array | None, at: dt.datetime | None, count: int, explored: pa.Table | None
) -> Facts:
    return {
        "day": graph.identity.day,
        "weights": graph.model.kind,
        "similar": None if key is None else _similar(graph, key, count, explored),
        "communities": None if explored is None or key is not None else _communities(explored, count),
        "candidates": None if at is None or key is None else _candidates(lake, key, at, count),
    }


def _key(user: str, graph: Graph) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array([user]).cast(graph.ids.type)
    except pa.ArrowInvalid:
        raise click.BadParameter(f"{user!r}: user ids are integers in this lake", param_hint="USER") from None


def _similar(graph: Graph, key: pa.Array, count: int, explored: pa.Table | None) -> Facts:
    """The most similar users of a user, with the communities and centralities of `explored`."""
    import pyarrow.compute as pc

    def places(users: pa.Array) -> list[Facts]:
        if explored is None:
            return [{} for _ in users]
        rows: list[Facts] = explored.select(_PLACE).take(pc.index_in(users, value_set=graph.ids)).to_pylist()
        return rows

    near = graph.neighbors(key, count)
    users = zip(near.ids.to_pylist(), near.weights.tolist(), places(near.ids), strict=True)
    return {
        "user": key[0].as_py(),
        **places(key)[0],
        "neighbors": [{"user": user, "weight": weight, **place} for user, weight, place in users],
    }


def table_of_neighbors(graph: Graph, key: pa.Array, count: int, explored: pa.Table | None = None) -> WholeTable:
    """Table of the most similar users of a user, with the communities and centralities of `explored`."""
    similar = _similar(graph, key, count, explored)
    title = f"like user {similar['user']} at the end of {graph.identity.day} ({graph.model.kind} weights)"
    numbers = ("weight", *(_PLACE if explored is not None else ()))
    table = WholeTable("user", *numbers, title=title, right=numbers)
    for row in similar["neighbors"]:
        table.add_row(str(row["user"]), f"{row['weight']:.4f}", *(_place_cells(row) if explored is not None else ()))
    if explored is not None:
        table.caption = "itself: community {}, centrality {}, followers {}".format(*_place_cells(similar))
    return table


def _communities(explored: pa.Table, count: int) -> list[Facts]:
    """The largest communities, each with its most central users."""
    import pyarrow.compute as pc

    sizes = pc.value_counts(explored["community"]).to_pylist()
    facts = []
    for size in sorted(sizes, key=lambda size: int(size["values"]))[:count]:
        members = explored.filter(pc.equal(explored["community"], size["values"])).sort_by(
            [("centrality", "descending")]
        )
        central = members["user_id"].to_pylist()[:5]
        facts.append({"community": size["values"], "users": size["counts"], "most_central": central})
    return facts


def _table_of_communities(graph: Graph, explored: pa.Table, count: int) -> WholeTable:
    import pyarrow.compute as pc

    there = pc.count_distinct(explored["community"]).as_py()
    title = f"{there} communities of {len(graph):,} users at the end of {graph.identity.day}"
    table = WholeTable("community", "users", "most central", title=title, right=("community", "users"))
    for row in _communities(explored, count):
        table.add_row(str(row["community"]), f"{row['users']:,}", ", ".join(map(str, row["most_central"])))
    return table


def _candidates(lake: Lake, key: pa.Array, at: dt.datetime, count: int) -> Facts:
    """What similar users recommend to one at a time (UTC)."""
    at = at.replace(tzinfo=dt.UTC)
    answer = lake.candidates(key, at=at, k=count)
    items = zip(answer.items.to_pylist(), answer.scores.tolist(), strict=True)
    return {
        "at": at,
        "served_by": answer.days[0],
        "items": [{"item": item, "score": score} for item, score in items],
    }


def _table_of_candidates(lake: Lake, key: pa.Array, at: dt.datetime, count: int) -> WholeTable:
    """What similar users recommend to one at a time (UTC)."""
    facts = _candidates(lake, key, at, count)
    served = facts["served_by"] or "popularity alone: no embeddings were available"
    title = f"candidates at {facts['at'].replace(tzinfo=None).isoformat()} UTC, served by {served}"
    table = WholeTable("item", "score", title=title, right=("score",))
    for row in facts["items"]:
        table.add_row(str(row["item"]), f"{row['score']:.4f}")
    return table


def _place_cells(place: Facts) -> tuple[str, str, str]:
    return str(place["community"]), f"{place['centrality']:.5f}", str(place["followers"])


def _save(explored: pa.Table, output: Path) -> None:
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    with atomic.file(output) as part:
        if output.suffix == ".csv":
            csv.write_csv(explored, part)
        else:
            parquet.write_table(explored, part)
