"""A dense block added to jagged rows, or multiplied by them, with broadcasting (arXiv 2409.15373)."""

from typing import Any

import torch
from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .layouts import padded
from .products import jagged_bmm
from .registry import define


def _broadcast_cpu(x: Tensor, dense: Tensor, offsets: Tensor, mul: int) -> Tensor:
    checks.offsets_values("offsets", offsets, x.shape[0], -1 if dense.shape[1] == 1 else dense.shape[1])
    return (compiled.broadcast if compiled.usable(x) else eager.broadcast)(x, dense, offsets, mul=bool(mul))


def _broadcast_cuda(x: Tensor, dense: Tensor, offsets: Tensor, mul: int) -> Tensor:
    from .gpu import interaction as gpu

    checks.offsets_values("offsets", offsets, x.shape[0], -1 if dense.shape[1] == 1 else dense.shape[1])
    return gpu.broadcast(x, dense, offsets, mul=bool(mul))


def _broadcast_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, dense, offsets, ctx.mul = inputs
    ctx.shape = dense.shape
    ctx.save_for_backward(x if ctx.mul else None, dense if ctx.mul else None, offsets)


def _onto_dense(g: Tensor, offsets: Tensor, shape: torch.Size) -> Tensor:
    """Sum the jagged gradient into the (batch, len, cols) that was broadcast."""
    if shape[1] == 1:
        summed: Tensor = jagged_bmm(g.new_ones(g.shape[0], 1), g, offsets, None)
    else:
        summed = padded(g, offsets, shape[1], 0)
    return summed.sum(-1, keepdim=True) if shape[2] == 1 and g.shape[1] != 1 else summed


def _broadcast_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, dense, offsets = ctx.saved_tensors
    dx = ddense = None
    if ctx.needs_input_grad[0]:
        dx = _broadcast(g, dense, offsets, ctx.mul) if ctx.mul else g
    if ctx.needs_input_grad[1]:
        ddense = _onto_dense(g * x if ctx.mul else g, offsets, ctx.shape)
    return dx, ddense, None, None


_broadcast = define(
    "broadcast",
    "(Tensor x, Tensor dense, Tensor offsets, int mul) -> Tensor",
    cpu=_broadcast_cpu,
    cuda=_broadcast_cuda,
    fake=lambda x, dense, offsets, mul: x.new_empty(x.shape),
    backward=_broadcast_gradients,
    setup=_broadcast_setup,
)


def _check_broadcast(x: Tensor, offsets: Tensor, dense: Tensor) -> None:
    checks.rank("x", x, ("total", "dim"))
    checks.rank("dense", dense, ("batch", "len or 1", "dim or 1"))
    checks.dtype("x", x)
    checks.same_dtype("dense", dense, "x", x)
    checks.offsets_form("offsets", offsets)
    checks.size("dense", dense, 0, offsets.shape[0] - 1, "one block a row")
    if dense.shape[2] != 1:
        checks.size("dense", dense, 2, x.shape[1], "the width of x, or 1")
    checks.devices(x=x, offsets=offsets, dense=dense)


def jagged_dense_add(x: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
    """`x[offsets[b] + l] + dense[b, l]`.

    Args:
        x: `(total, dim)`.
        offsets: `(batch + 1,)` int32 or int64.
        dense: `(batch, len, dim)`, len at least the longest row; a len or a dim of 1 is broadcast.

    Returns:
        `(total, dim)`; differentiable in x and dense.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    _check_broadcast(x, offsets, dense)
    out: Tensor = _broadcast(x, dense, offsets, 0)
    return out


def jagged_dense_mul(x: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
    """`x[offsets[b] + l] * dense[b, l]`.

    Args:
        x: `(total, dim)`.
        offsets: `(batch + 1,)` int32 or int64.
        dense: `(batch, len, dim)`, len at least the longest row; a len or a dim of 1 is broadcast.

    Returns:
        `(total, dim)`; differentiable in x and dense.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    _check_broadcast(x, offsets, dense)
    out: Tensor = _broadcast(x, dense, offsets, 1)
    return out
