"""Real Airflow on SQLite, real jobs on a small lake, triggered through the REST API by partition key."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.lakes import day, make_events, make_lake, of_day
from tests.fixtures.patience import HANG_S, wait_until
from tests.integration.days import (
    ALL,
    COLUMNS,
    CONFIG,
    PUBLISHED,
    assert_feast_answers,
    processes_of,
    states,
    write_feature_repository,
)
from tokenlake._lake import Lake
from tokenlake.errors import ConfigError, ServiceError
from tokenlake.features.versions import finished as finished_days
from tokenlake.features.versions import path_of
from tokenlake.scheduling.client import Client, DagRun
from tokenlake.scheduling.services import Services
from tokenlake.times import day_start

pytestmark = pytest.mark.integration

ASSETS = "x-tokenlake://small/"
EMPTY = day(40).isoformat()
TORN = day(41).isoformat()


@dataclass
class World:
    lake: Lake
    services: Services
    airflow: Client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A lake with four days in its landing folder, a torn file for another, and Airflow running on it."""
    lake = make_lake(tmp_path_factory.mktemp("small"), CONFIG)
    events = make_events(days=4).select(COLUMNS)
    for i in range(4):
        folder = lake.root / "landing" / day(i).isoformat()
        folder.mkdir(parents=True)
        pq.write_table(of_day(events, i), folder / "part.parquet")
    torn = lake.root / "landing" / TORN
    torn.mkdir()
    (torn / "part.parquet").write_bytes(b"PAR1, and no more of it")
    write_feature_repository(lake.root)
    services = Services(lake.root, timeout=HANG_S)
    with services as airflow:
        yield World(lake, services, airflow)
    assert processes_of(services.home) == []


def listening(home: Path) -> set[tuple[str, int]]:
    found = set()
    for process in processes_of(home):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def finished(world: World, run: DagRun) -> str:
    """The state in which a run ended."""
    return world.airflow.wait(run.dag_id, run.key, since=run, timeout=HANG_S).state


@pytest.fixture(scope="module")
def first(world: World) -> str:
    """The first day, done by all DAGs."""
    key = day(0).isoformat()
    head = world.airflow.trigger("tokenlake_ingest", key)
    assert states(world.airflow.wait_all(key, since=head, timeout=HANG_S)) == dict.fromkeys(ALL, "success")
    return key


def test_a_day_leaves_every_artefact(world: World, first: str) -> None:
    lake, version, embeddings = world.lake, world.lake.resolve("iat"), world.lake.config.embedding_version
    assert lake.events.count(day=day(0)) == 40
    assert lake.instance_tokens.read(day=day(0), version=version).num_rows == 40
    assert set(lake.catalog.done(version, "publish")) == {day(0)}
    users = lake.events.read(day=day(0))["user_id"].combine_chunks().unique()
    batch = lake.tokens().fetch(users, before=day_start(day(1)), length=100)
    assert len(batch.timestamps) == 40
    assert lake.catalog.serving() == version
    embedded = lake.user_embeddings.read(day=day(0), version=embeddings)
    assert set(embedded["user_id"].to_pylist()) == set(users.to_pylist())
    assert len(lake.index("users", day=day(0))) == len(users)
    assert len(lake.index("items", day=day(0))) == lake.item_embeddings.read(day=day(0), version=embeddings).num_rows
    graph, edges = lake.graph(day(0)), lake.edges.read(day=day(0), version=embeddings)
    assert len(graph) == len(users)
    assert len(graph.targets) == edges.num_rows > 0
    assert set(lake.user_statistics.read(day=day(0))["user_id"].to_pylist()) == set(users.to_pylist())
    assert_feast_answers(lake, day(0))
    ranker = lake.config.model_version("ranker")
    rows = lake.predictions.read(day=day(0), version=ranker)
    assert set(rows["model"].to_pylist()) == {"ranker"}
    assert 0 < rows.num_rows <= 40
    assert finished_days(lake, ranker) == {day(0)}


def test_airflow_shows_what_ran_on_which_day_and_what_it_wrote(world: World, first: str) -> None:
    """Return values, and the `extra` of each asset's event, are what its page shows."""
    airflow, version, embeddings = world.airflow, world.lake.resolve("iat"), world.lake.config.embedding_version
    for name, (dag_id, task) in PUBLISHED.items():
        (run,) = airflow.runs(dag_id, first)
        assert run.key == first
        (event,) = [event for event in airflow.asset_events(ASSETS + name) if event["partition_key"] == first]
        assert event["extra"] == airflow.result(run, task)
        assert event["extra"]["day"] == first
    head, tokens = airflow.runs("tokenlake_ingest", first)[0], airflow.runs("tokenlake_instance_tokens", first)[0]
    assert airflow.result(head, "ingest")["rows"] == 40
    assert airflow.result(tokens, "iat.train")["checkpoint"] == first
    assert airflow.result(tokens, "iat.publish")["version"] == version
    assert "Done" in airflow.log(head, "ingest")
    (run,) = airflow.runs("tokenlake_user_embeddings", first)
    parts = {task["rendered_map_index"]: task["map_index"] for task in airflow.tasks(run) if task["map_index"] >= 0}
    assert parts == {"part 1 of 2": 0, "part 2 of 2": 1}
    rows = [airflow.result(run, "embed", part)["rows"] for part in parts.values()]
    assert sum(rows) == airflow.result(run, "gather")["rows"]
    assert airflow.result(run, "gather") | {"made_here": 0, "version": embeddings} == airflow.result(run, "gather")


def test_the_flow_is_told(world: World, first: str) -> None:
    assert world.airflow.flow() == {
        "tokenlake_ingest": set(),
        "tokenlake_instance_tokens": {("tokenlake_ingest", "ingest")},
        "tokenlake_user_embeddings": {("tokenlake_ingest", "ingest")},
        "tokenlake_feast": {("tokenlake_user_embeddings", "gather")},
        "tokenlake_index": {("tokenlake_user_embeddings", "gather")},
        "tokenlake_graph": {("tokenlake_index", "index")},
        "tokenlake_feast_tokens": {("tokenlake_instance_tokens", "iat.publish")},
        "tokenlake_models": {("tokenlake_instance_tokens", "iat.publish")},
    }


@pytest.fixture(scope="module")
def backfilled(world: World, first: str) -> list[str]:
    """Three days by `airflow backfill create`, the latest first; the disk fails one of them once."""
    lake, airflow = world.lake, world.airflow
    keys = [day(i).isoformat() for i in (1, 2, 3)]
    # A day waits for earlier ones whose events are there.
    lake.ingest([str(lake.root / "landing" / key / "part.parquet") for key in keys])
    # The third day trains the checkpoint that bears the second day's name; a file keeps its place.
    broken = path_of(lake, lake.config.embedding_version, keys[0])
    broken.touch()
    command = ["backfill", "create", "--dag-id", "tokenlake_ingest", "--from-date", keys[0], "--to-date", keys[-1]]
    command += ["--max-active-runs", "1", "--run-backwards", "--reprocess-behavior", "completed"]
    tokenlake = [sys.executable, "-m", "tokenlake", "airflow", str(lake.root), "--"]
    done = subprocess.run([*tokenlake, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: train_of(airflow, keys[1]) == "up_for_retry", "the first try to fail", pause=0.5)
    broken.unlink()
    for key in keys:
        assert states(airflow.wait_all(key, timeout=HANG_S)) == dict.fromkeys(ALL, "success")
    return keys


def train_of(airflow: Client, key: str) -> str | None:
    runs = airflow.runs("tokenlake_user_embeddings", key)
    return airflow.task_states(runs[0]).get("train") if runs else None


@pytest.mark.slow
def test_a_backfill_retries_what_failed_once(world: World, backfilled: list[str]) -> None:
    airflow, failed = world.airflow, backfilled[1]
    assert [airflow.runs("tokenlake_ingest", key)[0].run_id.startswith("backfill__") for key in backfilled] == [
        True
    ] * 3
    (run,) = airflow.runs("tokenlake_user_embeddings", failed)
    tries = {task["task_id"]: task["try_number"] for task in airflow.tasks(run)}
    assert tries["train"] > 1
    assert tries["embed"] == tries["gather"] == 1
    assert "StorageError" in airflow.log(run, "train", attempt=1)


@pytest.mark.slow
def test_days_that_start_latest_first_keep_their_order(world: World, backfilled: list[str]) -> None:
    """No job of a day begins, not even to fail, before the days before it are done."""
    lake, airflow, days = world.lake, world.airflow, [day(i) for i in range(4)]
    began = [airflow.tasks(airflow.runs("tokenlake_ingest", key)[0])[0]["start_date"] for key in backfilled]
    assert began == sorted(began, reverse=True)
    for dag_id, task, version, last in (
        ("tokenlake_instance_tokens", "iat.earlier_days", lake.resolve("iat"), "publish"),
        ("tokenlake_user_embeddings", "earlier_days", lake.config.embedding_version, "embed"),
        ("tokenlake_models", "ranker.earlier_days", lake.config.model_version("ranker"), "predict"),
    ):
        if dag_id != "tokenlake_models":  # which starts when its day's tokens are published, and those came in order
            latest = airflow.runs(dag_id, backfilled[-1])[0]
            tries = {each["task_id"]: each["try_number"] for each in airflow.tasks(latest)}
            assert tries[task] > 1 or airflow.result(latest, task)["waited"] > 0
        for one, following in pairwise(days):
            (done,) = lake.catalog.runs(job=last, day=one, version=version, status="done")
            assert done.ended_at is not None
            assert done.ended_at <= min(run.started_at for run in lake.catalog.runs(day=following, version=version))
        plans = lake.catalog.plans(version)
        assert [plan.day for plan in plans] == days
        assert all(plan.bootstrap or plan.train_to < plan.day for plan in plans)
    assert_feast_answers(lake, days[-1])


@pytest.mark.slow
def test_the_days_are_what_they_are_without_airflow(world: World, backfilled: list[str], tmp_path: Path) -> None:
    other = make_lake(tmp_path, CONFIG)
    write_feature_repository(other.root)
    shutil.copytree(world.lake.root / "landing", other.root / "landing")
    for i in range(4):
        other.run(day(i))
    tables = ("instance_tokens", "user_embeddings", "item_embeddings", "edges", "user_statistics")
    for name in tables:
        assert rows_of(world.lake, name).equals(rows_of(other, name)), name


def rows_of(lake: Lake, name: str) -> pa.Table:
    rows = getattr(lake, name).read(between=(day(0), day(3)))
    keys = [column for column in ("ds", "event_id", "user_id", "item_id", "src", "dst") if column in rows.column_names]
    return rows.sort_by([(key, "ascending") for key in keys])


def test_an_empty_day_skips_and_starts_nothing(world: World, first: str) -> None:
    airflow = world.airflow
    head = airflow.trigger("tokenlake_ingest", EMPTY)
    ended = airflow.wait_all(EMPTY, since=head, timeout=HANG_S)
    assert states(ended) == dict.fromkeys(ALL, None) | {"tokenlake_ingest": "success"}
    assert airflow.task_states(head) == {"ingest": "skipped"}
    for dag_id in ("tokenlake_instance_tokens", "tokenlake_user_embeddings"):
        run = airflow.trigger(dag_id, EMPTY)
        assert finished(world, run) == "success"
        told = {task.rpartition(".")[2]: state for task, state in airflow.task_states(run).items()}
        assert told.pop("earlier_days") == "success"
        assert set(told.values()) == {"skipped"}
        assert len(airflow.runs(dag_id, EMPTY)) == 1
    assert EMPTY not in {event["partition_key"] for name in PUBLISHED for event in airflow.asset_events(ASSETS + name)}


def test_a_terminal_error_is_not_tried_again(world: World, first: str) -> None:
    airflow = world.airflow
    head = airflow.trigger("tokenlake_ingest", TORN)
    assert finished(world, head) == "failed"
    (task,) = airflow.tasks(head)
    assert (task["state"], task["try_number"]) == ("failed", 1)
    assert "SourceError" in airflow.log(head, "ingest")


def test_a_run_without_a_day_says_so(world: World, first: str) -> None:
    airflow = world.airflow
    head = airflow.trigger("tokenlake_ingest", None)
    assert finished(world, head) == "failed"
    assert "no partition key" in airflow.log(head, "ingest")
    with pytest.raises(ServiceError, match="does not match"):
        airflow.trigger("tokenlake_ingest", "yesterday")


def test_services_listen_on_loopback_only_and_keep_their_secrets(world: World, first: str) -> None:
    services = world.services
    assert listening(services.home) == {("127.0.0.1", services.port)}
    password = json.loads(services.password_file.read_text())["admin"]
    secrets = [password, *json.loads((services.home / "secrets.json").read_text()).values()]
    for file in (services.password_file, services.home / "secrets.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for log in services.logs.iterdir():
        assert not [secret for secret in secrets if secret in log.read_text()]
    for process in processes_of(services.home):
        assert not [secret for secret in secrets if secret in " ".join(process.cmdline())]
    stranger = Client(services.url, "admin", "guess")
    with pytest.raises(ServiceError, match="401"):
        stranger.dags()
    stranger.close()


def test_a_second_airflow_on_the_same_lake_is_refused(world: World, first: str) -> None:
    with pytest.raises(ServiceError, match=r"services\.lock is held"):
        Services(world.lake.root).start()
    assert world.airflow.unhealthy() == []


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} "):
            Services(tmp_path, port=port).start()


@pytest.mark.slow
def test_the_command_stops_all_on_ctrl_c(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake")
    command = [sys.executable, "-m", "tokenlake", "airflow", str(lake.root), "--port", "0"]
    environment = os.environ | {"COLUMNS": "200"}
    home = lake.root / "airflow"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "http" in line)
        match = re.search(r"http://127\.0\.0\.1:(\d+)", said)
        assert match
        assert listening(home) == {("127.0.0.1", int(match[1]))}
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("Airflow has stopped.\n")
    assert process.returncode == 0
    assert processes_of(home) == []
