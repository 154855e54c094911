"""Softmax over the length of each jagged row (arXiv 2409.15373)."""

from typing import Any

from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .errors import ShapeError
from .registry import define


def _softmax_cpu(x: Tensor, offsets: Tensor) -> Tensor:
    checks.offsets_values("offsets", offsets, x.shape[0])
    return (compiled.softmax if compiled.usable(x) else eager.softmax)(x, offsets)


def _softmax_cuda(x: Tensor, offsets: Tensor) -> Tensor:
    from .gpu import interaction as gpu

    checks.offsets_values("offsets", offsets, x.shape[0])
    return gpu.softmax(x, offsets)


def _softmax_backward_cpu(y: Tensor, g: Tensor, offsets: Tensor) -> Tensor:
    return (compiled.softmax_backward if compiled.usable(y) else eager.softmax_backward)(y, g, offsets)


def _softmax_backward_cuda(y: Tensor, g: Tensor, offsets: Tensor) -> Tensor:
    from .gpu import interaction as gpu

    return gpu.softmax_backward(y, g, offsets)


def _softmax_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _softmax_gradients(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    y, offsets = ctx.saved_tensors
    return _softmax_backward(y, g, offsets), None


_softmax_backward = define(
    "softmax_backward",
    "(Tensor y, Tensor g, Tensor offsets) -> Tensor",
    cpu=_softmax_backward_cpu,
    cuda=_softmax_backward_cuda,
    fake=lambda y, g, offsets: y.new_empty(y.shape),
)
_softmax = define(
    "softmax",
    "(Tensor x, Tensor offsets) -> Tensor",
    cpu=_softmax_cpu,
    cuda=_softmax_cuda,
    fake=lambda x, offsets: x.new_empty(x.shape),
    backward=_softmax_gradients,
    setup=_softmax_setup,
)


def jagged_softmax(x: Tensor, offsets: Tensor) -> Tensor:
    """Softmax over the length of each row, column by column.

    Args:
        x: `(total, ...)` floating point.
        offsets: `(batch + 1,)` int32 or int64.

    Returns:
        The shape of x; differentiable in x.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    checks.dtype("x", x)
    if x.dim() == 0:
        raise ShapeError("x is a scalar; expected (total, ...)")
    checks.offsets_form("offsets", offsets)
    checks.devices(x=x, offsets=offsets)
    columns = 1
    for n in x.shape[1:]:
        columns *= n
    out: Tensor = _softmax(x.reshape(x.shape[0], columns), offsets)
    return out.view(x.shape)
