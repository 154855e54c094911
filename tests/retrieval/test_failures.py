"""The jobs of embeddings, index and graph when they are killed, doubled, or asked for what is not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable

import tokenlake
from tests.fixtures.embedded import SEEN_LEFT_OUT, vectors
from tests.fixtures.kills import ended
from tests.fixtures.lakes import day, make_events, make_lake
from tests.fixtures.patience import wait_until
from tests.retrieval.derived import derived, edges_of
from tokenlake._lake import Lake
from tokenlake.errors import NotFoundError, StorageError, TransientError, VersionError
from tokenlake.pipeline import jobs
from tokenlake.pipeline.backfill import backfill
from tokenlake.pipeline.indexing import index_days
from tokenlake.retrieval import build
from tokenlake.times import DAY_US, day_start

_KILLED = -9
DAYS = 3
LAST = day(DAYS - 1)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As in the children that `ended` starts: the order of sums, and so the last bits, depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fresh(folder: Path) -> Lake:
    lake = make_lake(folder, SEEN_LEFT_OUT)
    lake.ingest(make_events(days=DAYS, per_day=25))
    return lake


def state(lake: Lake) -> dict[str, Any]:
    """All that the jobs leave behind, but for when they did."""
    index_days(lake, lake.events.days())
    found: dict[str, Any] = {f"of {i}": derived(lake, i) for i in range(DAYS)}
    for of in ("user", "item"):
        found[of] = vectors(lake, of).to_pylist()
    version = lake.config.embedding_version
    found["plans"] = [(p.day, p.checkpoint, p.parent, p.bootstrap) for p in lake.catalog.plans(version)]
    found["indexes"] = [(i.name, i.day, i.checkpoint, i.rows, dict(i.stats)) for i in lake.catalog.indexes(version)]
    found["done"] = [lake.catalog.done(version, job) for job in ("train-embeddings", "embed", "index", "graph")]
    found["left over"] = [path.name for path in lake.data.rglob(".*") if path.is_dir()]
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    """A lake that nothing disturbed, what it holds, and how many points its last day passed."""
    lake = fresh(tmp_path_factory.mktemp("undisturbed"))
    assert [code for code, _ in ended(lake.root, [], "embeddings")] == [0]
    [(code, points)] = ended(lake.root, [], "embeddings", LAST.isoformat())
    assert code == 0
    return lake.root, state(lake), points


@pytest.fixture
def lake(template: tuple[Path, dict[str, Any], int], tmp_path: Path) -> Lake:
    shutil.copytree(template[0], tmp_path / "lake")
    return tokenlake.open(tmp_path / "lake")


@pytest.mark.slow
def test_killed_anywhere_in_a_day_it_goes_on(lake: Lake, template: tuple[Path, dict[str, Any], int]) -> None:
    """The last day is embedded anew each time, so its indexes and graph are built anew too."""
    _, expected, total = template
    edges, newest = edges_of(lake, DAYS - 1), DeltaTable(lake.edges.path).version()
    points = [total * k // 20 for k in (1, 4, 8, 12, 15, 17, 19)]  # the graph comes last
    *killed, (code, _) = ended(lake.root, points, "embeddings", LAST.isoformat())
    assert [code for code, _ in killed] == [_KILLED] * len(points)
    assert code == 0
    assert state(lake) == expected
    assert {run.status for run in lake.catalog.runs()} == {"done", "killed"}
    assert {"embed", "index", "graph"} <= {run.job for run in lake.catalog.runs() if run.status == "killed"}
    table = DeltaTable(lake.edges.path)
    assert table.version() > newest
    for number in range(newest, table.version() + 1):  # what a reader could see at any time: the whole day
        rows = DeltaTable(lake.edges.path, version=number).to_pyarrow_table().to_pylist()
        assert sorted(tuple(row.values()) for row in rows if row["ds"] == LAST) == edges


@pytest.mark.slow
def test_killed_while_training_it_goes_on(tmp_path: Path, template: tuple[Path, dict[str, Any], int]) -> None:
    lake, undisturbed = fresh(tmp_path), tokenlake.open(template[0])
    *killed, (code, _) = ended(lake.root, [3, 9, 15], "embeddings", day(0).isoformat())
    assert ([code for code, _ in killed], code) == ([_KILLED] * 3, 0)
    assert "train-embeddings" in {run.job for run in lake.catalog.runs() if run.status == "killed"}
    for of in ("user", "item"):
        assert vectors(lake, of).equals(vectors(undisturbed, of, through=day(0)))
    for one in (lake, undisturbed):
        index_days(one, [day(0)])
    assert derived(lake, 0) == derived(undisturbed, 0)


@pytest.mark.slow
def test_any_day_twice_changes_nothing(lake: Lake, template: tuple[Path, dict[str, Any], int]) -> None:
    version = lake.config.embedding_version
    for i in (1, 0, 2, 2):
        for job in (*jobs.EMBEDDING_JOBS, *jobs.RETRIEVAL_JOBS):
            assert job(lake, day(i), version).status == "done"
    assert state(lake) == template[1]


@pytest.mark.slow
def test_two_processes_on_the_same_days(tmp_path: Path, template: tuple[Path, dict[str, Any], int]) -> None:
    lake = fresh(tmp_path)
    assert [code for code, _ in ended(lake.root, [], "race", "embeddings")] == [0, 0]
    assert state(lake) == template[1]
    broken = [run for run in lake.catalog.runs() if run.status != "done"]
    assert {run.error_kind for run in broken} <= {"transient"}


def test_killed_while_faiss_builds_in_its_own_process(lake: Lake) -> None:
    before, folder = derived(lake, 2), build.folder_of(lake, LAST)
    shutil.rmtree(folder)
    code = (
        "import sys, datetime, tokenlake; from tokenlake.pipeline import jobs; lake = tokenlake.open(sys.argv[1]);"
        "jobs.index(lake, datetime.date.fromisoformat(sys.argv[2]), lake.config.embedding_version)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(lake.root), str(LAST)], start_new_session=True)
    wait_until(
        lambda: process.poll() is not None or list(folder.parent.glob(f".{LAST}-*/items/request.json")),
        "the process that builds",
        pause=0.002,
    )
    assert process.poll() is None
    time.sleep(0.1)  # Python starts, or has started, the process that builds
    process.kill()
    assert process.wait() == _KILLED
    assert not folder.exists()
    index_days(lake, [LAST])
    assert derived(lake, 2) == before  # whatever the orphan still writes
    assert "killed" in {run.status for run in lake.catalog.runs(job="index")}


def test_a_build_that_fails_is_transient_and_leaves_the_old_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    version, before = lake.config.embedding_version, derived(lake, 2)
    jobs.embed(lake, LAST, version)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(StorageError, match="failed") as raised:
            jobs.index(lake, LAST, version)
    assert isinstance(raised.value, TransientError)
    assert (build.folder_of(lake, LAST) / "graph.arrow").exists()
    assert [result.status for result in index_days(lake, [LAST])] == ["done", "done"]
    assert derived(lake, 2) == before


# What is new, or of something else.


def test_an_item_never_seen_before_has_a_vector_the_day_it_comes(lake: Lake) -> None:
    with pytest.raises(NotFoundError, match="1 ids are not in the index"):
        lake.index("items").search([777])
    new = make_events(days=1, per_day=1, seed=5)
    stamp = pa.array([day_start(day(DAYS)) + DAY_US // 2], pa.timestamp("us", "UTC"))
    given = {
        "timestamp": stamp,
        "item_id": [777],
        "user_id": [55],
        "genre": ["never"],
        "bought": [0],
        "bought_at": [None],
    }
    for name, values in given.items():
        new = new.set_column(new.column_names.index(name), name, pa.array(values, new[name].type))
    lake.ingest(new)
    backfill(lake, version="alure")
    ids, cosines = lake.index("items").search([777], 2)
    assert ids[0].as_py() == 777
    assert cosines[0, 0] == pytest.approx(1, abs=1e-5)
    assert np.isfinite(cosines).all()
    assert 55 in lake.graph().ids.to_pylist()  # of one event alone
    assert len(lake.graph().neighbors([55], 4).ids) == 4


def test_another_version_of_the_config_is_never_served_the_old_vectors(lake: Lake) -> None:
    old = lake.index("users", LAST)
    file = lake.root / "tokenlake.yaml"
    file.write_text(file.read_text().replace("  dim: 8\n  width: 16\n  queries", "  dim: 4\n  width: 16\n  queries"))
    changed = tokenlake.open(lake.root)
    assert changed.config.embedding_version != lake.config.embedding_version
    for ask in (changed.index, changed.graph):
        with pytest.raises(NotFoundError, match="no embeddings"):
            ask()
    assert changed.sql("from neighbors(1)").fetchall() == []
    with pytest.raises(VersionError, match=lake.config.embedding_version):
        jobs.index(changed, LAST, lake.config.embedding_version)
    backfill(changed, version="alure")
    new = changed.index("users", LAST)
    with pytest.raises(VersionError, match="the query"):
        old.search(new.vectors[:1], identity=new.identity)
    with pytest.raises(tokenlake.errors.SchemaError, match=r"shape \(1, 4\).* 8 wide"):
        old.search(np.asarray(new.vectors[:1]))
    assert len(changed.sql("select distinct version from edges").fetchall()) == 2
    assert {row[0] for row in changed.sql("select version from neighbors(1)").fetchall()} == {new.identity.version}
