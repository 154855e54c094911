"""The Triton kernels without a GPU: run in the interpreter, and compiled for four GPUs that are not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.patience import HANG_S
from tokenlake_kernels import report
from tokenlake_kernels.aot import KERNELS, TARGETS, Case, Result, cases, check_all
from tokenlake_kernels.errors import ShapeError
from tokenlake_kernels.gpu.launch import head_sizes, tiles

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_interpreted() -> None:
    """In its own process, which knows from the start that it interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/interpreted.py"]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


@pytest.mark.slow
def test_defaults_compile_for_every_gpu() -> None:
    """No spills, tensor cores used, shared memory within bounds; `make kernels-report` does the same for all that ships."""
    wanted = list(cases(defaults=True))
    assert {case.kernel for case in wanted} == set(KERNELS)
    problems = {case: found for case, found in zip(wanted, check_all(wanted, 2), strict=True) if found.problems()}
    assert not problems


@pytest.mark.slow
def test_forms_for_more_values_than_int32_counts_compile() -> None:
    """They may spill: what they are for does not fit otherwise."""
    some = {"attention_dbias_kernel", "attention_forward_kernel", "hstu_dkdv_kernel", "prefix_dq_kernel"}
    wanted = [case for case in cases(defaults=True) if case.kernel in some and case.target.arch == "sm_90"]
    wide = [case._replace(flags=tuple((dict(case.flags) | {"WIDE": True}).items())) for case in wanted]
    assert [result.dots > 0 for result in check_all(wide, 2)] == [True] * 4


def test_heads_that_no_configuration_was_checked_for_are_refused() -> None:
    assert head_sizes(256) == {"DIM": 256, "BLOCK_D": 256}
    with pytest.raises(ShapeError, match="the heads are 257 wide; the GPU kernels take up to 256"):
        head_sizes(257)


def _result(**given: int) -> Result:
    config = tiles(4, 1, BLOCK_M=64, BLOCK_N=32)
    numbers = {"registers": 100, "spills": 0, "stack": 0, "shared": 1000, "dots": 8} | given
    return Result(Case("attention_dq_kernel", (), config, 64, "bf16", TARGETS[0]), **numbers, occupancy=0.5)


def test_what_must_not_ship() -> None:
    assert _result().problems() == []
    assert _result(spills=2, stack=8).problems() == ["2 spills, 8 bytes of stack"]
    assert _result(shared=200_000).problems() == ["200000 bytes of shared memory, 166912 allowed"]
    assert _result(dots=0).problems() == ["no matrix instruction"]


def test_the_table_shows_the_worst_form(tmp_path: Path) -> None:
    document = tmp_path / "kernels.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(document, report.table([_result(), _result(registers=180), _result(registers=90)]))
    text = document.read_text()
    assert "| attention_dq | 64 | 64x32, 4 warps, 1 stages | sm_80 | 3 | 180 | 0 | 1,000 | 50% |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
