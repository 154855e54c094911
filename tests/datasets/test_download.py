"""Downloads: pinned, cached, and honest about what went wrong. No network is used here."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tokenlake.datasets import _download
from tokenlake.errors import CorruptionError, SourceError, TransientError

CONTENT = b"a wheel"
WHEEL = _download.Wheel("thing==1.0", "thing-1.0.whl", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENLAKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for pip: `answer` decides what it does; the commands are recorded."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return ANSWER["pip"](Path(command[command.index("--dest") + 1]))

    monkeypatch.setattr(_download.subprocess, "run", run)
    return commands


ANSWER: dict[str, Any] = {}


def gives(name: str, content: bytes) -> Any:
    def answer(folder: Path) -> subprocess.CompletedProcess[str]:
        (folder / name).write_bytes(content)
        return subprocess.CompletedProcess([], 0, "", "")

    return answer


def test_fetched_once(pip: list[list[str]], cache: Path) -> None:
    ANSWER["pip"] = gives(WHEEL.file, CONTENT)
    path = _download.fetch_wheel(WHEEL)
    assert path == cache / WHEEL.file == _download.fetch_wheel(WHEEL)
    assert len(pip) == 1
    assert {"--no-deps", "--only-binary=:all:"} <= set(pip[0])
    assert [entry.name for entry in cache.iterdir()] == [WHEEL.file], "nothing half-done is left"


def test_damaged_cache_is_fetched_again(pip: list[list[str]], cache: Path) -> None:
    ANSWER["pip"] = gives(WHEEL.file, CONTENT)
    _download.fetch_wheel(WHEEL).write_bytes(b"bitten")
    assert _download.fetch_wheel(WHEEL).read_bytes() == CONTENT
    assert len(pip) == 2


def test_wrong_digest_says_both(pip: list[list[str]], cache: Path) -> None:
    ANSWER["pip"] = gives(WHEEL.file, b"another")
    found = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(CorruptionError, match=f"has sha256 {found}, expected was {WHEEL.sha256}"):
        _download.fetch_wheel(WHEEL)
    assert not list(cache.iterdir())


def test_another_file(pip: list[list[str]]) -> None:
    ANSWER["pip"] = gives("thing-1.0.tar.gz", CONTENT)
    with pytest.raises(SourceError, match=r"downloaded \['thing-1.0.tar.gz'\] for thing==1.0; expected was thing-1.0"):
        _download.fetch_wheel(WHEEL)


def test_pip_fails(pip: list[list[str]]) -> None:
    ANSWER["pip"] = lambda folder: subprocess.CompletedProcess([], 1, "", "WARNING: hm\nERROR: no route\n")
    with pytest.raises(
        TransientError, match=r"could not download thing==1.0 \(ERROR: no route\); try again, or .*--source"
    ):
        _download.fetch_wheel(WHEEL)
    ANSWER["pip"] = lambda folder: subprocess.CompletedProcess([], 1, "", "")
    with pytest.raises(TransientError, match="no message"):
        _download.fetch_wheel(WHEEL)


def test_pip_hangs(pip: list[list[str]]) -> None:
    def hang(folder: Path) -> None:
        raise subprocess.TimeoutExpired("pip", 600)

    ANSWER["pip"] = hang
    with pytest.raises(TransientError, match=r"pip gave no answer for thing==1\.0 in 600 s"):
        _download.fetch_wheel(WHEEL)


def test_url(tmp_path: Path, cache: Path) -> None:
    page = tmp_path / "page"
    page.write_bytes(CONTENT)
    assert _download.fetch_url(page.as_uri(), "page", WHEEL.sha256, seconds=1) == cache / "page"
    page.unlink()
    assert _download.fetch_url(page.as_uri(), "page", WHEEL.sha256, seconds=1) == cache / "page", "from the cache"
    assert _download.fetch_url(page.as_uri(), "other", WHEEL.sha256, seconds=1) is None, "unreachable"


def test_url_with_something_else_behind_it(tmp_path: Path, cache: Path) -> None:
    page = tmp_path / "page"
    page.write_bytes(b"<html>please log in</html>")
    assert _download.fetch_url(page.as_uri(), "page", WHEEL.sha256, seconds=1) is None
    assert not list(cache.iterdir())


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENLAKE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert _download.cache_folder() == Path("/somewhere/tokenlake")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _download.cache_folder() == Path.home() / ".cache" / "tokenlake"
