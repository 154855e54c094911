"""The end of an HSTU layer in one pass: LayerNorm, gate, concatenation and projection (arXiv 2402.17152, eq. 4).

As separate ops, each of the four would store its result. Here the normalised rows are computed on the fly, and again in
backward, so that nothing between the attention's output and the projection is stored.
"""

from typing import Any

from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .registry import define


def _forward_cpu(a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, concat: int) -> Tensor:
    run = compiled.gated_norm if compiled.usable(a) else eager.gated_norm
    return run(a, u, weight, bias, eps, concat=bool(concat))


def _forward_cuda(a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, concat: int) -> Tensor:
    from .gpu import norm as gpu

    return gpu.gated_norm(a, u, weight, bias, eps, concat=bool(concat))


def _forward_fake(a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, concat: int) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1] * (3 if concat else 1))


def _backward_cpu(
    g: Tensor, a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, concat: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = compiled.gated_norm_backward if compiled.usable(a) else eager.gated_norm_backward
    return run(g, a, u, weight, bias, eps, concat=bool(concat))


def _backward_cuda(
    g: Tensor, a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, concat: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from .gpu import norm as gpu

    return gpu.gated_norm_backward(g, a, u, weight, bias, eps, concat=bool(concat))


def _backward_fake(
    g: Tensor, a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, concat: int
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (a, u, weight, bias))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(g, *ctx.saved_tensors, *ctx.rest), None, None


_backward = define(
    "gated_norm_backward",
    "(Tensor g, Tensor a, Tensor u, Tensor weight, Tensor bias, float eps, int concat) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=_backward_cuda,
    fake=_backward_fake,
)
_forward = define(
    "gated_norm",
    "(Tensor a, Tensor u, Tensor weight, Tensor bias, float eps, int concat) -> Tensor",
    cpu=_forward_cpu,
    cuda=_forward_cuda,
    fake=_forward_fake,
    backward=_gradients,
    setup=_setup,
)


# The projection, whose input is recomputed in backward; device-independent, since it only calls other ops.


def _linear(a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, eps: float, concat: int) -> Tensor:
    y: Tensor = _forward(a, u, weight, bias, eps, concat)
    return y @ out_weight.T


def _linear_fake(
    a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, eps: float, concat: int
) -> Tensor:
    return a.new_empty(a.shape[0], out_weight.shape[0])


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.rest = inputs[5:]


def _linear_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    a, u, weight, bias, out_weight = ctx.saved_tensors
    y = _forward(a, u, weight, bias, *ctx.rest)
    grads = _backward(g @ out_weight, a, u, weight, bias, *ctx.rest)
    return *grads, g.T @ y, None, None


_projected = define(
    "gated_norm_linear",
    "(Tensor a, Tensor u, Tensor weight, Tensor bias, Tensor out_weight, float eps, int concat) -> Tensor",
    cpu=_linear,
    cuda=_linear,
    fake=_linear_fake,
    backward=_linear_gradients,
    setup=_linear_setup,
)


def gated_norm(
    a: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    out_weight: Tensor | None = None,
    concat: bool = False,
    eps: float = 1e-6,
) -> Tensor:
    """`y = u * LayerNorm(a)`, or `[u, a, u * LayerNorm(a)]`; with `out_weight`, `y @ out_weight.T`.

    Args:
        a: `(total, dim)`: the attention's output.
        u: `(total, dim)`: the gate.
        weight: `(dim,)` of the LayerNorm.
        bias: `(dim,)` of the LayerNorm.
        out_weight: `(outer, dim)`, or `(outer, 3 dim)` with `concat`: the projection; y is then never stored.
        concat: Put u and a before the normalised rows.
        eps: Added to the variance.

    Returns:
        `(total, dim)`, `(total, 3 dim)` or `(total, outer)`; differentiable in all tensors.

    Raises:
        ShapeError, DtypeError, DeviceError: An argument that does not fit the others.
    """
    checks.rank("a", a, ("total", "dim"))
    checks.rank("u", u, ("total", "dim"))
    checks.dtype("a", a)
    checks.same_dtype("u", u, "a", a)
    for axis, meaning in enumerate(("the values of a", "the width of a")):
        checks.size("u", u, axis, a.shape[axis], meaning)
    for name, x in (("weight", weight), ("bias", bias)):
        checks.rank(name, x, ("dim",))
        checks.dtype(name, x)
        checks.size(name, x, 0, a.shape[1], "the width of a")
    checks.devices(a=a, u=u, weight=weight, bias=bias, out_weight=out_weight)
    if out_weight is None:
        y: Tensor = _forward(a, u, weight, bias, float(eps), int(concat))
        return y
    checks.rank("out_weight", out_weight, ("outer", "inner"))
    checks.same_dtype("out_weight", out_weight, "a", a)
    checks.size("out_weight", out_weight, 1, a.shape[1] * (3 if concat else 1), "the width of y")
    out: Tensor = _projected(a, u, weight, bias, out_weight, float(eps), int(concat))
    return out
