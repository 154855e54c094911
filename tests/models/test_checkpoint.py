from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenlake_models.checkpoint import read_checkpoint, write_checkpoint
from tokenlake_models.errors import CheckpointError

HEADER = {"model": "compressor"}


def write(folder: Path, value: float) -> None:
    write_checkpoint(folder, HEADER, {"w": torch.full((3,), value)}, {"s": torch.full((2,), value)})


def read(folder: Path) -> list[float]:
    _, weights, optimizer = read_checkpoint(folder)
    return [*weights["w"].tolist(), *optimizer["s"].tolist()]


def test_replaces_whole(tmp_path):
    write(tmp_path / "c", 1.0)
    write(tmp_path / "c", 2.0)
    assert read(tmp_path / "c") == [2.0] * 5
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("call", ["save_file", "_flush"])
def test_a_killed_writer_leaves_the_old_one(tmp_path, call):
    write(tmp_path / "c", 1.0)
    script = f"""
import os, signal, sys
from pathlib import Path
from tests.models import test_checkpoint
from tokenlake_models import checkpoint
checkpoint.{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
test_checkpoint.write(Path(sys.argv[1]) / "c", 2.0)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read(tmp_path / "c") == [1.0] * 5
    assert len(list(tmp_path.iterdir())) == 2
    write(tmp_path / "c", 3.0)
    assert read(tmp_path / "c") == [3.0] * 5
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_failed_writer_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tokenlake_models.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "c", 1.0)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged(tmp_path):
    with pytest.raises(CheckpointError, match=r"is no checkpoint: config\.json is missing"):
        read_checkpoint(tmp_path / "c")
    write(tmp_path / "c", 1.0)
    weights = tmp_path / "c" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(tmp_path / "c")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is missing"):
        read_checkpoint(tmp_path / "c")
