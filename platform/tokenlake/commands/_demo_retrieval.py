"""The second half of what the demo prints: candidates, similar users, Feast, and a sequence model over the tokens."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tokenlake.commands import evaluate, neighbors
from tokenlake.commands._bars import bar
from tokenlake.commands._common import console

if TYPE_CHECKING:
    import pyarrow as pa

    from tokenlake._lake import Lake
    from tokenlake.retrieval.graph import Graph

#: Before the end of the log, so that something is left to come.
_TAIL = dt.timedelta(days=10)


def show(lake: Lake) -> None:
    """Print what the embeddings are good for, and what Feast serves of them."""
    _recall(lake)
    _indexes(lake)
    before = lake.user_embeddings.days(lake.config.embedding_version)[-1] - _TAIL
    graph = lake.graph(before)
    user = _busiest(lake, graph)
    at = dt.datetime.combine(before + dt.timedelta(days=1), dt.time(12))
    console.print(neighbors.table_of_neighbors(graph, user, 8))
    console.print(neighbors.table_of_candidates(lake, user, at, 8))
    _feast(lake, user[0].as_py(), at)


def _recall(lake: Lake) -> None:
    from tokenlake.evaluation.reports import current_report

    with bar() as progress:
        report = current_report(lake, progress)
    console.print(evaluate.retrieval_table(report))


def _indexes(lake: Lake) -> None:
    """The newest index of each kind, with its recall against an exact search."""
    newest = {made.name: made for made in sorted(lake.catalog.indexes(lake.config.embedding_version), key=_day)}
    table = Table("index", "kind", "day", "rows", "recall@10 against exact", title="Indexes (SQL: index_versions())")
    for name, made in newest.items():
        recall = made.stats.get("recall@10")
        kind = str(made.stats.get("kind", ""))
        table.add_row(name, kind, str(made.day), f"{made.rows:,}", "" if recall is None else f"{recall:.4f}")
    console.print(table)


def _day(made: Any) -> dt.date:
    day: dt.date = made.day
    return day


def _busiest(lake: Lake, graph: Graph) -> pa.Array:
    """Who of the graph has the most events."""
    in_graph = ", ".join(repr(user) for user in graph.ids.to_pylist())
    found = lake.sql(f"SELECT mode(user_id) FROM events WHERE user_id IN ({in_graph})").to_arrow_table()
    return found.column(0).combine_chunks().cast(graph.ids.type)


def _feast(lake: Lake, user: int | str, at: dt.datetime) -> None:
    """One user, read by plain Feast code: the newest values online, and those of two times in the past."""
    from tokenlake.feast import repository

    if reason := repository.lacking(lake.root):
        console.print(f"Feast is left out: {reason}")
        return
    import pandas as pd
    from feast import FeatureStore

    store = FeatureStore(str(lake.root / repository.FOLDER))
    features = ["user_statistics:events", "instance_tokens:timestamps", "user_embeddings:embedding"]
    now = dt.datetime.combine(lake.events.days()[-1] + dt.timedelta(days=1), dt.time(), dt.UTC)
    asked = pd.DataFrame({"user_id": [user] * 2, "event_timestamp": [at.replace(tzinfo=dt.UTC), now]})
    past = store.get_historical_features(asked, features).to_arrow().to_pylist()
    online = {name: values[0] for name, values in _online(store, features, user).items()}
    table = Table("read", "as of", "events", "tokens", "embedding", title=f"Feast: user {user}, {', '.join(features)}")
    for row in sorted(past, key=lambda row: row["event_timestamp"]):
        table.add_row("historical", f"{row['event_timestamp']:%Y-%m-%d %H:%M}", *_told(row))
    table.add_row("online", "now", *_told(online))
    console.print(table)


def _online(store: Any, features: list[str], user: int | str) -> dict[str, list[Any]]:
    answer: dict[str, list[Any]] = store.get_online_features(features, [{"user_id": user}]).to_dict()
    return answer


def _told(row: dict[str, Any]) -> list[str]:
    vector = row["embedding"]
    numbers = "none" if vector is None else " ".join(f"{x:+.3f}" for x in vector[:5]) + " ..."
    return [str(row["events"]), str(len(row["timestamps"] or [])), numbers]
