"""Stores that are removed: all of them, however often it is cut short, and nothing of others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures import stores
from tests.fixtures.servers import Server
from tests.fixtures.store_oracle import Row
from tests.fixtures.stores import arguments, make, points
from tests.tokens.killed import fill, keys
from tokenlake.errors import LockedError, NotFoundError, ServiceError
from tokenlake.times import NEVER, day_of
from tokenlake.tokens import handle
from tokenlake.tokens.store import TokenStore

pytestmark = pytest.mark.usefixtures("place")


def test_a_store_goes_whole(tmp_path: Path, place: str) -> None:
    store, other = fill(tmp_path / "store"), fill(tmp_path / "other")
    reader, idle = TokenStore.open(store.path), TokenStore.open(store.path)
    reader.fetch("a", before=NEVER)
    before = keys(other)
    assert len(keys(store)) == len(before) == (4 if place == "redis" else 0)
    TokenStore.remove(store.path)
    assert not store.path.exists()
    assert keys(store) == []
    assert keys(other) == before
    other.verify()
    for use in (
        lambda: TokenStore.open(store.path),
        lambda: TokenStore.remove(store.path),
        lambda: store.append(**arguments([Row("a", 9, 9, 1, 0)])),
        lambda: store.append(**arguments([Row("new", 9, 9, 1, 0)])),
        lambda: store.write_day(day_of(0), **arguments([])),
        store.compact,
        store.refresh,
    ):
        with pytest.raises(NotFoundError, match="holds no token store"):
            use()
    assert not store.path.exists(), "nobody made it again"
    with pytest.raises(NotFoundError, match="holds no token store"):
        idle.fetch("b", before=NEVER)  # it never read whose code is whose
    if place == "disk":  # what is open stays readable
        assert len(reader.fetch("b", before=NEVER).values) == 4
    else:
        with pytest.raises(NotFoundError, match="holds no token store"):
            reader.fetch("b", before=NEVER)


def test_a_handle_never_goes_on_in_another_store(tmp_path: Path) -> None:
    store = fill(tmp_path / "store")
    TokenStore.remove(store.path)
    made = make(store.path)
    made.append(**arguments([Row("z", 0, 1, 1, 0)]))  # gets the code that `a` had
    for use in (
        lambda: store.append(**arguments([Row("a", 9, 9, 1, 0)])),
        lambda: store.write_day(day_of(0), **arguments([])),
        store.refresh,
    ):
        with pytest.raises(NotFoundError, match="another was made there; open it again"):
            use()
    assert made.fetch(["a", "z"], before=NEVER).lengths.tolist() == [0, 1]


def test_what_is_no_store_or_at_work_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(NotFoundError, match="no token store to remove"):
        TokenStore.remove(tmp_path / "folder")
    assert (tmp_path / "folder" / "mine").exists()
    store = fill(tmp_path / "store")
    (store.path / "notes").touch()
    with handle.locked(store.path, "a test"), pytest.raises(LockedError, match="a test"):
        TokenStore.remove(store.path)
    store.verify()
    TokenStore.remove(store.path)
    assert [path.name for path in store.path.iterdir()] == ["notes"]


def test_a_removal_is_ended_by_another(tmp_path: Path) -> None:
    assert points("tests.tokens.killed", "removal", tmp_path, *filter(None, [stores.TAIL])) >= 10


def test_a_copy_goes_alone(tmp_path: Path) -> None:
    store = fill(tmp_path / "store")
    shutil.copytree(store.path, tmp_path / "copy")
    TokenStore.remove(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    store.append(**arguments([Row("a", 8, 8, 1, 0)]))
    store.verify()
    assert len(TokenStore.open(store.path).fetch("b", before=NEVER).values) == 4


def test_while_redis_is_away_nothing_goes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path_factory.mktemp("own"))
    monkeypatch.setattr(stores, "TAIL", server.url)
    store = fill(tmp_path / "store")
    server.kill()
    with pytest.raises(ServiceError):
        TokenStore.remove(store.path)
    server.start()
    store.verify()
    TokenStore.remove(store.path)
    with server.client() as client:
        assert client.keys() == []
    server.kill()
