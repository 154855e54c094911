"""Every op at the edges, against the references: no rows, no values, one row; dtypes; layouts in memory; head dims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenlake_kernels as kernels
from tests.kernels.batches import assert_same, normal, offsets_of, places
from tokenlake_kernels import reference

pytestmark = pytest.mark.usefixtures("path")
Call = tuple[Callable[..., Tensor], list[Tensor]]


def everything(lengths: list[int], ints: torch.dtype = torch.int64, dim: int = 16) -> dict[str, Call]:
    """Each op once: (what to call on `kernels` or `reference`, the tensors that have gradients)."""
    offsets, n, batch = offsets_of(lengths, ints), sum(lengths), len(lengths)
    longest = max(lengths, default=0)
    qkv = [normal(n, 2, dim, seed=x) for x in range(3)]
    seen = {name: x.to(ints) for name, x in places(lengths, None).items()}
    x, y, tables = normal(n, 6), normal(n, 4, seed=1), [normal(2, 9) * 0.3, normal(9) * 0.3]
    masks = {"norm": 9, "local": 2, "prefix": 1, "timestamps": seen["timestamps"]}
    targets = torch.tensor([min(1, size) for size in lengths], dtype=ints)
    index = torch.arange(n - 1, -1, -1).to(ints)
    norm = [normal(n, 6), normal(n, 6, seed=1), normal(6), normal(6, seed=1)]
    other = offsets_of([2] * batch, ints)
    return {
        "attention": (lambda ops, *a: ops.jagged_attention(*a, offsets, causal=True), qkv),
        "cross": (
            lambda ops, q, k, v, b: ops.jagged_cross_attention(q, k, v, offsets, bias=b),
            [normal(batch, 3, 2, dim), *qkv[1:], normal(batch, 3, longest)],
        ),
        "prefix": (
            lambda ops, q, k, v, t: ops.jagged_prefix_attention(q, k, v, offsets, time_bias=t, **seen),
            [*qkv, tables[0]],
        ),
        "hstu": (
            lambda ops, q, k, v, p, t: ops.hstu_attention(
                q, k, v, offsets, position_bias=p, time_bias=t, num_targets=targets, **masks
            ),
            [*qkv, *tables],
        ),
        "dense_bmm": (lambda ops, x, w: ops.jagged_dense_bmm(x, w, offsets), [x, normal(batch, 6, 3)]),
        "jagged_bmm": (lambda ops, x, y: ops.jagged_jagged_bmm(x, y, offsets), [x, y]),
        "grouped_gemm": (lambda ops, x, w: ops.grouped_gemm(x, w, offsets, index), [x, normal(batch, 6, 3)]),
        "softmax": (lambda ops, x: ops.jagged_softmax(x, offsets), [x]),
        "add": (lambda ops, x, d: ops.jagged_dense_add(x, offsets, d), [x, normal(batch, max(1, longest), 6)]),
        "mul": (lambda ops, x, d: ops.jagged_dense_mul(x, offsets, d), [x, normal(batch, 1, 6)]),
        "to_padded": (lambda ops, x: ops.jagged_to_padded(x, offsets, longest, 2), [x]),
        "to_jagged": (lambda ops, p: ops.padded_to_jagged(p, offsets), [normal(batch, longest, 6)]),
        "concat": (
            lambda ops, x, z: ops.jagged_concat([x, z], [offsets, other])[0],
            [x, normal(2 * batch, 6)],
        ),
        "gated_norm": (
            lambda ops, *a: ops.gated_norm(*a, concat=True),
            norm,
        ),
    }  # fmt: skip


NAMES = list(everything([]))


@pytest.mark.parametrize("ints", [torch.int32, torch.int64])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [0, 5, 0]])
@pytest.mark.parametrize("name", NAMES)
def test_few_rows_and_few_values(name: str, lengths: list[int], ints: torch.dtype) -> None:
    run, inputs = everything(lengths, ints)[name]
    assert_same(lambda *a: run(kernels, *a), lambda *a: run(reference, *a), inputs)


@pytest.mark.parametrize("lengths", [[], [0, 0], [1]])
def test_few_times_and_few_tokens(lengths: list[int]) -> None:
    offsets, n = offsets_of(lengths), sum(lengths)
    times = torch.arange(n)
    assert torch.equal(
        kernels.jagged_time_differences(times, offsets), reference.jagged_time_differences(times, offsets)
    )
    (front, _), (back, _) = kernels.jagged_split(normal(n, 3), offsets, offsets.diff())
    assert front.shape == (n, 3)
    assert back.shape == (0, 3)
    packed = kernels.SamoyedsWeight.encode(normal(4, 128))
    x = normal(n, 128)
    torch.testing.assert_close(kernels.sparse_moe_matmul(x, packed), x @ packed.decode().T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    run, inputs = everything([40, 0, 21])[name]
    assert_same(
        lambda *a: run(kernels, *a),
        lambda *a: run(reference, *a),
        [x.to(dtype) for x in inputs],
        atol=3e-2,
        rtol=3e-2,
    )


def _spread(x: Tensor) -> Tensor:
    """The same values with no dense dimension."""
    return torch.stack([x, x], -1)[..., 0] if x.dim() < 2 else torch.stack([x.mT, x.mT], -1)[..., 0].mT


@pytest.mark.parametrize("name", NAMES)
def test_non_contiguous_inputs(name: str) -> None:
    run, inputs = everything([33, 0, 5])[name]
    spread = [_spread(x) for x in inputs]
    assert not any(x.is_contiguous() for x in spread if x.numel() > 1)

    def over(x: Any) -> Tensor:
        return run(kernels, *x)

    torch.testing.assert_close(over(spread), over(inputs), atol=1e-5, rtol=1e-5)
    assert_same(lambda *a: over([_spread(x) for x in a]), lambda *a: run(reference, *a), inputs)


@pytest.mark.parametrize("dim", [16, 32, 64, 96, 128, 256])
@pytest.mark.parametrize("name", ["attention", "cross", "prefix", "hstu"])
def test_head_dimensions(name: str, dim: int) -> None:
    run, inputs = everything([70, 3], dim=dim)[name]
    assert_same(lambda *a: run(kernels, *a), lambda *a: run(reference, *a), inputs)
