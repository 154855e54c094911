"""Rows that a server acknowledged, when its machine loses power: what it had not synced is gone."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.fixtures import stores
from tests.fixtures.patience import wait_until
from tests.fixtures.servers import Server, redis_6, valkey
from tests.fixtures.store_oracle import Row
from tests.fixtures.stores import arguments, make, same
from tokenlake.errors import ConfigError
from tokenlake.storage.redis.connection import Connection
from tokenlake.times import NEVER, day_of
from tokenlake.tokens.store import TokenStore

ROWS = [Row(1, i, i, 1, 0) for i in range(5)]


class Fragile(Server):
    """Its files lose what was not synced when its power goes."""

    def __init__(self, folder: Path, binary: str, **settings: str) -> None:
        library = folder / "power.so"
        source = Path(__file__).with_name("power.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)  # whichever there is
        self.hold, self._told = folder / "hold", folder / "told"
        self.data = folder / "data"
        self.data.mkdir()
        environment = {"LD_PRELOAD": str(library), "HOLD": str(self.hold), "TOLD": str(self._told)}
        super().__init__(self.data, binary=binary, environment=environment, **settings)

    def lose_power(self) -> None:
        self.kill()
        self.hold.unlink(missing_ok=True)
        for file, size in self._synced().items():
            with file.open("r+b") as held:
                held.truncate(size)
        self.start()

    def settle(self) -> None:
        """Wait until all is synced, which a server does by itself after a while."""
        with redis.Redis.from_url(self.url) as client:
            # A server that is syncing keeps what it was told since in memory, and has written nothing of it yet.
            wait_until(
                lambda: (
                    not client.info("persistence")["aof_buffer_length"]
                    and not any(file.stat().st_size > size for file, size in self._synced().items())
                ),
                "everything to be synced",
            )

    def _synced(self) -> dict[Path, int]:
        """Bytes of each file that are on the disk; of the older server's one file, or the newer one's folder of files."""
        lines = self._told.read_text().splitlines() if self._told.exists() else []
        told = dict(map(int, line.split()) for line in lines)
        return {file: told.get(file.stat().st_ino, 0) for file in self.data.rglob("*.aof")}


@pytest.fixture(params=[("redis", "always"), ("valkey", "always")], ids="-".join)
def fragile(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fragile]:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make the library that watches syncs")
    kind, sync = request.param
    server = Fragile(tmp_path, {"redis": redis_6, "valkey": valkey()}[kind], appendfsync=sync)
    monkeypatch.setattr(stores, "TAIL", server.url)
    yield server
    server.kill()


def test_acknowledged_rows_are_on_the_disk(fragile: Fragile, tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    assert store.append(**arguments(ROWS[:1])) == 1
    fragile.lose_power()
    assert store.append(**arguments(ROWS[1:3])) == 2
    store.write_day(day_of(0), **arguments(ROWS[:2]))  # a log of its own, with what is left
    fragile.lose_power()
    same(store.fetch(1, before=NEVER), [ROWS[:3]], [NEVER])
    done = threading.Event()

    def append() -> None:
        TokenStore.open(store.path).append(**arguments(ROWS[3:4]))
        done.set()

    worker = threading.Thread(target=append)
    fragile.hold.touch()
    worker.start()
    assert not done.wait(0.5), "acknowledged while nothing can have been synced"
    fragile.hold.unlink()
    worker.join(20)
    fragile.lose_power()
    assert store.append(**arguments(ROWS[4:])) == 1
    same(TokenStore.open(store.path).fetch(1, before=NEVER), [ROWS], [NEVER])
    store.verify()


@pytest.mark.parametrize("fragile", [("redis", "everysec"), ("valkey", "everysec")], indirect=True, ids="-".join)
def test_a_server_that_syncs_later_is_refused_since_it_loses_them(
    fragile: Fragile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"appendfsync everysec.*would lose rows"):
        make(tmp_path / "store")
    monkeypatch.setattr(Connection, "require_durable", lambda _: None)
    store = make(tmp_path / "store")
    assert store.append(**arguments(ROWS[:1])) == 1
    fragile.settle()
    fragile.hold.touch()
    assert TokenStore.open(store.path).append(**arguments(ROWS[1:2])) == 1
    fragile.lose_power()
    same(TokenStore.open(store.path).fetch(1, before=NEVER), [ROWS[:1]], [NEVER])
