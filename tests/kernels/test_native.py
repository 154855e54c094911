"""The compiled kernels: used where they can be, done without where not, and safe to fork."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tokenlake_kernels as kernels
from tests.fixtures.patience import HANG_S
from tests.kernels.batches import normal, offsets_of
from tokenlake_kernels.cpu import compiled, native
from tokenlake_kernels.native_build import CPP, BuildError, NativeBuildWarning, compiler

OFFSETS = offsets_of([5, 70])


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
    monkeypatch.setenv("CXX", str(tmp_path / "nowhere"))
    with pytest.warns(NativeBuildWarning, match=r"PyTorch does the work of cpu/csrc, several times slower.*no program"):
        torch.testing.assert_close(_attend(), wanted, atol=1e-5, rtol=1e-5)
    _attend()  # a second warning would be an error here


def test_the_compiled_kernels_are_used_here() -> None:
    """On any machine with a compiler, a silent fall-back would be a bug."""
    try:
        compiler(CPP)
    except BuildError:
        pytest.skip("no C++ compiler here")
    assert native.library() is not None
    assert compiled.usable(torch.zeros(1))
    assert not compiled.usable(torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("variable", [("TOKENLAKE_CPU", "torch"), ("TOKENLAKE_NATIVE", "0")])
def test_who_wants_no_compiled_kernels_gets_none(variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*variable)
    assert native.library() is None
    assert not compiled.usable(torch.zeros(1))
    assert _attend().shape == (75, 4, 16)


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
    child.join(HANG_S)
    hung = child.is_alive()
    if hung:
        child.kill()
    assert not hung
    assert queue.get(timeout=HANG_S) == pytest.approx(wanted, rel=1e-5)


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
