"""The second part of the demo's final report: candidates, similar users, Feast."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from tokenlake.commands import neighbors
from tokenlake.commands._bars import bar
from tokenlake.commands._common import console
from tokenlake.commands._tables import WholeTable, print_tables

if TYPE_CHECKING:
    import pyarrow as pa

    from tokenlake._lake import Lake
    from tokenlake.commands._demo_forms import Form
    from tokenlake.retrieval.graph import Graph

_ROWS = 8
#: Time of the query before the end of the log, so that later events exist.
_TAIL = dt.timedelta(days=5)


def show(lake: Lake, form: Form) -> None:
    """Print candidates, similar users and the values that Feast serves."""
    _recall(lake, form)
    _indexes(lake)
    before = lake.user_embeddings.days(lake.config.embedding_version)[-1] - _TAIL
    graph = lake.graph(before)
    user = _busiest(lake, graph)
    at = dt.datetime.combine(before + dt.timedelta(days=1), dt.time(12))
    print_tables(neighbors.table_of_neighbors(graph, user, _ROWS), _candidates(lake, user, at))
    _feast(lake, user[0].as_py(), at)


def _recall(lake: Lake, form: Form) -> None:
    from tokenlake.evaluation.reports import current_report

    with bar() as progress:
        report = current_report(lake, progress, form.report_days)
    title = f"Is the next positive item among {report.k} candidates? {report.events:,} events, {report.first} to {report.last}"
    numbers = ("recall", "more than by popularity [95%]", "NDCG")
    table = WholeTable("method", *numbers, title=title, right=numbers)
    for score in report.scores:
        if score.users == "all":
            lift = f"{score.lift.value:+.3f} [{score.lift.low:+.3f}, {score.lift.high:+.3f}]"
            table.add_row(score.method, f"{score.recall:.3f}", lift, f"{score.ndcg:.3f}")
    print_tables(table)
    console.print("U2U2I are the candidates by similar users; the other methods obey the same rules.", soft_wrap=True)


def _indexes(lake: Lake) -> None:
    """Print the newest index of each kind, with its recall against an exact search."""
    newest = {made.name: made for made in sorted(lake.catalog.indexes(lake.config.embedding_version), key=_day)}
    table = WholeTable(
        "index", "kind", "day", "rows", "recall@10 against exact", title="Indexes (SQL: index_versions())"
    )
    for name, made in newest.items():
        recall = made.stats.get("recall@10")
        kind = str(made.stats.get("kind", ""))
        table.add_row(name, kind, str(made.day), f"{made.rows:,}", "" if recall is None else f"{recall:.4f}")
    print_tables(table)


def _day(made: Any) -> dt.date:
    day: dt.date = made.day
    return day


def _busiest(lake: Lake, graph: Graph) -> pa.Array:
    """The user of the graph with the most events."""
    in_graph = ", ".join(repr(user) for user in graph.ids.to_pylist())
    found = lake.sql(f"SELECT mode(user_id) FROM events WHERE user_id IN ({in_graph})").to_arrow_table()
    return found.column(0).combine_chunks().cast(graph.ids.type)


def _candidates(lake: Lake, user: pa.Array, at: dt.datetime) -> WholeTable:
    """Table of a user's candidates, with features of the items, and what the rankers make of them (`lake.rank`)."""
    when = at.replace(tzinfo=dt.UTC)
    answer = lake.candidates(user, at=when, k=_ROWS)
    ranked = {name: lake.rank(name, user, answer, at=when) for name in lake.config.rankers}
    told = [name for name, feature in lake.config.events.features.items() if feature.of == "item"][:2]
    columns = ["item_id", *(f'any_value("{name}")' for name in told)]
    query = f"SELECT {', '.join(columns)} FROM events WHERE list_contains($items, item_id) GROUP BY item_id"
    known = {row[0]: row[1:] for row in lake.sql(query, {"items": answer.items.to_pylist()}).fetchall()}
    numbers = ("score", *(f"{scores.labels[0]}, by {name}" for name, scores in ranked.items()))
    table = WholeTable("item", *told, *numbers, title=f"Candidates for user {user[0]} at {at}", right=set(numbers))
    for i, item in enumerate(answer.items.to_pylist()):
        probabilities = (f"{scores.values[i, 0]:.3f}" for scores in ranked.values())
        table.add_row(str(item), *(_word(value) for value in known[item]), f"{answer.scores[i]:.4f}", *probabilities)
    return table


def _word(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _feast(lake: Lake, user: int | str, at: dt.datetime) -> None:
    """Print one user's values, read by plain Feast code: the newest ones online, and those at two times in the past."""
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
    table = WholeTable(
        "read", "as of", "events", "tokens", "embedding", title=f"Feast: user {user}, {', '.join(features)}"
    )
    for row in sorted(past, key=lambda row: row["event_timestamp"]):
        table.add_row("historical", f"{row['event_timestamp']:%Y-%m-%d %H:%M}", *_row_cells(row))
    table.add_row("online", "now", *_row_cells(online))
    print_tables(table)


def _online(store: Any, features: list[str], user: int | str) -> dict[str, list[Any]]:
    answer: dict[str, list[Any]] = store.get_online_features(features, [{"user_id": user}]).to_dict()
    return answer


def _row_cells(row: dict[str, Any]) -> list[str]:
    vector = row["embedding"]
    numbers = "none" if vector is None else " ".join(f"{x:+.3f}" for x in vector[:3]) + " ..."
    return [str(row["events"]), str(len(row["timestamps"] or [])), numbers]
