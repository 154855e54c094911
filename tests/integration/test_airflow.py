"""Real Airflow on SQLite, real jobs on a small lake, triggered through the REST API by partition key."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.pipeline.lakes import day, make_events, make_lake
from tokenlake.errors import ConfigError, ServiceError
from tokenlake.lake.lake import Lake
from tokenlake.scheduling.client import Client, Run
from tokenlake.scheduling.services import Services
from tokenlake.times import DAY_US, day_start

pytestmark = pytest.mark.integration

CONFIG = """
project: small
landing: landing/{ds}/*.parquet
events:
  id: event_id
  features: {genre: {kind: categorical, of: item}, price: numeric}
  labels: {clicked: {}}
tokens:
  encoders: {iat: {dim: 8, width: 16, embedding: 4, history: 16, sit_heads: 2, batch: 64}}
"""
COLUMNS = ["event_id", "user_id", "item_id", "timestamp", "genre", "price", "clicked"]
SECONDS = 240  # for a day, on a machine that is busy with other things
EVENTS = "x-tokenlake://small/events"
TOKENS = "x-tokenlake://small/instance_tokens"
EMPTY = day(40).isoformat()
TORN = day(41).isoformat()


@dataclass
class World:
    lake: Lake
    services: Services
    airflow: Client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A lake with three days in its landing folder, a torn file for another, and Airflow running on it."""
    lake = make_lake(tmp_path_factory.mktemp("small"), CONFIG)
    events = make_events(days=3).select(COLUMNS)
    for i in range(3):
        folder = lake.root / "landing" / day(i).isoformat()
        folder.mkdir(parents=True)
        pq.write_table(of_day(events, i), folder / "part.parquet")
    torn = lake.root / "landing" / TORN
    torn.mkdir()
    (torn / "part.parquet").write_bytes(b"PAR1, and no more of it")
    services = Services(lake.root)
    with services as airflow:
        yield World(lake, services, airflow)
    assert processes_of(services.home) == []


def of_day(events: pa.Table, i: int) -> pa.Table:
    start = pa.scalar(day_start(day(i)), pa.timestamp("us", "UTC"))
    end = pa.scalar(day_start(day(i)) + DAY_US, pa.timestamp("us", "UTC"))
    return events.filter(pc.and_(pc.greater_equal(events["timestamp"], start), pc.less(events["timestamp"], end)))


def processes_of(home: Path) -> list[psutil.Process]:
    """All of the services' processes: they keep the home as their current folder, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(home):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def listening(home: Path) -> set[tuple[str, int]]:
    found = set()
    for process in processes_of(home):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def finished(world: World, since: Run, dag: str | None = None) -> str:
    """The state in which a run ended; or that of the run of another DAG that it started."""
    return world.airflow.wait(dag or since.dag_id, since.key, since=since, timeout=SECONDS).state


@pytest.fixture(scope="module")
def first(world: World) -> str:
    """The first day, done."""
    key = day(0).isoformat()
    head = world.airflow.trigger("tokenlake_ingest", key)
    assert finished(world, head) == "success"
    assert finished(world, head, "tokenlake_instance_tokens") == "success"
    return key


def test_a_day_leaves_rows_tokens_and_a_trace(world: World, first: str) -> None:
    lake, version = world.lake, world.lake.resolve("iat")
    assert lake.events.count(day=day(0)) == 40
    assert lake.instance_tokens.read(day=day(0), version=version).num_rows == 40
    assert set(lake.catalog.done(version, "publish")) == {day(0)}
    users = lake.events.read(day=day(0))["user_id"].combine_chunks().unique()
    batch = lake.tokens().fetch(users, before=day_start(day(1)), length=100)
    assert len(batch.timestamps) == 40
    assert lake.catalog.serving() == version


def test_airflow_shows_what_ran_on_which_day_and_what_it_wrote(world: World, first: str) -> None:
    airflow = world.airflow
    head, tokens = airflow.runs("tokenlake_ingest", first)[0], airflow.runs("tokenlake_instance_tokens", first)[0]
    assert tokens.key == head.key == first
    assert airflow.result(head, "ingest")["rows"] == 40
    assert airflow.result(tokens, "iat.train")["checkpoint"] == first
    events, published = airflow.asset_events(EVENTS), airflow.asset_events(TOKENS)
    assert [event["partition_key"] for event in events] == [event["partition_key"] for event in published] == [first]
    assert events[0]["extra"] == airflow.result(head, "ingest")
    assert published[0]["extra"] == airflow.result(tokens, "iat.publish")
    assert published[0]["extra"]["version"] == world.lake.resolve("iat")
    assert "Done" in airflow.log(head, "ingest")


def test_days_that_start_in_the_wrong_order_end_in_the_right_one(world: World, first: str) -> None:
    """The later day's jobs fail with a transient error until the earlier day is done."""
    airflow = world.airflow
    early, late = day(1).isoformat(), day(2).isoformat()
    world.lake.ingest([str(world.lake.root / "landing" / key / "part.parquet") for key in (early, late)])
    heads = [airflow.trigger("tokenlake_instance_tokens", key) for key in (late, early)]
    for head in heads:
        assert finished(world, head) == "success"
    tries = {
        task["task_id"]: task["try_number"]
        for task in airflow.tasks(airflow.runs("tokenlake_instance_tokens", late)[0])
    }
    assert tries["iat.train"] > 1
    version = world.lake.resolve("iat")
    assert set(world.lake.catalog.done(version, "publish")) == {day(0), day(1), day(2)}
    assert all(plan.bootstrap or plan.train_to < plan.day for plan in world.lake.catalog.plans(version))


def test_an_empty_day_skips_and_starts_nothing(world: World, first: str) -> None:
    airflow = world.airflow
    head = airflow.trigger("tokenlake_ingest", EMPTY)
    assert finished(world, head) == "success"
    assert airflow.task_states(head) == {"ingest": "skipped"}
    tokens = airflow.trigger("tokenlake_instance_tokens", EMPTY)
    assert finished(world, tokens) == "success"
    assert set(airflow.task_states(tokens).values()) == {"skipped"}
    assert EMPTY not in {event["partition_key"] for uri in (EVENTS, TOKENS) for event in airflow.asset_events(uri)}
    assert len(airflow.runs("tokenlake_instance_tokens", EMPTY)) == 1


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
