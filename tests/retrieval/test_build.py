"""The jobs that derive indexes, graph and `edges` of a day's embeddings: what they build, and when."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from tests.fixtures.embedded import SEEN_LEFT_OUT, filled
from tests.fixtures.lakes import day, make_events
from tests.retrieval.derived import derived, edges_of
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import CorruptionError, OrderError, VersionError
from tokenlake.pipeline import jobs
from tokenlake.retrieval import artefacts, build
from tokenlake.retrieval.verify import verify
from tokenlake.times import DAY_US, day_start


@pytest.fixture
def lake(tmp_path: Path, template: Path) -> Lake:
    """A lake with everything of its last day, to be spoiled."""
    import tokenlake

    shutil.copytree(template, tmp_path / "lake")
    return tokenlake.open(tmp_path / "lake")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("built"), SEEN_LEFT_OUT).root


def test_edges_equal_the_graph(lake: Lake) -> None:
    graph, names = lake.graph(day(7)), lake.graph(day(7)).ids.to_pylist()
    expected = []
    for place, source in enumerate(names):
        targets, weights = graph.row(place)
        for target, weight in zip(targets.tolist(), weights.tolist(), strict=True):
            expected.append((source, names[target], weight, lake.config.embedding_version, day(7)))
    assert edges_of(lake, 7) == sorted(expected)
    assert len(expected) == 4 * len(names)


def test_each_job_builds_its_own_part_and_the_catalog_keeps_both(lake: Lake) -> None:
    version = lake.config.embedding_version
    before = derived(lake, 7)
    shutil.rmtree(build.folder_of(lake, day(7)))
    indexed = jobs.index(lake, day(7), version)
    assert (indexed.summary["built"], indexed.summary["users"]) == (1, 12)
    assert artefacts.index_is_current(lake, day(7))
    assert not artefacts.graph_is_current(lake, day(7))
    linked = jobs.graph(lake, day(7), version)
    assert linked.summary == {"built": 1, "users": 12, "edges": 48, "weights": "cosine"}
    assert derived(lake, 7) == before
    records = {i.name: i for i in lake.catalog.indexes(version) if i.day == day(7)}
    checkpoint = lake.graph(day(7)).identity.checkpoint
    assert {(i.name, i.version, i.checkpoint, i.day) for i in records.values()} == {
        (name, version, checkpoint, day(7)) for name in ("users", "items", "graph")
    }
    wrote = lake.sql(
        "select job, kind, rows from artefacts join runs on runs.id = run_id where job in ('index', 'graph')"
    )
    assert {("index", "index-users", 12), ("graph", "graph", 12), ("graph", "edges", 48)} <= set(wrote.fetchall())


def test_what_is_current_is_not_built_again(lake: Lake) -> None:
    version, folder = lake.config.embedding_version, build.folder_of(lake, day(7))
    stood = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}, lake.edges.commit_version()
    assert [job(lake, day(7), version).summary["built"] for job in jobs.RETRIEVAL_JOBS] == [0, 0]
    assert ({path: path.stat().st_mtime_ns for path in folder.rglob("*")}, lake.edges.commit_version()) == stood
    jobs.embed(lake, day(7), version)
    assert [job(lake, day(7), version).summary["built"] for job in jobs.RETRIEVAL_JOBS] == [1, 1]
    assert [job(lake, day(7), version).summary["built"] for job in jobs.RETRIEVAL_JOBS] == [0, 0]


@pytest.mark.parametrize("lost", ["users/index.faiss", "made.json", "graph.arrow", "graph.json", "edges", "all"])
def test_what_was_deleted_is_built_again_and_equal(lake: Lake, lost: str) -> None:
    before, folder = derived(lake, 7), build.folder_of(lake, day(7))
    if lost == "edges":
        shutil.rmtree(lake.edges.path)
    elif lost == "all":
        shutil.rmtree(lake.data / "retrieval")
        shutil.rmtree(lake.edges.path)
    else:
        (folder / lost).unlink()
    lake = type(lake)(lake.file, lake.config)
    for job in jobs.RETRIEVAL_JOBS:
        assert job(lake, day(7), lake.config.embedding_version).status == "done"
    assert derived(lake, 7) == before


def test_the_graph_builds_the_indexes_that_it_needs(lake: Lake) -> None:
    before = derived(lake, 6)
    shutil.rmtree(lake.data / "retrieval")
    jobs.graph(lake, day(6), lake.config.embedding_version)
    assert build.is_current(lake, day(6))
    assert artefacts.index_is_current(lake, day(4))  # what the weights are fitted on: `edge_days` before
    assert derived(lake, 6) == before


def test_order_version_and_days_without_events(lake: Lake) -> None:
    version = lake.config.embedding_version
    for job in jobs.RETRIEVAL_JOBS:
        assert job(lake, day(90), version).status == "skipped"
        with pytest.raises(VersionError, match="alure-00000000"):
            job(lake, day(7), "alure-00000000")
    late = make_events(days=1).slice(0, 5)
    stamps = pa.array(day_start(day(8)) + np.arange(5) * DAY_US // 10, pa.timestamp("us", "UTC"))
    late = late.set_column(late.column_names.index("timestamp"), "timestamp", stamps)
    lake.ingest(late.set_column(0, "event_id", pa.array(np.arange(5) + 10**9)))
    for job in jobs.RETRIEVAL_JOBS:
        with pytest.raises(OrderError):
            job(lake, day(8), version)


def test_an_index_that_was_built_again_while_open_is_not_mixed_with_the_new_one(lake: Lake) -> None:
    from tokenlake.errors import ConflictError

    opened, read = lake.index("users", day(7)), lake.index("users", day(7))
    answer = read.search([1], 3)[0]
    build.ensure_indexes(lake, [day(7)], rebuild=True)
    with pytest.raises(ConflictError, match="open the index again"):
        opened.search([1], 3)
    assert read.search([1], 3)[0].equals(answer)  # it holds all that it needs


# `tokenlake verify`.


def test_verify_finds_all_whole(lake: Lake) -> None:
    build.ensure(lake, [day(6), day(7)])
    told = {checked.day: checked for checked in verify(lake)}
    for i in (6, 7):
        checked = told[str(day(i))]
        assert (checked.state, checked.users, checked.edges) == ("current", 12, 48)
    shown = CliRunner().invoke(app, ["verify", str(lake.root)], catch_exceptions=False).output
    assert "verified indexes and graphs" in shown
    jobs.embed(lake, day(7), lake.config.embedding_version)
    assert [checked.state for checked in verify(lake) if checked.day == str(day(7))] == ["stale"]


@pytest.mark.parametrize("name", ["users/index.faiss", "items/vectors.npy", "users/knn.npy", "graph.arrow"])
def test_verify_names_the_file_that_was_damaged(lake: Lake, name: str) -> None:
    file = build.folder_of(lake, day(7)) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptionError, match=f"{name} is not what was written"):
        list(verify(lake))
    file.unlink()
    with pytest.raises(CorruptionError, match=f"{name} is missing"):
        list(verify(lake))


def test_verify_compares_with_the_tables(lake: Lake) -> None:
    version, rows = lake.config.embedding_version, lake.edges.read(day=day(7))
    swapped = rows.set_column(2, "weight", pa.array(np.roll(rows["weight"].to_numpy(), 1)))
    lake.edges.replace_day(day(7), swapped, version=version)
    with pytest.raises(CorruptionError, match="the table edges of 2024-03-08 is not the graph"):
        list(verify(lake))
    lake.edges.replace_day(day(7), rows, version=version)
    assert list(verify(lake))
    made = build.folder_of(lake, day(7)) / artefacts.INDEX_INFO
    content = json.loads(made.read_text())
    np.save(made.parent / "users/vectors.npy", np.zeros((12, 8), np.float32))
    artefacts.write_info(made, content, [made.parent / name for name in content["sums"]])
    with pytest.raises(CorruptionError, match="users is not of the rows of user_embeddings"):
        list(verify(lake))
