"""Versions that are dropped: all that they have, wherever the removal is cut short, and nothing of others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tokenlake
from tests.fixtures.lakes import CONFIG, day, make_events, make_lake
from tests.fixtures.servers import Server
from tokenlake._lake import Lake
from tokenlake.catalog import dropping
from tokenlake.cli import app
from tokenlake.errors import LockedError, NotFoundError, VersionError
from tokenlake.lake.tables import Table
from tokenlake.times import NEVER, day_start
from tokenlake.tokens.store import TokenStore

LATE = day_start(day(5))
ONE = CONFIG[: CONFIG.index("    plain:")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("redis"))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """A lake of two versions, `iat` serving, each with a tail in Redis; the tests work on copies of it."""
    lake = make_lake(tmp_path_factory.mktemp("lake"), CONFIG.replace("tokens:", f"tokens:\n  tail: {server.url}"))
    lake.ingest(make_events(days=2))
    lake.backfill()
    return lake.root


@pytest.fixture
def lake(filled: Path, tmp_path: Path, server: Server) -> Lake:
    """With `plain` taken out of the config, and as many appended rows as it has streams for."""
    root = Path(shutil.copytree(filled, tmp_path / "lake"))
    opened = tokenlake.open(root)
    for version in ("iat", "plain"):
        store = opened.tokens(version)
        store.fork()  # it is a copy
        row = store.fetch(1, before=NEVER, length=1)
        side = {name: [0] for name in store.schema.side}
        known = {name: [NEVER] for name in store.schema.known_at}
        store.append([1], [LATE], row.values, side, known)
    (root / "tokenlake.yaml").write_text(ONE.replace("tokens:", f"tokens:\n  tail: {server.url}"))
    return tokenlake.open(root)


def plain(lake: Lake) -> str:
    (found,) = [v.version for v in lake.versions() if v.encoder == "plain"]
    return found


def streams(server: Server, version: str, lake: Lake) -> list[bytes]:
    with server.client() as client:
        notes = [key for key in client.keys("tokenlake:*:owner") if version.encode() in (client.get(key) or b"")]
        prefixes = [key.removesuffix(b"owner") for key in notes if str(lake.root).encode() in client.get(key)]
        return [key for prefix in prefixes for key in client.scan_iter() if key.startswith(prefix)]


def gone(server: Server, lake: Lake, version: str) -> None:
    assert version not in [v.version for v in lake.versions()]
    assert not list(lake.data.rglob(f"{version}/*"))
    assert streams(server, version, lake) == []
    for table in (lake.instance_tokens, lake.predictions):
        assert table.count(version=version) == 0
    catalog = lake.catalog
    assert not [*catalog.plans(version), *catalog.checkpoints(version), *catalog.runs(version=version)]
    assert not [*catalog.metrics(version=version), *catalog.restatements(version)]
    serving = lake.resolve()
    assert serving.startswith("iat-")
    assert lake.instance_tokens.count(version=serving) > 0
    assert catalog.runs(version=serving)
    assert lake.tokens().verify().tail_rows == 1


def test_a_version_goes_whole(lake: Lake, server: Server) -> None:
    version = plain(lake)
    assert len(streams(server, version, lake)) == 2
    told = CliRunner().invoke(app, ["drop", str(lake.root), version], input="n\n")
    assert told.exit_code == 1
    assert "checkpoints, 80 rows of instance_tokens" in told.output
    assert lake.tokens(version).status().rows == 80, "nothing was removed"
    told = CliRunner().invoke(app, ["drop", str(lake.root), version, "--yes"], catch_exceptions=False)
    assert told.exit_code == 0
    assert f"{version} is gone" in told.output
    gone(server, lake, version)
    for use in (lambda: lake.drop(version), lambda: lake.tokens(version), lambda: lake.promote(version)):
        with pytest.raises(NotFoundError):
            use()


def test_what_serves_or_would_come_again_stays(lake: Lake, filled: Path) -> None:
    with pytest.raises(VersionError, match="serves; promote another"):
        lake.drop(lake.resolve())
    with pytest.raises(NotFoundError, match="known: "):
        lake.drop("nosuch")
    whole = tokenlake.open(filled)
    with pytest.raises(VersionError, match=r"encoder 'plain' of .*take the encoder out there first"):
        whole.drop(whole.resolve("plain"))
    version = plain(lake)
    with lake.catalog.run("publish", version=version), pytest.raises(LockedError, match="publish of plain-"):
        lake.drop(version)
    assert lake.tokens(version).verify().tail_rows == 1


def test_a_rollback_that_would_go_to_it(lake: Lake, server: Server) -> None:
    version, serving = plain(lake), lake.resolve()
    lake.promote(version)
    lake.promote(serving)
    told = CliRunner().invoke(app, ["drop", str(lake.root), version, "--yes"], catch_exceptions=False)
    assert f"A rollback of {serving} would go to it" in told.output
    with pytest.raises(NotFoundError, match="no version served before"):
        lake.rollback()
    gone(server, lake, version)


class _CutError(Exception):
    pass


@pytest.mark.parametrize(
    ("place", "name"), [(TokenStore, "remove"), (shutil, "rmtree"), (Table, "replace_version"), (dropping, "end")]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_drop_that_is_cut_short_is_ended_by_another(
    lake: Lake, server: Server, filled: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, before: bool
) -> None:
    version, real = plain(lake), getattr(place, name)

    def cut(*given: Any, **named: Any) -> None:
        if not before:
            real(*given, **named)
        raise _CutError

    with monkeypatch.context() as patch:
        patch.setattr(place, name, staticmethod(cut) if name == "remove" else cut)
        with pytest.raises(_CutError):
            lake.drop(version)
    if name == "end" and not before:
        return gone(server, lake, version)
    assert {v.version: v.state for v in lake.versions()}[version] == "dropping"
    (lake.root / "tokenlake.yaml").write_text((filled / "tokenlake.yaml").read_text())
    with pytest.raises(VersionError, match="is being removed"):
        tokenlake.open(lake.root).backfill(version="plain")
    lake.drop(version)
    return gone(server, lake, version)
