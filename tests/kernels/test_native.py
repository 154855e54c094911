"""Building, finding and doing without the compiled kernels."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tokenlake_kernels as kernels
from tests.kernels.batches import normal, offsets_of
from tokenlake_kernels.cpu import compiled, native

OFFSETS = offsets_of([5, 70])
QUICK = ("-std=c++17", "-O0", "-fPIC")  # to compile in a second or two


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def _attend() -> torch.Tensor:
    q = normal(75, 4, 16)
    return kernels.jagged_attention(q, q, q, OFFSETS)


def test_without_a_compiler_one_warning_and_the_same_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = _attend()
    native.library.cache_clear()
    monkeypatch.setenv("TOKENLAKE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler found"):
        torch.testing.assert_close(_attend(), wanted, atol=1e-5, rtol=1e-5)
    _attend()  # a second warning would be an error here


def test_a_compiler_that_fails_says_what_it_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\ncase $1 in --version) echo broken 1;; *) echo 'no room today' >&2; exit 1;; esac\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("TOKENLAKE_CACHE", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="no room today"):
        assert native.library() is None
    assert not list(tmp_path.rglob("*.so"))


def test_the_compiled_kernels_are_used_here() -> None:
    """On any machine with a compiler, a silent fall-back would be a bug."""
    try:
        native.compiler()
    except native.BuildError:
        pytest.skip("no C++ compiler here")
    assert native.library() is not None
    assert compiled.usable(torch.zeros(1))
    assert not compiled.usable(torch.zeros(1, dtype=torch.float64))


def test_the_library_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip("no C++ compiler here")
    native.library.cache_clear()
    monkeypatch.setattr(native, "build", lambda *_, **__: pytest.fail("built although it was there"))
    assert native.library() is not None


def test_a_wheel_may_bring_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if native.library() is None:
        pytest.skip("no C++ compiler here")
    native.library.cache_clear()
    wanted = _attend()
    monkeypatch.setattr(native, "FLAGS", QUICK)
    monkeypatch.setattr(native, "PREBUILT", native.build(tmp_path / "prebuilt.so", machine=()))
    native.library.cache_clear()
    monkeypatch.setenv("TOKENLAKE_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    torch.testing.assert_close(_attend(), wanted, atol=1e-5, rtol=1e-5)
    assert compiled.usable(torch.zeros(1))


def test_processes_that_race_agree(tmp_path: Path) -> None:
    program = (
        "import torch; from tokenlake_kernels.cpu import native; "
        f"native.FLAGS = {QUICK}; assert native.library() is not None; "
        "import tokenlake_kernels as k; q = torch.ones(9, 1, 16); k.jagged_attention(q, q, q, torch.tensor([0, 9]))"
    )
    env = {"PATH": "/usr/bin:/bin:/usr/local/bin", "TOKENLAKE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    if native.library() is None:
        pytest.skip("no C++ compiler here")
    racers = [
        subprocess.Popen([sys.executable, "-c", program], env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for racer in racers:
        _, said = racer.communicate(timeout=300)
        assert racer.returncode == 0, said
    assert len(list(tmp_path.rglob("*.so"))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["kernels"]
    assert len(list((tmp_path / "kernels").iterdir())) == 1  # no half-built files


def _in_a_child(queue: multiprocessing.Queue[float]) -> None:
    queue.put(float(_attend().sum()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # forking is what is tested
def test_a_forked_child_does_not_hang() -> None:
    """OpenMP's pool does not survive a fork; `parallel.h` makes threads of its own there."""
    wanted = float(_attend().sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,))
    child.start()
    child.join(60)
    hung = child.is_alive()
    if hung:
        child.kill()
    assert not hung
    assert queue.get(timeout=5) == pytest.approx(wanted, rel=1e-5)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    q = normal(75, 4, 16)
    try:
        torch.set_num_threads(1)
        one = kernels.jagged_attention(q, q, q, OFFSETS)
        torch.set_num_threads(4)
        assert torch.equal(kernels.jagged_attention(q, q, q, OFFSETS), one)
    finally:
        torch.set_num_threads(threads)
