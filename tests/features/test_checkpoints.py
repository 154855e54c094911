"""Checkpoints on the disk: whole or not at all, whoever dies while one is saved."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.fixtures.tables import learner
from tokenlake.errors import NotFoundError
from tokenlake.features import checkpoints
from tokenlake.features.vocabulary import Vocabulary

_SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.features import test_checkpoints
import {module} as module
module.{name} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
test_checkpoints.save(Path(sys.argv[1]), ["new"])
"""


def lake(folder: Path) -> Any:
    return SimpleNamespace(data=folder)


def save(folder: Path, words: list[str]) -> Path:
    vocabulary = Vocabulary()
    vocabulary.grow("x", pa.array(words))
    return checkpoints.save(lake(folder), "iat-1", "2017-06-01", learner(), vocabulary)


def words(folder: Path) -> list[str]:
    found: list[str] = checkpoints.load_fresh(lake(folder), "iat-1", "2017-06-01").vocabulary.values("x").to_pylist()
    return found


def test_one_replaces_another(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        words(tmp_path)
    path = save(tmp_path, ["old"])
    assert words(tmp_path) == ["old"]
    assert save(tmp_path, ["new"]) == path
    assert words(tmp_path) == ["new"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize(
    "operation",
    ["tokenlake_models.checkpoint.save_file", "tokenlake.storage.disk.sync_file", "tokenlake.storage.disk.exchange"],
)
def test_a_killed_writer_leaves_the_old_one(tmp_path: Path, operation: str) -> None:
    path = save(tmp_path, ["old"])
    module, _, name = operation.rpartition(".")
    script = _SCRIPT.format(module=module, name=name)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert words(tmp_path) == ["old"]
    assert len(list(path.parent.iterdir())) == 2
    save(tmp_path, ["later"])
    assert words(tmp_path) == ["later"]
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tokenlake_models.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, ["new"])
    assert not list((tmp_path / "checkpoints" / "iat-1").iterdir())
