"""A lake in plain Feast code: what is registered, materialized, and read as of when.

All of Feast's tests of this kind share one file, since importing Feast takes seconds.
"""

from __future__ import annotations

import datetime as dt
import doctest
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from feast.infra.online_stores.sqlite import SqliteOnlineStore

import tokenlake
from tests.fixtures.feast_lakes import (
    BLOCK,
    EMBEDDING,
    LATER,
    MICRO,
    bring,
    build,
    by_hand,
    child,
    close,
    copy,
    historical,
    online,
    setting,
    start,
    store_of,
    users_of,
)
from tests.fixtures.lakes import CONFIG, day, make_lake
from tests.fixtures.patience import HANG_S
from tokenlake._lake import Lake
from tokenlake.commands.status import collect
from tokenlake.errors import ConfigError, LockedError, ServiceError
from tokenlake.feast import repository
from tokenlake.pipeline import jobs
from tokenlake.pipeline.backfill import backfill
from tokenlake.pipeline.materialization import is_current
from tokenlake.storage.locks import hold

OURS = '{type: tokenlake.feast.TokenlakeOnlineStore, lake: .., path: "../feature_store/online"}'


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return build(tmp_path_factory.mktemp("built") / "lake")


@pytest.fixture(scope="module")
def full(built: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Everything in Feast; tests only read it."""
    lake = copy(built, tmp_path_factory.mktemp("full") / "lake")
    bring(lake)
    return lake


def expected(lake: Lake, at: dt.datetime = LATER) -> list[dict[str, Any]]:
    return [by_hand(lake, user, at) for user in users_of(lake)]


# Reading.


@pytest.mark.parametrize("at", [start(3) - MICRO, start(3), start(3) + MICRO, start(3) + dt.timedelta(hours=20), LATER])
def test_a_historical_read_sees_a_days_rows_from_the_next_day_on(full: Lake, at: dt.datetime) -> None:
    assert historical(full, users_of(full), at) == expected(full, at)


def test_a_vector_is_unseen_on_its_own_day(full: Lake) -> None:
    """Feast's join takes available_at <= t, and so the row at its very instant; what it tells is older than that."""
    version = full.config.embedding_version
    user = full.user_embeddings.read(version=version, day=day(0))["user_id"][0].as_py()
    seen = [historical(full, [user], at, [EMBEDDING])[0]["embedding"] for at in (start(1) - MICRO, start(1))]
    assert seen[0] is None
    assert seen[1] is not None
    newest = full.events.read(day=day(0))["timestamp"].to_pylist()
    assert max(newest) < start(1)


def test_an_online_read_equals_the_historical_one_as_of_now(full: Lake) -> None:
    users = users_of(full)
    answers = online(full, users)
    assert answers == historical(full, users, LATER) == expected(full)
    last = full.user_embeddings.read(version=full.config.embedding_version, day=day(6))["user_id"].to_pylist()
    gone = [a for a in answers if a["embedding"] is not None and a["user_id"] not in last]
    assert gone, "some users left before the last day, and are still there"
    assert answers[-1] == {"user_id": 999.0} | dict.fromkeys(list(answers[-1])[1:])


def test_items_are_read_likewise(full: Lake) -> None:
    items = sorted(set(full.item_embeddings.read(columns=["item_id"])["item_id"].to_pylist()))
    store = store_of(full)
    found = store.get_online_features(["item_embeddings:embedding"], [{"item_id": i} for i in items]).to_dict()
    close(store)
    rows = full.item_embeddings.read(version=full.config.embedding_version).sort_by("ds").to_pylist()
    assert dict(zip(items, found["embedding"], strict=True)) == {row["item_id"]: row["embedding"] for row in rows}


@pytest.mark.filterwarnings("ignore:.*experimental.*:RuntimeWarning")  # what Feast says of on-demand views
def test_the_session_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(Path(__file__).parents[2] / "docs" / "feast.md"), module_relative=False)
    assert result.attempted >= 15
    assert result.failed == 0


# The job.


def test_a_backfill_materializes_once_and_again_does_nothing(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake")
    assert collect(lake)["feast"] == {"last_day": None}
    done = [result.job for result in bring(lake).results]
    assert done == ["statistics"] * 7 + ["materialize"]
    assert bring(lake).results == []
    assert collect(lake)["feast"] == {"last_day": day(6)}
    assert collect(built)["feast"] is None
    (run,) = lake.catalog.runs(job="materialize")
    assert (run.status, run.day) == ("done", day(6))
    written = {a["uri"].as_py().partition("view=")[2]: a["rows"].as_py() for a in _artefacts(lake, run.id)}
    assert written == {
        f"{view}&ds={day(6)}": len(set(table.read(columns=[key])[key].to_pylist()))
        for view, table, key in (
            ("user_embeddings", lake.user_embeddings, "user_id"),
            ("item_embeddings", lake.item_embeddings, "item_id"),
            ("user_statistics", lake.user_statistics, "user_id"),
        )
    } | {f"instance_tokens&ds={day(6)}": 0}, "nothing of the tokens' encoder was made"


def _artefacts(lake: Lake, run: int) -> list[dict[str, Any]]:
    table = lake.catalog.arrow()["artefacts"]
    return [
        {name: table[name][i] for name in table.column_names}
        for i in range(table.num_rows)
        if table["run_id"][i].as_py() == run
    ]


@pytest.mark.slow
@pytest.mark.parametrize("store", [None, OURS])
def test_day_by_day_comes_to_the_same_whatever_is_run_again(built: Lake, tmp_path: Path, store: str | None) -> None:
    lake = copy(built, tmp_path / "lake", store)
    for i in range(7):
        jobs.statistics(lake, day(i))
        jobs.materialize(lake, day(i))
        assert online(lake, users_of(lake)) == expected(lake, start(i + 1))
    for i in (2, 2, 6, 0):
        assert jobs.materialize(lake, day(i)).status == "done"
        assert online(lake, users_of(lake)) == expected(lake)


def test_an_old_day_that_changed_reaches_the_store_but_not_over_newer_values(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake")
    bring(lake)
    late = lake.events.read(day=day(2)).slice(0, 2).drop_columns(["ds", "ingested_at"])
    names = {"clicked_known_at": None, "bought_known_at": "bought_at"}
    late = late.drop_columns([n for n, new in names.items() if new is None]).rename_columns(
        [names.get(n) or n for n in late.column_names if names.get(n, n) is not None]
    )
    late = late.set_column(late.column_names.index("user_id"), "user_id", pa.array([500, 501]))
    late = late.set_column(late.column_names.index("event_id"), "event_id", pa.array([10**9, 10**9 + 1]))
    assert lake.ingest(late).accepted == 2
    backfill(lake, version="alure")
    bring(lake)
    users = [*users_of(lake), 500, 501]
    answers = online(lake, users)
    assert answers == [by_hand(lake, user, LATER) for user in users]
    assert all(row["embedding"] is not None for row in answers[-2:])


FIRST = """
import pandas as pd
from feast import OnDemandFeatureView
from feast.types import Float64
first = OnDemandFeatureView(name="first", sources=[user_embeddings], schema=[Field(name="number", dtype=Float64)],
    entities=[user], mode="pandas", write_to_online_store=True, udf_string="first",
    udf=lambda rows: pd.DataFrame({"number": [float(vector[0]) for vector in rows.embedding]}))
"""


@pytest.mark.filterwarnings("ignore:.*experimental.*:RuntimeWarning")  # what Feast says of on-demand views
def test_another_encoder_leaves_no_old_vector_behind(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake")
    path = lake.root / "feature_repo" / "definitions.py"
    path.write_text(path.read_text() + FIRST)
    bring(lake)
    rows = online(lake, users_of(lake), [EMBEDDING])
    firsts = [row["number"] for row in online(lake, users_of(lake), ["first:number"])]
    assert firsts == [row["embedding"] and row["embedding"][0] for row in rows]
    make_lake(lake.root, CONFIG + BLOCK.replace("dim: 8", "dim: 4"))
    other = tokenlake.open(lake.root)
    assert other.config.embedding_version != lake.config.embedding_version
    jobs.materialize(other, day(6))
    emptied = online(other, users_of(other))
    assert all(row["embedding"] is None for row in emptied)
    assert any(row["events"] is not None for row in emptied), "statistics know no version"
    assert all(row["number"] is None for row in online(other, users_of(other), ["first:number"])), (
        "nor what was made of it"
    )
    backfill(other, version="alure", last=day(4))
    jobs.materialize(other, day(4))
    # The statistics reach further than the new vectors do; both are the newest there is.
    assert online(other, users_of(other)) == expected(other)
    assert {len(row["embedding"]) for row in online(other, users_of(other)) if row["embedding"]} == {4}


def test_stopped_half_way_it_is_finished_by_the_next(
    built: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = copy(built, tmp_path / "lake")
    write = SqliteOnlineStore.online_write_batch

    def stops(self: Any, config: Any, table: Any, data: Any, progress: Any) -> None:
        if table.name == "user_statistics":
            raise KeyboardInterrupt
        write(self, config, table, data, progress)

    monkeypatch.setattr(SqliteOnlineStore, "online_write_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        bring(lake)
    monkeypatch.undo()
    assert lake.catalog.runs(job="materialize")[-1].status == "interrupted"
    assert not is_current(lake, day(6))
    half = online(lake, users_of(lake), [EMBEDDING])
    assert any(row["embedding"] for row in half), "readers are served all along"
    assert [result.job for result in bring(lake).results] == ["materialize"]
    assert online(lake, users_of(lake)) == expected(lake)


@pytest.mark.slow
def test_killed_half_way_readers_are_served_and_the_next_finishes(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake")
    bring(lake)
    rows = lake.user_statistics.read(day=day(6))
    changed = rows.set_column(rows.column_names.index("events"), "events", pc.add(rows["events"], pa.scalar(100)))
    before = expected(lake)
    lake.user_statistics.replace_day(day(6), changed)
    code = (
        "import os; from feast.infra.online_stores.sqlite import SqliteOnlineStore as S; write = S.online_write_batch; "
        "S.online_write_batch = lambda s, c, table, *more: os.kill(os.getpid(), 9) "
        "if table.name == 'user_statistics' else write(s, c, table, *more); "
        f"jobs.materialize(lake, dt.date.fromisoformat('{day(6)}'))"
    )
    assert subprocess.run(child(lake, code), timeout=HANG_S).returncode == -9
    assert online(lake, users_of(lake)) == before
    assert jobs.materialize(lake, day(6)).status == "done"
    assert online(lake, users_of(lake)) == expected(lake) != before
    assert [run.status for run in lake.catalog.runs(job="materialize")] == ["done", "killed", "done"]


def test_the_daily_run_ends_in_feast(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake")
    done = [(result.job, result.status) for result in lake.run(day(0)).results]
    assert done[0] == ("ingest", "done")
    assert done[-2:] == [("statistics", "done"), ("materialize", "done")]
    assert online(lake, users_of(lake)) == expected(lake, start(1))
    assert [result.job for result in lake.run(day(0)).results] == ["ingest"]


@pytest.mark.slow
def test_two_processes_at_once(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake")
    for each in lake.events.days():
        jobs.statistics(lake, each)
    code = "print(jobs.materialize(lake, dt.date.fromisoformat({!r})).status)"
    running = [
        subprocess.Popen(child(lake, code.format(str(day(i)))), stdout=subprocess.PIPE, text=True) for i in (3, 6)
    ]
    told = [process.communicate(timeout=HANG_S)[0].strip() for process in running]
    assert told == ["done"] * 2
    assert online(lake, users_of(lake)) == expected(lake)


def test_one_that_cannot_wait_says_who_is_at_it(built: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = copy(built, tmp_path / "lake")
    monkeypatch.setattr(jobs, "FEAST_PATIENCE_S", 0.1)
    with (
        hold(lake.data / "locks" / "materialize", "somebody else"),
        pytest.raises(LockedError, match="somebody else"),
    ):
        jobs.materialize(lake, day(6))


# The repository.


def test_without_repository_or_feast_it_is_skipped_and_says_why(
    built: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = jobs.materialize(built, day(6))
    assert bare.status == "skipped"
    assert "--feast" in str(bare.summary["reason"])
    lake = copy(built, tmp_path / "lake")
    monkeypatch.setattr(repository.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]  # as if it were not installed
    missing = jobs.materialize(lake, day(6))
    assert missing.status == "skipped"
    assert "pip install" in str(missing.summary["reason"])


def test_files_are_written_once_and_edits_stay(tmp_path: Path) -> None:
    make_lake(tmp_path)
    assert [path.name for path in repository.write(tmp_path)] == ["feature_store.yaml", "definitions.py"]
    definitions = tmp_path / "feature_repo" / "definitions.py"
    definitions.write_text("edited = True\n")
    assert repository.write(tmp_path) == []
    assert definitions.read_text() == "edited = True\n"


def test_two_lakes_in_a_process_each_get_their_own_definitions(built: Lake, tmp_path: Path) -> None:
    first, second = copy(built, tmp_path / "one"), copy(built, tmp_path / "two")
    (second.root / "feature_repo" / "names.py").write_text("NAME = 'people'\n")
    edited = second.root / "feature_repo" / "definitions.py"
    text = edited.read_text().replace('name="user_statistics",\n    entities', "name=names.NAME,\n    entities")
    edited.write_text(text.replace("import tokenlake\n", "import names\nimport tokenlake\n", 1))
    assert "user_statistics" in jobs.materialize(first, day(6)).summary
    assert "people" in jobs.materialize(second, day(6)).summary
    assert "user_statistics" in jobs.materialize(first, day(6)).summary


def test_a_view_that_is_no_longer_defined_goes(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake")
    bring(lake)
    path = lake.root / "feature_repo" / "definitions.py"
    path.write_text(path.read_text().partition("# Events, active days")[0])
    jobs.materialize(lake, day(6))
    store = store_of(lake)
    assert {view.name for view in store.list_batch_feature_views()} == {"user_embeddings", "item_embeddings"}
    close(store)


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("definitions.py", "import nosuchmodule\n", "nosuchmodule"),
        ("definitions.py", "import tokenlake\ntokenlake.open('/nowhere')\n", "nowhere"),
        ("feature_store.yaml", "- a list\n", "mapping"),
    ],
)
def test_a_broken_file_is_named(built: Lake, tmp_path: Path, file: str, text: str, error: str) -> None:
    lake = copy(built, tmp_path / "lake")
    (lake.root / "feature_repo" / file).write_text(text)
    with pytest.raises(ConfigError, match=error):
        jobs.materialize(lake, day(6))


def test_a_registry_that_is_not_there_may_come_back(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake", registry="sqlite:////nowhere/registry.db")
    with pytest.raises(ServiceError, match="does not answer"):
        jobs.materialize(lake, day(6))


def test_another_online_store_is_filled_from_the_beginning(built: Lake, tmp_path: Path) -> None:
    lake = copy(built, tmp_path / "lake")
    bring(lake)
    setting(lake.root, "online_store", OURS)
    assert not is_current(lake, day(6))
    assert [result.job for result in bring(lake).results] == ["materialize"]
    assert online(lake, users_of(lake)) == expected(lake)
