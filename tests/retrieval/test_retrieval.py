"""Index, graph and candidates of a small lake, each against what is worked out by hand."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from tests.fixtures.embedded import AGAIN, SEEN_LEFT_OUT, filled
from tests.fixtures.lakes import day, make_events, make_lake
from tests.retrieval.oracle import Oracle
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import MissingExtraError, NotFoundError, SchemaError, StorageError, TrainingError, VersionError
from tokenlake.pipeline import jobs
from tokenlake.pipeline.backfill import backfill
from tokenlake.pipeline.indexing import index_days
from tokenlake.retrieval import build, faiss_build
from tokenlake.retrieval.candidates import Ablation, Retriever
from tokenlake.retrieval.edges import FEATURES, EdgeModel
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.pools import ItemPools
from tokenlake.retrieval.queries import encode
from tokenlake.times import DAY_US, day_start


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return filled(tmp_path_factory.mktemp("seen"), SEEN_LEFT_OUT)


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return filled(tmp_path_factory.mktemp("again"), AGAIN, make_events(per_day=120))


def vectors_of(lake: Lake, i: int) -> dict[int, np.ndarray]:
    rows = lake.user_embeddings.read(day=day(i), version=lake.config.embedding_version).to_pylist()
    return {r["user_id"]: np.float32(r["embedding"]) for r in rows}


# The index.


def test_search_equals_brute_force(lake: Lake) -> None:
    vectors = vectors_of(lake, 7)
    index = lake.index("users", day(7))
    assert index.ids.to_pylist() == sorted(vectors)
    assert index.stats == {"kind": "flat", "recall@10": 1.0}
    ids, cosines = index.search(sorted(vectors), k=5)
    for i, user in enumerate(sorted(vectors)):
        near = sorted(vectors, key=lambda v: -float(vectors[v] @ vectors[user]))[:5]
        assert ids.to_pylist()[i * 5 : i * 5 + 5] == near
        np.testing.assert_allclose(cosines[i], [vectors[v] @ vectors[user] for v in near], atol=1e-6)


def test_items_have_an_index_of_their_own(lake: Lake) -> None:
    ids, _ = lake.index("items").search([3], k=1)
    assert ids.to_pylist() == [3]


def test_a_wrong_width_day_or_version_is_refused(lake: Lake) -> None:
    index, other = lake.index("users", day(7)), lake.index("users", day(5))
    with pytest.raises(SchemaError, match="8 wide"):
        index.search(np.zeros((1, 9), np.float32))
    with pytest.raises(VersionError, match="the query"):
        index.search(np.zeros((1, 8), np.float32), identity=other.identity)
    with pytest.raises(NotFoundError, match="1 ids"):
        index.search([12345])
    with pytest.raises(NotFoundError, match="2 ids"):
        index.search(["1", "x"])
    assert index.places(pa.array(["1"])).tolist() == [-1]
    assert index.places(np.array([1, 12345], np.uint64))[1] == -1
    with pytest.raises(NotFoundError, match="no index 'tags'"):
        lake.index("tags")
    with pytest.raises(NotFoundError, match="no embeddings"):
        lake.index("users", day(90))


def test_large_indexes_are_approximate_and_their_recall_is_measured() -> None:
    assert [faiss_build.kind_of(n, 100) for n in (100, 101, 10**6)] == ["flat", "hnsw", "ivf"]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for kind, least in (("hnsw", 0.9), ("ivf", 0.2)):
        assert least < faiss_build.recall(faiss_build.make(vectors, kind), vectors) <= 1


def test_size_chooses_the_kind_and_the_catalog_keeps_it(lake: Lake, tmp_path: Path) -> None:
    small = filled(tmp_path, SEEN_LEFT_OUT.replace("  edge_days", "  exact_below: 5\n  edge_days"))
    assert small.index("users").stats["kind"] == "hnsw"
    for one, kind in ((small, "hnsw"), (lake, "flat")):
        records = {i.name: i for i in one.catalog.indexes(one.config.embedding_version) if i.day == day(7)}
        assert set(records) == {"users", "items", "graph"}
        assert records["users"].stats["kind"] == kind
        assert 0.8 <= records["users"].stats["recall@10"] <= 1
        assert records["users"].checkpoint == one.index("users").identity.checkpoint


def test_without_faiss_the_error_names_the_extra(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"tokenlake\[cpu\]"):
        lake.index("users", day(7)).search([1])
    with pytest.raises(MissingExtraError):
        build.ensure_indexes(lake, [day(6)], rebuild=True)


def test_deleted_it_is_made_again_and_equal(lake: Lake) -> None:
    before, graph = lake.index("users", day(7)).search([1, 2], 4), lake.graph(day(7))
    shutil.rmtree(build.folder_of(lake, day(7)))
    index_days(lake, [day(7)])
    after, regraphed = lake.index("users", day(7)).search([1, 2], 4), lake.graph(day(7))
    assert after[0].equals(before[0])
    np.testing.assert_array_equal(regraphed.targets, graph.targets)
    np.testing.assert_array_equal(regraphed.weights, graph.weights)


def test_a_build_that_dies_leaves_the_old_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lake.index("users", day(7)).search([1], 4)[0]

    def dies(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -9, "", "killed")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", dies)
        with pytest.raises(StorageError, match="killed"):
            build.ensure_indexes(lake, [day(7)], rebuild=True)
    assert lake.index("users", day(7)).search([1], 4)[0].equals(before)
    assert not list(build.folder_of(lake, day(7)).parent.glob(".*"))


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        (np.zeros((2, 3), np.float32), None),
        (np.zeros(3, np.float32), TrainingError),  # no rows of numbers: it is so at the next try, too
        (None, StorageError),  # no file, as a disk that went away has none
    ],
    ids=["vectors", "no vectors", "no file"],
)
def test_whether_another_try_may_help(tmp_path: Path, vectors: Any, error: type[Exception] | None) -> None:
    (tmp_path / "request.json").write_text('{"neighbors": 1, "exact_below": 9}')
    if vectors is not None:
        np.save(tmp_path / "vectors.npy", vectors)
    if error is None:
        faiss_build.build([tmp_path])
        return
    with pytest.raises(error, match=r"building .* failed \(exit status"):
        faiss_build.build([tmp_path])


def test_reading_never_builds(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, folder = lake.graph(day(7)).weights, build.folder_of(lake, day(7))
    (folder / "graph.arrow").unlink()
    with pytest.raises(NotFoundError, match=f"the graph of {day(7)} .*tokenlake index .* {day(7)}"):
        lake.graph(day(7))
    assert not (folder / "graph.arrow").exists()
    index_days(lake, [day(7)])
    np.testing.assert_array_equal(lake.graph(day(7)).weights, weights)


@pytest.mark.slow
def test_without_its_index_a_day_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, SEEN_LEFT_OUT)
    lake.ingest(make_events())
    assert {r.day for r in lake.backfill().results if r.job in ("index", "graph")} == {day(7)}
    for ask in (lambda: lake.index("items", day(3)), lambda: lake.candidates([1], [day_start(day(4))], k=1)):
        with pytest.raises(NotFoundError, match=f"was not published; `tokenlake index .* {day(3)}` makes it"):
            ask()
    assert not build.folder_of(lake, day(3)).exists()
    asked = [str(lake.root), str(day(2)), str(day(3))]
    told = CliRunner().invoke(app, ["index", *asked], catch_exceptions=False).output
    assert told == "2 days indexed and linked, 0 were up to date\n"
    assert lake.candidates([1], [day_start(day(4))], k=1).days == [day(3)]
    assert {r.day for r in lake.backfill(index="all").results} == {day(i) for i in (0, 1, 4, 5, 6)}
    assert "0 days indexed" in CliRunner().invoke(app, ["index", str(lake.root)], catch_exceptions=False).output
    refused = CliRunner().invoke(app, ["index", str(lake.root), "2030-01-01"])
    assert isinstance(refused.exception, NotFoundError)


def test_the_day_before_serves_while_the_newest_is_built(tmp_path: Path) -> None:
    lake = filled(tmp_path, SEEN_LEFT_OUT)
    shutil.rmtree(build.folder_of(lake, day(7)))
    now = day_start(day(8))
    assert lake.candidates([1], [now], k=1).days == [day(6)]
    assert lake.index("users").identity.day == lake.graph().identity.day == day(6)
    shutil.rmtree(build.folder_of(lake, day(6)))
    with pytest.raises(NotFoundError, match=f"index .* {day(7)}`"):
        lake.candidates([1], [now], k=1)


def test_embedding_a_day_again_makes_its_index_stale(tmp_path: Path) -> None:
    lake = filled(tmp_path, SEEN_LEFT_OUT)
    assert build.is_current(lake, day(7))
    assert backfill(lake, version="alure").results == []
    jobs.embed(lake, day(7), lake.config.embedding_version)
    assert not build.is_current(lake, day(7))
    assert [r.job for r in backfill(lake, version="alure").results] == ["index", "graph"]
    assert build.is_current(lake, day(7))


# The graph.


def test_graph_links_the_nearest_with_weights_that_sum_to_one(lake: Lake, again: Lake) -> None:
    graph, vectors = lake.graph(day(7)), vectors_of(lake, 7)
    assert len(graph) == len(vectors)
    for place, user in enumerate(graph.ids.to_pylist()):
        targets, weights = graph.row(place)
        near = sorted((v for v in vectors if v != user), key=lambda v: -float(vectors[v] @ vectors[user]))[:4]
        assert set(graph.ids.take(pa.array(targets)).to_pylist()) == set(near)
        assert weights.sum() == pytest.approx(1)
        assert (np.diff(weights) <= 0).all()
    assert (graph.model.kind, again.graph().model.kind) == ("cosine", "learned")  # too little happened in the first
    with pytest.raises(NotFoundError, match="not in the graph"):
        graph.neighbors([999])
    with pytest.raises(NotFoundError, match="1 of 1 users are not in the graph"):
        graph.neighbors(["3"])
    found = graph.neighbors([3, 1], k=2)
    assert found.offsets.tolist() == [0, 2, 4]


def test_graph_as_networkx_and_as_saved(lake: Lake, tmp_path: Path) -> None:
    graph = lake.graph(day(7))
    exported = graph.to_networkx()
    assert exported.number_of_nodes() == len(graph)
    assert exported.number_of_edges() == len(graph.targets)
    user, place = graph.ids[0].as_py(), graph.row(0)
    assert exported[user][graph.ids[int(place[0][0])].as_py()]["weight"] == pytest.approx(place[1][0])
    graph.save(tmp_path / "g.arrow")
    loaded = Graph.load(tmp_path / "g.arrow")
    assert (loaded.identity, loaded.model) == (graph.identity, graph.model)


def test_edge_weights_find_planted_rates() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, len(FEATURES)))
    rate = np.exp(-3 + 0.8 * features[:, 1] - 0.4 * features[:, 4])
    trials = rng.integers(1, 100, 4000).astype(float)
    model = EdgeModel.fit(features, rng.poisson(rate * trials).astype(float), trials)
    assert model.kind == "learned"
    np.testing.assert_allclose(np.log(model.weights(features)), np.log(rate), atol=0.15)
    none = EdgeModel.fit(features, np.zeros(4000), trials)
    assert none.kind == "cosine"
    assert (none.weights(features) == np.maximum(features[:, 0], 0)).all()
    assert EdgeModel.from_json({**model.__dict__, "beta": list(model.beta)}) == model


# Candidates.


@pytest.mark.parametrize("which", ["lake", "again"])
def test_candidates_equal_those_found_by_hand(which: str, request: pytest.FixtureRequest) -> None:
    lake: Lake = request.getfixturevalue(which)
    oracle = Oracle(lake)
    rng = np.random.default_rng(1)
    times = day_start(day(0)) + rng.integers(0, 8 * DAY_US, 25)
    users = [int(u) for u in rng.integers(0, 13, 25)]  # 12 is nobody
    answer = lake.candidates(users, times, k=12)
    for i, (user, now) in enumerate(zip(users, times, strict=True)):
        expected = oracle.candidates(user, int(now), 12)
        assert answer.of(i).to_pylist() == [item for item, _ in expected]
        got = answer.scores[answer.offsets[i] : answer.offsets[i + 1]]
        np.testing.assert_allclose(got, [s for _, s in expected], atol=1e-5)  # vectors alone, and in a batch


def test_query_vectors_equal_those_of_the_rows(lake: Lake) -> None:
    """Of events that happened before the retention window, too, where their label became known within it."""
    oracle, now = Oracle(lake), day_start(day(7)) + DAY_US // 2
    since = dt.datetime.fromtimestamp(now / 1e6, dt.UTC) - dt.timedelta(days=5)
    users, pools = np.arange(13), ItemPools(lake, day(7))
    codes = pools.log.codes_of(pa.array(users))
    found, known = encode(lake, pools, lake.index("users", day(6)).identity, codes, np.full(len(users), now))
    late = [e for e in lake.events.read().to_pylist() if e["timestamp"] < since and e["bought"]]
    assert any(e["bought_known_at"] > since for e in late)
    for user, vector, there in zip(users, found, known, strict=True):
        expected = oracle.vector(int(user), day(6), now)
        assert there == (expected is not None)
        if expected is not None:
            np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_stored_vectors_are_those_of_a_query_at_midnight(lake: Lake) -> None:
    """Whatever became known within the retained days, also of events from before them."""
    oracle = Oracle(lake)
    for i in range(8):
        rows = lake.user_embeddings.read(day=day(i), version=lake.config.embedding_version).to_pylist()
        assert rows
        for row in rows:
            expected = oracle.vector(row["user_id"], day(i), day_start(day(i + 1)))
            assert expected is not None
            np.testing.assert_allclose(row["embedding"], expected, atol=1e-5)


@pytest.mark.parametrize("ablation", [Ablation(), Ablation(realtime=False), Ablation(cosine=True), Ablation(stale=2)])
def test_deleting_the_future_changes_no_candidate(lake: Lake, tmp_path: Path, ablation: Ablation) -> None:
    now = day_start(day(6)) + DAY_US // 2
    before = pc.less(make_events()["timestamp"], pa.scalar(now, pa.timestamp("us", "UTC")))
    past = filled(tmp_path, SEEN_LEFT_OUT, make_events().filter(before))
    users, times = pa.array(range(12)), np.full(12, now)
    there, here = (Retriever(one, day(6), ablation).candidates(users, times, 10) for one in (past, lake))
    assert there.days == here.days
    for i in range(12):  # an item's code depends on what exists, its id does not
        assert there.of(i).equals(here.of(i))
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-9)


def test_only_what_was_available_serves(lake: Lake) -> None:
    midnight = day_start(day(5))
    assert lake.candidates([1, 1, 1], [midnight - 1, midnight, midnight + DAY_US]).days == [day(3), day(4), day(5)]
    assert lake.candidates([1], [day_start(day(0)) + 1]).days == [None]
    assert Retriever(lake, day(5), Ablation(stale=3)).available(midnight) == day(1)


def test_strangers_get_what_is_popular_and_no_one_what_he_saw(lake: Lake) -> None:
    now = day_start(day(7))
    answer = lake.candidates([999, 4], [now], k=5)
    popular = Oracle(lake).popular(day(7))
    assert answer.of(0).to_pylist() == sorted(popular, key=lambda item: (-popular[item], item))[:5]
    met = lake.events.read(filter=(pc.field("user_id") == 4) & (pc.field("ds") < pa.scalar(day(7))))["item_id"]
    assert not set(answer.of(1).to_pylist()) & set(met.to_pylist())
    of_another_kind = lake.candidates(["4", "x"], [now], k=5)
    assert of_another_kind.of(0).equals(answer.of(0))
    assert of_another_kind.of(1).equals(answer.of(0))


def test_an_item_never_seen_before_can_be_a_candidate_at_once(tmp_path: Path) -> None:
    lake = filled(tmp_path, SEEN_LEFT_OUT)
    now = day_start(day(7)) + DAY_US - 1
    neighbor = lake.graph(day(6)).neighbors([2], 1).ids
    new = make_events().slice(0, 1)
    for name, value in {"event_id": 10**9, "user_id": neighbor[0].as_py(), "item_id": 777, "clicked": 1}.items():
        new = new.set_column(new.column_names.index(name), name, pa.array([value], new[name].type))
    stamp = pa.array([now - 1000], pa.timestamp("us", "UTC"))
    lake.ingest(new.set_column(new.column_names.index("timestamp"), "timestamp", stamp))
    found = Retriever(lake, day(7), Ablation(realtime=False)).candidates(pa.array([2]), np.array([now]), 50)
    assert 777 in found.of(0).to_pylist()
    assert 777 not in lake.candidates([2], [now - 1000], k=50).items.to_pylist()


def test_a_user_with_one_event_and_a_lake_of_one(tmp_path: Path) -> None:
    lake = filled(tmp_path, SEEN_LEFT_OUT, make_events().slice(0, 1))
    assert len(lake.index("users")) == len(lake.graph()) == 1
    assert lake.graph().neighbors(lake.graph().ids).offsets.tolist() == [0, 0]
    assert len(lake.candidates(lake.graph().ids, [day_start(day(3))]).items) == 0


def test_what_cannot_be_asked(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="2 users and 3 times"):
        lake.candidates([1, 2], [1, 2, 3])
    with pytest.raises(SchemaError, match="k=0"):
        lake.candidates([1], [1], k=0)
    empty = make_lake(tmp_path, SEEN_LEFT_OUT)
    empty.ingest(make_events(days=1))
    with pytest.raises(NotFoundError, match="no user embeddings"):
        empty.candidates([1], [1])


def test_graph_and_index_of_different_days_never_meet(lake: Lake) -> None:
    build.ensure_graphs(lake, [day(5), day(6)])
    mine = build.folder_of(lake, day(6)) / "graph.arrow"
    kept = mine.read_bytes()
    shutil.copy(build.folder_of(lake, day(5)) / "graph.arrow", mine)
    try:
        with pytest.raises(VersionError, match="the graph"):
            lake.candidates([1], [day_start(day(7))])
    finally:
        mine.write_bytes(kept)
