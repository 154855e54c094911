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


def test_a_killed_writer_leaves_no_mixture(tmp_path):
    """Whoever wants the old one to stay writes beside it, as the platform does (tests/features/test_checkpoints.py)."""
    for call in range(2):
        folder = tmp_path / str(call)
        write(folder, 1.0)
        script = f"""
import os, signal, sys
from pathlib import Path
from tests.models import test_checkpoint
from tokenlake_models import checkpoint
plain, calls = checkpoint.save_file, []
def save_file(*given):
    calls.append(given)
    if len(calls) > {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(*given)
checkpoint.save_file = save_file
test_checkpoint.write(Path(sys.argv[1]), 2.0)
"""
        done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=Path(__file__).parents[2], check=False)
        assert done.returncode == -signal.SIGKILL
        with pytest.raises(CheckpointError, match=r"is no checkpoint: config\.json is missing"):
            read_checkpoint(folder)
        write(folder, 3.0)
        assert read(folder) == [3.0] * 5


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
