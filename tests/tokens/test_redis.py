"""A tail in Redis: many writers, servers that come and go, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from click.testing import CliRunner
from redis.connection import AbstractConnection

from tests.fixtures import stores
from tests.fixtures.lakes import CONFIG, make_lake
from tests.fixtures.servers import Server
from tests.fixtures.store_oracle import DAY, Row
from tests.fixtures.stores import DIM, arguments, make, redis_prefix, same
from tokenlake.cli import app
from tokenlake.errors import ConfigError, CorruptionError, LockedError, SchemaError, ServiceError
from tokenlake.features import versions
from tokenlake.pipeline.publishing import open_or_create
from tokenlake.times import NEVER, day_of
from tokenlake.tokens import handle, manifest, wal_redis
from tokenlake.tokens.replay import replay
from tokenlake.tokens.schema import TokenRows
from tokenlake.tokens.store import TokenStore
from tokenlake.tokens.tail import Tail

WRITERS = 4
DAYS = 4
ROUNDS = 100


@pytest.fixture
def store(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> TokenStore:
    monkeypatch.setattr(stores, "TAIL", server.url)
    return make(tmp_path / "store")


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for a test that kills it."""
    running = Server(tmp_path_factory.mktemp("own"))
    yield running
    running.kill()


def key(store: TokenStore, number: int = 1) -> str:
    return f"{redis_prefix(store)}:tail:{number}"


def row(writer: int, i: int, event: int | None = None) -> Row:
    """Row i of an appender, whose number is the user's id."""
    return Row(writer, i % DAYS * DAY + i, i if event is None else event, 1, 0)


def append(path: Path, writer: int, store: TokenStore | None = None) -> None:
    """Append groups of rows, as one of many."""
    store = store or TokenStore.open(path)
    for i in range(0, 3 * ROUNDS, 3):
        store.append(**arguments([row(writer, i + k) for k in range(3)]))


def write(store: TokenStore, busy: list[Any]) -> dict[int, list[Row]]:
    """Write days of a growing part of the appenders' keys while they work: what each day held in the end."""
    rng = np.random.default_rng(0)
    days: dict[int, list[Row]] = {day: [] for day in range(DAYS)}
    rounds = 0
    while any(worker.is_alive() for worker in busy) or rounds < 8:
        day = rounds % DAYS
        held = {(r.user, r.ts) for r in days[day]}
        chosen = {
            (int(w), int(i)) for w, i in zip(rng.integers(0, WRITERS, 60), rng.integers(0, 3 * ROUNDS, 60), strict=True)
        }
        rows = [row(w, i, 10_000 + i) for w, i in sorted(chosen) if i % DAYS == day]
        days[day] += [r for r in rows if (r.user, r.ts) not in held]
        store.write_day(day_of(day * DAY), **arguments(days[day]))
        rounds += 1
    return days


def check(store: TokenStore, days: dict[int, list[Row]]) -> None:
    """Every row that was acknowledged is there once, or the row of its day is."""
    store.refresh()
    for handle_ in (store, TokenStore.open(store.path)):
        for writer in range(WRITERS):
            expected = {r.ts: r for r in (row(writer, i) for i in range(3 * ROUNDS))}
            expected |= {r.ts: r for rows in days.values() for r in rows if r.user == writer}
            rows = [expected[ts] for ts in sorted(expected)]
            same(handle_.fetch(writer, before=NEVER, length=10_000), [rows], [NEVER])
    store.verify()


@pytest.mark.slow
def test_many_processes_append_while_days_are_written(store: TokenStore) -> None:
    spawn = multiprocessing.get_context("spawn")
    busy = [spawn.Process(target=append, args=(store.path, writer)) for writer in range(WRITERS)]
    for worker in busy:
        worker.start()
    days = write(store, busy)
    for worker in busy:
        worker.join(120)
    assert [worker.exitcode for worker in busy] == [0] * WRITERS
    check(store, days)


@pytest.mark.parametrize("shared", [True, False])
def test_many_threads_append_while_days_are_written(store: TokenStore, shared: bool) -> None:
    """With one handle for all, and with one for each."""
    errors: list[BaseException] = []

    def work(writer: int) -> None:
        try:
            append(store.path, writer, store if shared else None)
        except BaseException as error:  # told by the main thread
            errors.append(error)

    busy = [threading.Thread(target=work, args=(writer,)) for writer in range(WRITERS)]
    for worker in busy:
        worker.start()
    days = write(TokenStore.open(store.path), busy)
    for worker in busy:
        worker.join()
    assert not errors
    check(store, days)


def test_integers_need_no_lock_to_append(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "TAIL_WAIT_S", 0.1)
    store.append(**arguments([row(0, 0)]))
    with handle.tail_locked(store.path):
        assert store.append(**arguments([row(0, 1)])) == 1


def test_strings_need_one_when_they_are_new(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "TAIL_WAIT_S", 0.1)
    store.append(**arguments([Row("a", 0, 1, 1, 0)]))
    with handle.tail_locked(store.path):
        assert store.append(**arguments([Row("a", 1, 2, 1, 0)])) == 1
        with pytest.raises(LockedError):
            store.append(**arguments([Row("b", 1, 3, 1, 0)]))
    assert store.append(**arguments([Row("b", 1, 3, 1, 0)])) == 1


def test_an_append_waits_for_a_publication_and_no_longer(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "TAIL_WAIT_S", 0.2)
    store.append(**arguments([row(0, 0)]))
    other = TokenStore.open(store.path)
    # The middle of a publication: nothing public stays there.
    with store._writing("a test"), store._exclude_appends():
        with pytest.raises(LockedError, match="published"):
            other.append(**arguments([row(0, 1)]))
        assert len(other.fetch(0, before=NEVER).values) == 1  # readers go on
    assert other.append(**arguments([row(0, 1)])) == 1


def test_an_append_that_missed_a_publication_is_refused(store: TokenStore) -> None:
    store.append(**arguments([row(0, 0)]))
    for supersedes in (False, True):  # the fence is lifted; the log is sealed
        store.refresh()
        # What `append` does in two steps, with a publication in between.
        mark, tail = store._view.tail.position(), store._view.tail
        assert mark is not None
        other = TokenStore.open(store.path)
        other.write_day(day_of(0), **arguments([row(0, 0 if supersedes else 4)]))
        assert not tail.append(tail_rows(tail), mark)
    assert TokenStore.open(store.path).status().tail_rows == 0


def tail_rows(tail: Tail) -> TokenRows:
    return TokenRows(tail.users.copy(), {name: column.copy() for name, column in tail.columns.items()})


def test_a_reader_that_slept_goes_on_with_what_is_left(store: TokenStore, server: Server) -> None:
    reader = TokenStore.open(store.path)
    for i in range(8):
        store.append(**arguments([row(0, i), row(1, i)]))
        days = [row(0, k) for k in range(i + 1) if k % DAYS == i % DAYS]
        store.write_day(day_of(i % DAYS * DAY), **arguments(days))
    with server.client() as client:
        assert [n for n in range(1, 12) if client.exists(key(store, n))] == [7, 8, 9]
    # The user whose rows no day took has them all; those of the other were superseded while the reader slept.
    same(reader.fetch(1, before=NEVER), [sorted((row(1, i) for i in range(8)), key=lambda r: r.ts)], [NEVER])
    assert reader.refresh()
    assert len(reader.fetch(0, before=NEVER).values) == 8


def test_rows_outlive_the_server(own: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "TAIL", own.url)
    store = make(tmp_path / "store")
    store.append(**arguments([row(0, 0)]))
    own.kill()
    for attempt in (
        lambda: store.append(**arguments([row(0, 1)])),
        lambda: store.fetch(0, before=NEVER),
        lambda: store.write_day(day_of(0), **arguments([row(0, 0)])),
        lambda: TokenStore.open(store.path),
        lambda: make(tmp_path / "another"),
    ):
        with pytest.raises(ServiceError, match=f"127.0.0.1:{own.port}"):
            attempt()
    own.start()
    same(store.fetch(0, before=NEVER), [[row(0, 0)]], [NEVER])
    assert store.append(**arguments([row(0, 1)])) == 1
    store.write_day(day_of(0), **arguments([row(0, 0, 5)]))
    same(TokenStore.open(store.path).fetch(0, before=NEVER), [[row(0, 0, 5), row(0, 1)]], [NEVER])
    store.verify()


@pytest.mark.parametrize("superseding", [True, False])
def test_a_server_that_goes_within_a_publication(
    own: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, superseding: bool
) -> None:
    monkeypatch.setattr(stores, "TAIL", own.url)
    store = make(tmp_path / "store")
    store.append(**arguments([row(0, 0), row(0, 4)]))
    reader = TokenStore.open(store.path)
    assert reader.status().tail_rows == 2
    plain = manifest.StoreManifest.publish

    def publish(self: manifest.StoreManifest, folder: Path) -> None:
        plain(self, folder)
        own.kill()

    with monkeypatch.context() as patch:
        patch.setattr(manifest.StoreManifest, "publish", publish)
        day = [row(0, 0, 7)] if superseding else [row(0, 8, 7)]
        with pytest.raises(ServiceError):
            store.write_day(day_of(0), **arguments(day))
    own.start()
    # The manifest is there: the day is. Whoever appends first does what is left to do, and all readers go on.
    assert TokenStore.open(store.path).append(**arguments([row(0, 12)])) == 1
    same(reader.fetch(0, before=NEVER), [[row(0, 0), row(0, 4), row(0, 12)]], [NEVER])
    store.refresh()
    old = [row(0, 4)] if superseding else [row(0, 0), row(0, 4)]
    same(store.fetch(0, before=NEVER), [sorted([*old, *day, row(0, 12)], key=lambda r: r.ts)], [NEVER])


def test_a_logged_reader_that_slept(store: TokenStore, tmp_path: Path) -> None:
    reader = TokenStore.open(store.path, log=tmp_path / "log")
    reader.fetch(0, before=NEVER)
    for i in range(6):
        store.append(**arguments([row(0, 4 * i), row(1, 4 * i)]))
        store.write_day(day_of(0), **arguments([row(0, 4 * k) for k in range(i + 1)]))
    # What it sees now cannot be kept with the state that it opened: it goes on at the newest.
    assert reader.fetch(1, before=NEVER).lengths.tolist() == [6]
    assert reader.generation == store.generation
    for _ in range(2):
        assert reader.fetch([0, 1], before=NEVER).lengths.tolist() == [6, 6]
        store.append(**arguments([row(2, 0)]))
    assert replay(tmp_path / "log").fetches == 3


def test_an_answer_that_is_lost_adds_rows_once(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(**arguments([row(0, 0)]))
    plain, cut = AbstractConnection.send_packed_command, 0

    def send(self: Any, command: Any, *given: Any, **named: Any) -> None:
        nonlocal cut
        plain(self, command, *given, **named)
        if cut == 0 and any(b"XADD" in bytes(part) for part in command):
            cut = 1
            while not reader.refresh() and reader.status().tail_rows < 2:
                pass  # the server has it
            self.disconnect()
            raise redis.ConnectionError("cut")

    reader = TokenStore.open(store.path)
    monkeypatch.setattr(AbstractConnection, "send_packed_command", send)
    assert store.append(**arguments([row(0, 1)])) == 1
    assert cut == 1
    assert store.append(**arguments([row(0, 2)])) == 1
    same(store.fetch(0, before=NEVER), [[row(0, 0), row(0, 1), row(0, 2)]], [NEVER])


def test_a_long_tail_comes_in_pieces(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_redis, "ENTRIES", 2)
    reader = TokenStore.open(store.path)
    rows = [row(0, 4 * i) for i in range(7)]
    for one in rows:
        store.append(**arguments([one]))
    same(reader.fetch(0, before=NEVER), [rows], [NEVER])
    monkeypatch.setattr(wal_redis, "LARGEST_APPEND", 50)
    with pytest.raises(SchemaError, match="split them"):
        store.append(**arguments([row(0, 31)]))


def test_every_flipped_byte_of_an_entry_is_found(store: TokenStore, server: Server) -> None:
    store.append(**arguments([row(0, 0), row(0, 1)]))
    with server.client() as client:
        entries = client.xrange(key(store))
        (name, good) = entries[-1]
        for position in range(0, len(good[b"f"]), 3):
            bad = bytearray(good[b"f"])
            bad[position] ^= 1 << (position % 8)
            client.delete(key(store))
            for id_, fields in entries[:-1]:
                client.xadd(key(store), fields, id=id_)
            client.xadd(key(store), {b"f": bytes(bad)}, id=name)
            for look in (store.verify, lambda: TokenStore.open(store.path).fetch(0, before=NEVER)):
                with pytest.raises(CorruptionError, match=r"tail:1: the checksum of entry 2-0"):
                    look()
        client.xdel(key(store), name)
        client.xadd(key(store), good, id="3-0")
    with pytest.raises(CorruptionError, match="has lost rows"):
        TokenStore.open(store.path).verify()


def test_a_stream_that_is_lost_is_found(store: TokenStore, server: Server) -> None:
    store.append(**arguments([row(0, 0)]))
    with server.client() as client:
        client.xdel(key(store), "2-0")
        with pytest.raises(CorruptionError, match="has lost rows"):
            store.fetch(0, before=NEVER)
        client.delete(key(store))
    for look in (
        lambda: store.fetch(0, before=NEVER),
        lambda: store.append(**arguments([row(0, 1)])),
        lambda: TokenStore.open(store.path),
        store.verify,
    ):
        with pytest.raises(CorruptionError, match="lost"):
            look()


@pytest.mark.parametrize(
    "url",
    ["redis://:hush@host:6379/0", "redis://hush@host/0", "unix:///s.sock?password=hush", "rediss://h:1?username=hush"],
)
def test_a_secret_in_the_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="TOKENLAKE_REDIS_PASSWORD") as caught:
        TokenStore.create(tmp_path / "s", dim=2, tail=url)
    assert "hush" not in str(caught.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("url", ["", "host:6379", "http://host", "redis://", "redis://h/x", "redis://h:x", "redis://[",
                                 "redis://h?colour=1", "unix://socket"])  # fmt: skip
def test_what_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="write redis://host:6379/0"):
        TokenStore.create(tmp_path / "s", dim=2, tail=url)


def test_a_password_comes_from_the_environment(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = Server(tmp_path_factory.mktemp("guarded"), requirepass="hush")
    try:
        with pytest.raises(ConfigError, match="TOKENLAKE_REDIS_PASSWORD"):
            TokenStore.create(tmp_path / "s", dim=2, tail=guarded.url)
        monkeypatch.setenv("TOKENLAKE_REDIS_PASSWORD", "hush")
        store = TokenStore.create(tmp_path / "s", dim=2, tail=guarded.url)
        assert store.append([1], [5], [[1.0, 2.0]]) == 1
        assert store.status().tail == guarded.url
    finally:
        guarded.kill()
    assert all(b"hush" not in path.read_bytes() for path in store.path.rglob("*") if path.is_file())


def test_a_user_needs_these_rights(store: TokenStore, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that docs/store.md names."""
    told = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    rights = re.search(r"`(\+xadd [^`]+)`", told)
    assert rights is not None
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "lake", "on", ">hush", "~tokenlake:*", *rights[1].split())
    monkeypatch.setenv("TOKENLAKE_REDIS_USERNAME", "lake")
    monkeypatch.setenv("TOKENLAKE_REDIS_PASSWORD", "hush")
    mine = make(store.path.with_name("mine"))
    for i in range(4):
        assert mine.append(**arguments([row(0, 4 * i), row(1, i)])) == 2
        mine.write_day(day_of(0), **arguments([row(0, 4 * k) for k in range(i + 1)]))
    assert mine.verify().tail_rows == 4
    copied = TokenStore.open(shutil.copytree(mine.path, store.path.with_name("copied")))
    copied.fork()
    for one in (mine, copied):
        TokenStore.remove(one.path)
    with server.client() as client:
        assert client.execute_command("ACL", "DELUSER", "lake") == 1


def test_a_socket_is_an_address(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    server = Server(folder, unixsocket=str(folder / "r"))
    try:
        store = TokenStore.create(folder / "store", dim=2, tail=f"unix://{folder}/r")
        assert store.append([1], [5], [[1.0, 2.0]]) == 1
        assert store.fetch(1, before=9).values.tolist() == [[1, 2]]
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"appendfsync": "everysec"}, "appendonly yes and appendfsync everysec: a crash would lose"),
        ({"appendonly": "no"}, "appendonly no"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "maxmemory-policy noeviction"),
    ],
)
def test_a_server_that_loses_rows_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str], message: str
) -> None:
    careless = Server(tmp_path_factory.mktemp("careless"), **settings)
    try:
        with pytest.raises(ConfigError, match=message):
            TokenStore.create(tmp_path / "s", dim=2, tail=careless.url)
        with careless.client() as client:
            assert not client.keys()
    finally:
        careless.kill()


def test_a_server_that_does_not_tell_is_trusted(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    managed = Server(tmp_path_factory.mktemp("managed"), **{"rename-command": "CONFIG nosuch"})
    try:
        store = TokenStore.create(tmp_path / "s", dim=2, tail=managed.url)
        assert store.append([1], [5], [[1.0, 2.0]]) == 1
    finally:
        managed.kill()


def test_what_a_store_says_of_its_tail(store: TokenStore, server: Server, tmp_path: Path) -> None:
    assert store.status().tail == server.url
    assert TokenStore.create(tmp_path / "plain", dim=DIM).status().tail == "disk"
    assert b'"format":2' in (store.path / manifest.NAME).read_bytes()  # what knows no streams refuses it
    assert not list((store.path).glob("tail/*"))


def test_a_lake_makes_its_stores_so(tmp_path: Path, server: Server) -> None:
    lake = make_lake(tmp_path / "lake", CONFIG.replace("tokens:", f"tokens:\n  tail: {server.url}"))
    version = lake.config.version_of("iat")
    versions.register(lake, version)
    assert open_or_create(lake, version).status().tail == server.url
    said = CliRunner().invoke(app, ["status", str(lake.root), "--json"])
    (told,) = json.loads(said.stdout)["versions"]
    assert (told["store"]["rows"], told["store"]["tail"]) == (0, server.url)


def test_without_the_package_it_is_said(store: TokenStore) -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from pathlib import Path\n"
        "from tokenlake.errors import MissingExtraError\n"
        "from tokenlake.tokens.store import TokenStore\n"
        "try:\n    TokenStore.open(Path(sys.argv[1]))\n"
        "except MissingExtraError as error:\n    assert 'tokenlake[redis]' in str(error); print('said')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=False)
    assert done.stdout == "said\n", done.stderr


def test_a_forked_process_connects_by_itself(store: TokenStore) -> None:
    store.append(**arguments([row(0, 0)]))
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=append, args=(store.path, writer, store)) for writer in range(1, WRITERS)]
    for worker in workers:
        worker.start()
    append(store.path, 0, store)
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * (WRITERS - 1)
    assert store.fetch(range(WRITERS), before=NEVER, length=9999).lengths.tolist() == [1 + 3 * ROUNDS] + 3 * [
        3 * ROUNDS
    ]
