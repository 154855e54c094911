"""Opens published indexes and graphs. It never builds: if one is missing, the error names the job that builds it."""

from __future__ import annotations

from tokenlake.errors import NotFoundError
from tokenlake.lake.project import Project
from tokenlake.retrieval.artefacts import GRAPH, NAMES, folder_of, graph_is_published, index_is_published
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.index import Index
from tokenlake.times import Day


def load_index(lake: Project, name: str = "users", day: Day | None = None) -> Index:
    """Open the published index of a day's `users` or `items`; defaults to the newest published one.

    Raises:
        NotFoundError: an unknown index name, or no index was published for the day.
        MissingExtraError: faiss is not installed.
    """
    if name not in NAMES:
        raise NotFoundError(f"no index {name!r}; there are {list(NAMES)}")
    embedded = _embedded(lake, day)
    published = next((d for d in embedded if index_is_published(lake, d)), None)
    if published is None:
        raise _unpublished(lake, "index", embedded)
    return Index(folder_of(lake, published) / name)


def load_graph(lake: Project, day: Day | None = None) -> Graph:
    """Open the published graph of a day; default and errors as `load_index`."""
    embedded = _embedded(lake, day)
    published = next((d for d in embedded if graph_is_published(lake, d)), None)
    if published is None:
        raise _unpublished(lake, "graph", embedded)
    return Graph.load(folder_of(lake, published) / GRAPH)


def serving_day(lake: Project, embedded: list[Day], end: Day) -> Day | None:
    """The day whose index and graph serve queries that may use days up to `end`; None if no day is embedded by then.

    It is the newest embedded day up to `end`. If that is the newest day of all, whose index may still be in work, the
    day before is used instead.

    Args:
        lake: the lake.
        embedded: ascending days with embeddings.
        end: the last day that may be used.

    Raises:
        NotFoundError: the day's index or graph was not published.
    """
    seen = [day for day in embedded if day <= end]
    if not seen:
        return None
    candidates = seen[-2:] if seen[-1] == embedded[-1] else seen[-1:]
    for day in reversed(candidates):
        if index_is_published(lake, day) and graph_is_published(lake, day):
            return day
    raise _unpublished(lake, "index and graph", candidates[-1:])


def _embedded(lake: Project, day: Day | None) -> list[Day]:
    """Days with embeddings, newest first; only `day` if it is given."""
    days = lake.user_embeddings.days(lake.config.embedding_version)
    if not days or (day is not None and day not in days):
        raise NotFoundError(
            f"no embeddings of {day or 'any day'} yet; `tokenlake backfill {lake.root}` makes them"
            + (f" (there are {days[0]} to {days[-1]})" if days else "")
        )
    return days[::-1] if day is None else [day]


def _unpublished(lake: Project, what: str, days: list[Day]) -> NotFoundError:
    return NotFoundError(
        f"the {what} of {days[0]} was not published; `tokenlake index {lake.root} {days[0]}` makes it "
        f"(the jobs `index` and `graph` do so for each new day)"
    )
