"""A wheel brings the compiled C and C++, and an installed one uses them where there is no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tokenlake_kernels.native_build import CPP, BuildError, C, compiler

ROOT = Path(__file__).parents[2]
#: What an installed wheel needs to be asked: where it lies, what it found, and whether it computes.
PROGRAM = """
import sys, numpy as np
import tokenlake.storage.native as store
from tokenlake.feast.offline.asof import AsOf, native_library as asof
from tokenlake.storage import native_ops
rows = np.arange(10_000)
assert (native_ops.take(rows, rows[::-1].copy()) == rows[::-1]).all()
join = AsOf(np.zeros(1, np.int32), np.array([5]), 1)
join.feed(np.zeros(9, np.int32), np.arange(9), None, 0)
assert join.finish().tolist() == [5]
assert "torch" not in sys.modules
import torch, tokenlake_kernels as kernels
from tokenlake_kernels import reference
from tokenlake_kernels.cpu import native
assert kernels.__file__.startswith(sys.argv[1]), kernels.__file__
q, offsets = torch.randn(20, 2, 16), torch.tensor([0, 5, 20])
out = kernels.jagged_attention(q, q, q, offsets, causal=True)
torch.testing.assert_close(out, reference.jagged_attention(q, q, q, offsets, causal=True), atol=1e-5, rtol=1e-5)
for library in (store.library(), asof(), native.library()):
    print(library._name.removeprefix(sys.argv[1] + "/") if library else None)
"""
BROUGHT = [
    "tokenlake/storage/native.prebuilt.so",
    "tokenlake/feast/offline/asof.prebuilt.so",
    "tokenlake_kernels/cpu/csrc.prebuilt.so",
]


def build(folder: Path, **environment: str) -> Path:
    """A wheel of a copy of the sources, so that nothing is written beside them."""
    sources = folder / "sources"
    for name in ("platform", "models", "kernels", "sql"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    done = subprocess.run(
        command, cwd=sources, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").iterdir()
    return wheel


def ask(wheel: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Unpack a wheel as an installer does, and run it without a compiler or a cache."""
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = {"PYTHONPATH": str(site), "PATH": str(folder), "TOKENLAKE_CACHE": str(folder / "cache"), "HOME": str(folder)}
    command = [sys.executable, "-c", PROGRAM, str(site)]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_an_installed_wheel_uses_the_libraries_that_it_brought(tmp_path: Path) -> None:
    try:
        for language in (C, CPP):
            compiler(language)
    except BuildError as error:
        pytest.skip(str(error))
    wheel = build(tmp_path)
    assert "-py3-none-" in wheel.name
    assert "any" not in wheel.name
    done = ask(wheel, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == BROUGHT
    assert done.stderr == ""
    assert not (tmp_path / "cache").exists()


def test_without_a_compiler_the_wheel_is_pure_and_python_serves(tmp_path: Path) -> None:
    wheel = build(tmp_path, CC="/nowhere", CXX="/nowhere")
    assert wheel.name.endswith("-py3-none-any.whl")
    done = ask(wheel, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["None"] * 3
    warned = [line.partition("NativeBuildWarning: ")[2] for line in done.stderr.splitlines() if "Warning:" in line]
    assert [line.partition(",")[0] for line in warned] == [
        "NumPy does the work of storage/native.c",
        "NumPy does the work of offline/asof.c",
        "PyTorch does the work of cpu/csrc",
    ]
