"""Communities and centrality of the graph, and `tokenlake neighbors` that shows them."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.embedded import SEEN_LEFT_OUT, filled
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import MissingExtraError, NotFoundError
from tokenlake.retrieval.edges import EdgeModel
from tokenlake.retrieval.explore import centrality, communities
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.identity import Identity

IDENTITY = Identity("alure-1", "2024-01-01", dt.date(2024, 1, 2))


def graph_of(matrix: np.ndarray, ids: pa.Array | None = None) -> Graph:
    """A graph of a dense matrix of weights, heaviest first."""
    rows = [sorted(np.flatnonzero(row), key=lambda t, row=row: (-row[t], t)) for row in matrix]
    targets = np.array([t for row in rows for t in row], np.int64)
    offsets = np.cumsum([0, *map(len, rows)])
    sources = np.repeat(np.arange(len(matrix)), np.diff(offsets))
    names = pa.array([f"u{i}" for i in range(len(matrix))]) if ids is None else ids
    return Graph(IDENTITY, names, offsets, targets, matrix[sources, targets], np.zeros(len(matrix)), EdgeModel())


def planted(groups: int = 3, size: int = 8, seed: int = 0) -> np.ndarray:
    """Groups whose members are linked to each other, and here and there to another."""
    rng = np.random.default_rng(seed)
    group = np.arange(groups * size) % groups
    matrix = np.where(group[:, None] == group, rng.random((len(group), len(group))), 0)
    matrix += np.where(rng.random(matrix.shape) < 0.03, 0.2, 0)
    np.fill_diagonal(matrix, 0)
    return matrix / matrix.sum(1, keepdims=True)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 7))
    weights = draw(st.lists(st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0]), min_size=count**2, max_size=count**2))
    matrix = np.array(weights).reshape(count, count)
    np.fill_diagonal(matrix, 0)
    return graph_of(matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-9))


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), data=st.data())
def test_neighbors_are_the_heads_of_the_rows(graph: Graph, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(graph) - 1), max_size=6))
    k = data.draw(st.integers(1, 8))
    found = graph.neighbors(graph.ids.take(pa.array(places, pa.int64())), k)
    ids, weights, offsets = [], [], [0]
    for place in places:
        targets, given = graph.row(place)
        ids += [graph.ids[int(t)].as_py() for t in targets[:k]]
        weights += given[:k].tolist()
        offsets.append(len(ids))
    assert (found.ids.to_pylist(), found.weights.tolist(), found.offsets.tolist()) == (ids, weights, offsets)


@settings(max_examples=60, deadline=None)
@given(graph=graphs())
def test_centrality_is_the_fixed_point_of_pagerank(graph: Graph) -> None:
    count = len(graph)
    walk = np.full((count, count), 1 / count)
    for place in range(count):
        targets, weights = graph.row(place)
        if len(targets):
            walk[place] = 0
            walk[place, targets] = weights / weights.sum()
    matrix = 0.85 * walk.T + 0.15 / count
    solved = np.linalg.solve(np.vstack([(matrix - np.eye(count))[:-1], np.ones(count)]), [0] * (count - 1) + [1])
    np.testing.assert_allclose(centrality(graph), solved, atol=1e-7)


def test_planted_communities_are_found_and_numbered_by_size() -> None:
    matrix = planted()
    keep = np.r_[0:24][np.arange(24) != 4]  # the group of 4 (1) has one member less
    of = communities(graph_of(matrix[np.ix_(keep, keep)]))
    for group in range(3):
        assert len(set(of[keep % 3 == group])) == 1
    assert len(set(of)) == 3
    assert set(of[keep % 3 == 1]) == {2}


@pytest.mark.slow
def test_communities_are_the_same_in_every_process() -> None:
    code = (
        "from tests.retrieval.test_explore import graph_of; import numpy as np;"
        "from tokenlake.retrieval.explore import communities;"
        "m = np.random.default_rng(3).random((40, 40)); np.fill_diagonal(m, 0);"
        "print(communities(graph_of(m * (m > .9)), seed=5).tolist())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"PYTHONHASHSEED": s},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for s in ("1", "2")
    ]
    assert told[0] == told[1]
    assert len(set(told[0])) > 3


def test_a_graph_of_nobody_and_of_one() -> None:
    for count in (0, 1):
        found = graph_of(np.zeros((count, count)), pa.array(range(count), pa.int64())).explore()
        assert found["community"].to_pylist() == [0] * count
        assert found["centrality"].to_pylist() == [1.0] * count
        assert found["followers"].to_pylist() == [0] * count


def test_without_networkx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    graph = graph_of(planted())
    for ask in (graph.to_networkx, graph.explore):
        with pytest.raises(MissingExtraError, match=r"tokenlake\[cpu\]"):
            ask()
    assert len(centrality(graph)) == len(graph)  # needs none


# The command.


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return filled(tmp_path_factory.mktemp("explored"), SEEN_LEFT_OUT)


def call(*words: object) -> str:
    result = CliRunner().invoke(app, ["neighbors", *map(str, words)], catch_exceptions=False)
    return f"{result.exit_code}\n{result.output}"


def test_the_command_shows_neighbors_and_their_places(lake: Lake) -> None:
    plain, told = call(lake.root, 3, "-k", 2), call(lake.root, 3, "-k", 2, "--explore")
    found = lake.graph().neighbors([3], 2)
    for user, weight in zip(found.ids.to_pylist(), found.weights, strict=True):
        assert f"│ {user} " in plain
        assert f"{weight:.4f}" in plain
    assert "community" in told
    assert "itself: community" in told
    assert "community" not in plain


def test_the_command_shows_communities_and_saves_all(lake: Lake, tmp_path: Path) -> None:
    found = lake.graph().explore()
    shown = call(lake.root, "--explore")
    assert f"{len(set(found['community'].to_pylist()))} communities of 12 users" in shown
    for suffix, read in ((".csv", pyarrow.csv.read_csv), (".parquet", pyarrow.parquet.read_table)):
        file = tmp_path / f"all{suffix}"
        assert "12 users" in call(lake.root, "--explore", "-o", file)
        assert read(file).to_pylist() == found.to_pylist()


def test_the_command_says_what_is_missing(lake: Lake, tmp_path: Path) -> None:
    assert "give a USER, or --explore" in call(lake.root)
    assert "to a .csv or .parquet file" in call(lake.root, 3, "-o", tmp_path / "x.csv")
    assert "to a .csv or .parquet file" in call(lake.root, 3, "--explore", "-o", tmp_path / "x.txt")
    assert "user ids are integers" in call(lake.root, "nobody")
    with pytest.raises(NotFoundError, match="not in the graph"):
        call(lake.root, 999)
