"""What the jobs made of a day, as plain values."""

from __future__ import annotations

from tests.fixtures.lakes import day
from tokenlake._lake import Lake
from tokenlake.retrieval import artefacts


def derived(lake: Lake, i: int) -> dict[str, object]:
    """Everything that the jobs made of a day, as plain values."""
    graph, edges = lake.graph(day(i)), edges_of(lake, i)
    found = [lake.index(name, day(i)).search(lake.index(name, day(i)).ids, 4) for name in artefacts.NAMES]
    return {
        "near": [(ids.to_pylist(), cosines.tolist()) for ids, cosines in found],
        "graph": (graph.targets.tolist(), graph.weights.tolist(), graph.identity, graph.model),
        "edges": edges,
    }


def edges_of(lake: Lake, i: int) -> list[tuple[object, ...]]:
    rows = lake.edges.read(day=day(i)).to_pylist()
    return sorted((r["src"], r["dst"], r["weight"], r["version"], r["ds"]) for r in rows)
