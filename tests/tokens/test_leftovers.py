"""What stores keep in a Redis, and what is left there of those that are gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fixtures import stores
from tests.fixtures.servers import Server
from tests.fixtures.store_oracle import Row
from tests.fixtures.stores import arguments, make
from tokenlake.cli import app
from tokenlake.errors import ConfigError, NotFoundError
from tokenlake.tokens import garbage
from tokenlake.tokens.store import TokenStore


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose keys are this test's alone."""
    running = Server(tmp_path_factory.mktemp("own"))
    monkeypatch.setattr(stores, "TAIL", running.url)
    yield running
    running.kill()


def name(store: TokenStore) -> str:
    """Of the handle, since its folder may be gone."""
    assert store._view.snapshot.manifest.tail is not None
    return store._view.snapshot.manifest.tail.store


def fill(folder: Path) -> TokenStore:
    store = make(folder)
    store.append(**arguments([Row(1, 1, 1, 1, 0)]))
    return store


def states(own: Server) -> dict[str, str]:
    return {held.store: held.state for held in garbage.streams_in(own.url)}


def test_who_is_there_and_who_is_gone(own: Server, tmp_path: Path) -> None:
    assert garbage.streams_in(own.url) == []
    kept, lost, far, old, moved = (fill(tmp_path / n) for n in ("kept", "lost", "far", "old", "moved"))
    copied = TokenStore.open(shutil.copytree(kept.path, tmp_path / "copied"))
    copied.fork()
    shutil.rmtree(lost.path)
    moved.path.rename(tmp_path / "elsewhere")
    with own.client() as client:
        client.set("tokenlake:other", "somebody's")
        key = f"tokenlake:{{{name(far)}}}:owner"
        note = json.loads(client.get(key) or b"")
        client.set(key, json.dumps(note | {"host": "another", "folder": "/data/far"}))
        client.delete(f"tokenlake:{{{name(old)}}}:owner")
        everything = set(client.keys())
    expected = {name(kept): "in use", name(copied): "in use", name(lost): "gone", name(far): "elsewhere"}
    assert states(own) == expected | {name(old): "unknown", name(moved): "gone"}
    (held,) = [held for held in garbage.streams_in(own.url) if held.store == name(lost)]
    assert (held.folder, held.entries, len(held.keys)) == (str(lost.path), 2, 2)
    assert held.idle is not None
    assert held.idle < 100
    # A renamed store is known again as soon as it is written.
    TokenStore.open(tmp_path / "elsewhere").append(**arguments([Row(1, 2, 2, 1, 0)]))
    assert states(own)[name(moved)] == "in use"

    with pytest.raises(ConfigError, match=f"the store at {kept.path} needs"):
        garbage.remove_streams(own.url, name(kept))
    with pytest.raises(NotFoundError, match="holds nothing of a store 'nosuch'"):
        garbage.remove_streams(own.url, "nosuch")
    garbage.remove_streams(own.url, name(lost))
    garbage.remove_streams(own.url, name(old))
    with own.client() as client:
        gone = everything - set(client.keys())
    assert all(name(lost).encode() in key or name(old).encode() in key for key in gone)
    assert len(gone) == 3
    for store in (kept, copied):
        store.verify()


def test_a_store_whose_removal_or_making_was_cut_short(own: Server, tmp_path: Path) -> None:
    store = fill(tmp_path / "store")
    (store.path / "manifest").rename(store.path / "manifest.removed")
    assert states(own) == {name(store): "in use"}  # `TokenStore.remove` ends it
    (store.path / "manifest.removed").unlink()
    assert states(own) == {name(store): "gone"}


def test_the_command_lists_and_removes(own: Server, tmp_path: Path) -> None:
    def call(*words: str, answer: str | None = None) -> str:
        return (
            CliRunner(env={"COLUMNS": "200"})
            .invoke(app, ["tails", own.url, *words], input=answer, catch_exceptions=False)
            .output
        )

    assert "Nothing of a token store is there" in call()
    store = fill(tmp_path / "store")
    assert f"{name(store)}   in use" in call()
    shutil.rmtree(store.path)
    assert f"{name(store)}   gone" in call()
    assert "Aborted" in call("--remove", name(store), answer="n\n")
    assert name(store) in states(own)
    assert "is gone" in call("--remove", name(store), "--yes")
    assert garbage.streams_in(own.url) == []
