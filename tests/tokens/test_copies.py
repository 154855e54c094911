"""Copied folders of a store whose tail lies in Redis: one of them writes its streams."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures import stores
from tests.fixtures.servers import Server
from tests.fixtures.store_oracle import DAY, Row
from tests.fixtures.stores import arguments, make, points, redis_prefix, same
from tests.tokens.killed import rows
from tokenlake.errors import ConfigError, CorruptionError
from tokenlake.times import NEVER, day_of
from tokenlake.tokens.store import TokenStore

ROWS = [Row(1, i, i, 1, 0) for i in range(6)]
LATER = [Row(1, DAY + i, 10 + i, 1, 0) for i in range(6)]


@pytest.fixture
def store(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> TokenStore:
    monkeypatch.setattr(stores, "TAIL", server.url)
    made = make(tmp_path / "store")
    made.append(**arguments(ROWS[:2]))
    return made


def copy(store: TokenStore) -> TokenStore:
    return TokenStore.open(shutil.copytree(store.path, store.path.with_name("copy")))


def test_two_folders_never_write_one_log(store: TokenStore) -> None:
    """Without the note of who writes, each of these publications lost what the other folder had acknowledged."""
    other = copy(store)
    assert rows(other) == [0, 1]  # reading is fine
    for write in (
        lambda: other.append(**arguments(ROWS[2:3])),
        lambda: other.write_day(day_of(0), **arguments(ROWS[:1])),
        lambda: other.compact(),
        lambda: TokenStore.open(other.path).append(**arguments(ROWS[2:3])),
    ):
        with pytest.raises(ConfigError, match=rf"copy is a copy of the store at {store.path} on .*\.fork\(\)"):
            write()
    assert store.append(**arguments(ROWS[3:4])) == 1
    store.write_day(day_of(0), **arguments(ROWS[:1]))
    assert rows(store) == [0, 1, 3]
    store.verify()


def test_a_forked_copy_goes_its_own_way(store: TokenStore) -> None:
    store.write_day(day_of(0), **arguments(ROWS[:1]))
    other = copy(store)
    reader = TokenStore.open(other.path)
    other.fork()
    other.fork()  # it is done
    assert rows(other) == [0, 1]
    assert other.append(**arguments(LATER[:2])) == 2
    assert store.append(**arguments(LATER[2:4])) == 2
    other.write_day(day_of(DAY), **arguments(LATER[:1]))
    store.write_day(day_of(DAY), **arguments(LATER[2:3]))
    store.write_day(day_of(0), **arguments(ROWS[:2]))
    assert rows(other) == [0, 1, 10, 11]
    assert rows(store) == [0, 1, 12, 13]
    reader.refresh()
    assert rows(reader) == [0, 1, 10, 11]
    assert reader.append(**arguments(LATER[4:5])) == 1
    for one in (store, other):
        one.verify()


def test_a_handle_that_was_refused_goes_on_after_the_fork(store: TokenStore) -> None:
    other = copy(store)
    waiting = TokenStore.open(other.path)
    with pytest.raises(ConfigError):
        waiting.append(**arguments(ROWS[2:3]))
    other.fork()
    waiting.refresh()
    assert waiting.append(**arguments(ROWS[2:3])) == 1
    assert rows(waiting) == [0, 1, 2]


def test_a_renamed_folder_is_the_same_store(store: TokenStore, server: Server) -> None:
    moved = TokenStore.open(store.path.rename(store.path.with_name("moved")))
    assert moved.append(**arguments(ROWS[2:3])) == 1
    moved.write_day(day_of(0), **arguments(ROWS[:1]))
    moved.fork()  # there is no need
    assert rows(moved) == [0, 1, 2]
    other = copy(moved)
    with pytest.raises(ConfigError, match=f"a copy of the store at {moved.path} on"):
        other.append(**arguments(ROWS[3:4]))
    moved.path.chmod(0o700)
    assert moved.append(**arguments(ROWS[3:4])) == 1


def test_a_restored_backup(store: TokenStore) -> None:
    """In the place of the folder that it was made of, which is gone."""
    backup = copy(store).path
    store.append(**arguments(ROWS[2:3]))
    shutil.rmtree(store.path)
    restored = TokenStore.open(shutil.copytree(backup, store.path))
    assert rows(restored) == [0, 1, 2]  # those that came after the backup too
    with pytest.raises(ConfigError, match=r"fork\(\)"):
        restored.append(**arguments(ROWS[3:4]))
    restored.fork()
    assert restored.append(**arguments(ROWS[3:4])) == 1
    assert rows(restored) == [0, 1, 2, 3]


def test_a_copy_whose_original_went_on(store: TokenStore) -> None:
    other = copy(store)
    for i in range(5):
        store.append(**arguments([ROWS[i]]))
        store.write_day(day_of(0), **arguments(ROWS[: i + 1]))
    for use in (lambda: TokenStore.open(other.path), other.fork):
        with pytest.raises(CorruptionError, match=f"since {store.path} on .* went on with it"):
            use()


def test_a_fork_that_was_killed_is_done_again(server: Server, tmp_path: Path) -> None:
    assert points("tests.tokens.killed", "fork", tmp_path, server.url) >= 20


def test_strings_that_only_the_original_met(store: TokenStore, tmp_path: Path) -> None:
    original = make(tmp_path / "strings")
    original.append(**arguments([Row("a", 0, 1, 1, 0)]))
    other = TokenStore.open(shutil.copytree(original.path, tmp_path / "other"))
    original.append(**arguments([Row("b", 0, 2, 1, 0), Row("a", 1, 3, 1, 0)]))
    with pytest.raises(ConfigError):
        other.append(**arguments([Row("c", 0, 4, 1, 0)]))
    with pytest.warns(UserWarning, match="1 rows of users whom this copy does not know"):
        other.fork()
    other.append(**arguments([Row("c", 0, 4, 1, 0)]))  # gets the code that `b` has in the original
    expected = [[Row("a", 0, 1, 1, 0), Row("a", 1, 3, 1, 0)], [Row("c", 0, 4, 1, 0)], []]
    same(TokenStore.open(other.path).fetch(["a", "c", "b"], before=NEVER), expected, [NEVER] * 3)


def test_a_store_of_before_has_no_note(store: TokenStore, server: Server) -> None:
    with server.client() as client:
        assert client.delete(f"{redis_prefix(store)}:owner") == 1
    other = copy(store)
    assert TokenStore.open(store.path).append(**arguments(ROWS[2:3])) == 1  # the first to write it is its owner
    with pytest.raises(ConfigError):
        other.append(**arguments(ROWS[3:4]))


def test_a_copy_of_a_tail_on_disk_is_a_store(tmp_path: Path) -> None:
    original = make(tmp_path / "plain")
    original.append(**arguments(ROWS[:1]))
    other = TokenStore.open(shutil.copytree(original.path, tmp_path / "copy"))
    other.fork()
    assert other.append(**arguments(ROWS[1:2])) == 1
    assert (rows(original), rows(other)) == ([0], [0, 1])
