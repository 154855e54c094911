"""The places of a store's tail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import stores
from tests.fixtures.servers import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis that all tests of a run share; each store has a name of its own there."""
    running = Server(tmp_path_factory.mktemp("redis"))
    yield running
    running.kill()


@pytest.fixture(params=["disk", "redis"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let `stores.make` make stores whose tail lies in each place."""
    if request.param == "redis":
        monkeypatch.setattr(stores, "TAIL", request.getfixturevalue("server").url)
    return str(request.param)
