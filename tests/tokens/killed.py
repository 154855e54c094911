"""Kill a removal or a fork at each operation and each command in turn, and do it again.

Run by test_removal.py and test_copies.py as `python -m tests.tokens.killed KIND FOLDER [REDIS]`, since a process that has
run other tests holds libraries that no forked child survives; prints how many points were tried.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.fixtures import stores
from tests.fixtures.store_oracle import DAY, Row
from tests.fixtures.stores import arguments, make
from tests.tokens.crash import die
from tokenlake.errors import ConfigError, NotFoundError
from tokenlake.times import NEVER, day_of
from tokenlake.tokens import manifest
from tokenlake.tokens.store import TokenStore


def fill(folder: Path) -> TokenStore:
    """A store with days, strings, and several logs."""
    store = make(folder)
    for i in range(4):
        store.append(**arguments([Row("a", i, i, 1, 0), Row("b", DAY + i, i, 1, 0)]))
        store.write_day(day_of(0), **arguments([Row("a", k, k, 1, 0) for k in range(i + 1)]))
    return store


def keys(store: TokenStore) -> list[bytes]:
    """Names of what a store has in Redis, by its handle, since its folder may be gone."""
    tail = store._view.snapshot.manifest.tail
    if tail is None:
        return []
    with store._view.tail.backend.redis.client as client:
        return sorted(client.keys(f"tokenlake:{{{tail.store}}}:*"))


def rows(store: TokenStore) -> list[int]:
    """Events of all rows of user 1, for a handle of now and one of before."""
    found: list[int] = TokenStore.open(store.path).fetch(1, before=NEVER).side["event"].tolist()
    assert store.fetch(1, before=NEVER).side["event"].tolist() == found
    return found


def removal(base: Path, point: int) -> bool:
    """Whether a removal died at this point; in any case another one ends it."""
    store = fill(base / str(point))
    before = keys(store)
    died, _ = die(lambda _: TokenStore.remove(store.path), point)
    if TokenStore.exists(store.path):
        assert keys(store) == before
        store.verify()
        TokenStore.remove(store.path)
    elif (store.path / manifest.REMOVED).exists():
        with pytest.raises(ConfigError, match="removal was cut short"):
            make(store.path)
        with pytest.raises(NotFoundError):
            TokenStore.open(store.path)
        TokenStore.remove(store.path)
    assert keys(store) == []
    assert not store.path.exists() or not list(store.path.iterdir())
    return died


def fork(base: Path, point: int) -> bool:
    """Whether a fork died at this point; in any case it is done again, and the original knows nothing of it."""
    store = make(base / f"store {point}")
    store.append(**arguments([Row(1, i, i, 1, 0) for i in range(2)]))
    other = TokenStore.open(shutil.copytree(store.path, base / f"copy {point}"))

    def attempt(_: object) -> None:
        TokenStore.open(other.path).fork()

    died, _ = die(attempt, point)
    other.refresh()
    assert rows(other) == [0, 1]
    other.fork()
    assert other.append(**arguments([Row(1, DAY, 10, 1, 0)])) == 1
    assert rows(other) == [0, 1, 10]
    other.verify()
    assert rows(store) == [0, 1]
    return died


def main(kind: str, base: Path) -> None:
    attempt = {"removal": removal, "fork": fork}[kind]
    point = 1
    while attempt(base, point):
        point += 1
    print(point - 1)


if __name__ == "__main__":
    stores.TAIL = sys.argv[3] if len(sys.argv) > 3 else None
    main(sys.argv[1], Path(sys.argv[2]))
