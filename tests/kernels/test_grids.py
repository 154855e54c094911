"""What the launches on a GPU would ask for: CUDA's grids are 2^31 - 1 programs long in their first axis alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenlake_kernels.aot import KERNELS
from tokenlake_kernels.errors import ShapeError
from tokenlake_kernels.gpu import attention, flash, hstu, interaction, launch, norm, prefix, samoyeds
from tokenlake_kernels.gpu.grid import MOST_PROGRAMS, programs
from tokenlake_kernels.masks import FAR, HstuMask
from tokenlake_kernels.plans import HstuPlan, PrefixPlan, SoftmaxPlan

Grids = dict[str, list[tuple[int, ...]]]


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> Grids:
    """The grids of all launches, by kernel, in every configuration; nothing runs."""
    seen: Grids = {}

    def note(
        kernel: launch.Kernel, grid: Callable[[dict[str, int]], tuple[int, ...]], _: object, *, dim: int, **__: Any
    ) -> None:
        configs = (config for vendor in ("cuda", "hip") for config in kernel.configs(dim, vendor))
        seen.setdefault(kernel.name, []).extend(grid(dict(config.tiles)) for config in configs)

    for module in (attention, flash, hstu, interaction, norm, prefix, samoyeds):
        monkeypatch.setattr(module, "launch", note)
    return seen


def _values(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor of the size alone."""
    return torch.empty(shape, dtype=dtype, device="meta")


def _numbers(*shape: int) -> Tensor:
    return _values(*shape, dtype=torch.int64)


def launch_everything(rows: int, longest: int) -> None:
    """Every kernel there is, over so many rows of which one has so many values, and the others none."""
    total, offsets = longest, _numbers(rows + 1)
    q = k = v = g = out = _values(total, 2, 16)
    lse = _values(2, total, dtype=torch.float32)
    band = SoftmaxPlan(None, offsets, 0, FAR, 0, 1.0, longest)
    attention.attention_forward(q, k, v, band, save=True)
    attention.attention_backward(g, q, k, v, out, lse, band)
    dense, dense_lse = _values(rows, 2, 16), _values(2, rows, dtype=torch.float32)
    cross = SoftmaxPlan(_values(rows, 1, longest), offsets, 1, FAR, FAR, 1.0, longest)
    attention.attention_forward(dense, k, v, cross, save=True)
    attention.attention_backward(dense, dense, k, v, dense, dense_lse, cross)
    silu = HstuPlan(offsets, None, None, None, None, 1.0, 1.0, HstuMask(), longest)
    hstu.hstu_forward(q, k, v, silu)
    hstu.hstu_backward(g, q, k, v, silu)
    sight = PrefixPlan(None, offsets, offsets, _numbers(total), _numbers(total), None, None, 1.0, longest)
    prefix.forward(q, k, v, sight)
    prefix.backward(g, q, k, v, out, lse, sight)
    x = _values(total, 4)
    interaction.dense_bmm(x, _values(rows, 4, 4), offsets, None)
    interaction.jagged_bmm(x, x, offsets, None)
    interaction.softmax_backward(interaction.softmax(x, offsets), x, offsets)
    interaction.broadcast(x, _values(rows, 1, 4), offsets, mul=False)
    interaction.copy_segments(x, offsets[:-1], offsets[:-1], offsets[:-1], _values(total, 4))
    interaction.time_differences(_numbers(total), offsets, total)
    weight = _values(4)
    norm.gated_norm(x, x, weight, weight, 1e-6, concat=False)
    norm.gated_norm_backward(x, x, x, weight, weight, 1e-6, concat=False)
    packed = [_values(2, 64), _values(1, 2, dtype=torch.uint8), _values(2, 16, dtype=torch.uint8)]
    samoyeds.matmul(_values(total, 128), *packed, _numbers(total))


@pytest.mark.parametrize(("rows", "longest"), [(70_000, 2), (3_000_000, 70), (1, 5_000_000), (4, 1)])
def test_every_kernel_uses_the_first_axis_alone(grids: Grids, rows: int, longest: int) -> None:
    """Other axes hold 65,535 programs: too few for the rows of a batch, or for the tiles of a very long row."""
    launch_everything(rows, longest)
    assert set(grids) == set(KERNELS)
    for name, asked in grids.items():
        assert all(len(grid) == 1 and 0 < grid[0] <= MOST_PROGRAMS for grid in asked), name
        if name in {"attention_forward_kernel", "hstu_dkdv_kernel", "prefix_dq_kernel", "softmax_kernel"}:
            assert all(grid[0] >= rows for grid in asked), name


def test_a_batch_without_rows_launches_nothing(grids: Grids) -> None:
    launch_everything(0, 0)
    assert grids == {}


def test_more_programs_than_one_launch_may_have_are_refused() -> None:
    assert programs(3, 1, 5) == (15,)
    assert programs(MOST_PROGRAMS) == (MOST_PROGRAMS,)
    assert programs(2, 0) == (0,)
    with pytest.raises(
        ShapeError, match="4 x 2 x 300000000 = 2400000000 programs on the GPU; one launch may have 2147"
    ):
        programs(4, 2, 300_000_000)
