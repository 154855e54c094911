"""Exploration of the graph of similar users: communities and centrality. Not used for serving."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import MissingExtraError
from tokenlake.features.keys import Ints
from tokenlake.retrieval.graph import Graph

_TOLERANCE = 1e-9
_STEPS = 1000


def explore(graph: Graph, *, seed: int = 0, resolution: float = 1.0) -> pa.Table:
    """Compute the community, centrality and followers of every user of a graph.

    Args:
        graph: the graph of a day.
        seed: of the order in which Louvain visits the users; the same seed gives the same communities.
        resolution: of Louvain; a larger value gives smaller communities.

    Returns:
        Columns `user_id`, `community` (int64, 0 is the largest), `centrality` (float64, sums to 1) and `followers` (int64,
        number of users that have the user among their nearest), in the order of the graph's ids.

    Raises:
        MissingExtraError: networkx is not installed.
    """
    return pa.table(
        {
            "user_id": graph.ids,
            "community": communities(graph, seed=seed, resolution=resolution),
            "centrality": centrality(graph),
            "followers": np.bincount(graph.targets, minlength=len(graph)),
        }
    )


def communities(graph: Graph, *, seed: int = 0, resolution: float = 1.0) -> Ints:
    """The community of each user by Louvain's method (arXiv 0803.0476), int64 (n,); 0 is the largest.

    The graph is made undirected: the weight between two users is the sum of both directions.
    """
    nx = _networkx()
    # By positions and not by ids: the order of a set of strings differs from process to process.
    ties = nx.Graph()
    ties.add_nodes_from(range(len(graph)))
    for source, target, weight in zip(*_edges(graph), strict=True):
        before = ties.get_edge_data(source, target, {"weight": 0.0})["weight"]
        ties.add_edge(source, target, weight=before + weight)
    found = nx.community.louvain_communities(ties, weight="weight", resolution=resolution, seed=seed)
    of = np.zeros(len(graph), np.int64)
    for number, members in enumerate(sorted(found, key=lambda users: (-len(users), min(users)))):
        of[list(members)] = number
    return of


def centrality(graph: Graph, damping: float = 0.85) -> NDArray[np.float64]:
    """Weighted PageRank of each user, float64 (n,), sums to 1; by power iteration.

    A user without edges links to all users equally, as in networkx, whose implementation needs scipy.
    """
    count = len(graph)
    rank = np.full(count, 1 / max(count, 1))
    sources = graph.sources
    total = np.bincount(sources, graph.weights, count)
    share = graph.weights / total[sources] if len(sources) else graph.weights
    for _ in range(_STEPS):
        flow = np.bincount(graph.targets, rank[sources] * share, count)
        new = damping * (flow + rank[total == 0].sum() / max(count, 1)) + (1 - damping) / max(count, 1)
        moved = np.abs(new - rank).sum()
        rank = new
        if moved < _TOLERANCE:
            break
    return rank


def to_networkx(graph: Graph) -> Any:
    """Convert to a `networkx.DiGraph`; implements `Graph.to_networkx`."""
    exported = _networkx().DiGraph(**graph.identity.to_json())
    names = graph.ids.to_pylist()
    exported.add_nodes_from(names)
    exported.add_weighted_edges_from((names[s], names[t], w) for s, t, w in zip(*_edges(graph), strict=True))
    return exported


def _edges(graph: Graph) -> tuple[list[int], list[int], list[float]]:
    return graph.sources.tolist(), graph.targets.tolist(), graph.weights.tolist()


def _networkx() -> Any:
    try:
        import networkx as nx
    except ImportError as error:
        raise MissingExtraError("networkx is not installed; `pip install 'tokenlake[cpu]'` brings it") from error
    return nx
