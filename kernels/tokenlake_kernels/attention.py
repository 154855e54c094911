"""Softmax attention over jagged rows: self attention, and dense queries over a jagged history.

Flash attention (arXiv 2205.14135) on `values + offsets` (jagged: arXiv 2409.15373): scores never reach memory, the
log-sum-exps are kept and the probabilities recomputed in backward.
"""

from typing import Any

import torch
from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .errors import ShapeError
from .masks import FAR, band
from .plans import SoftmaxPlan
from .registry import define

_PLAN = "Tensor? bias, Tensor offsets, SymInt queries, int left, int right, float scale, SymInt max_len"


def _forward_cpu(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    plan, save = SoftmaxPlan(*rest[:-1]), bool(rest[-1])
    checks.offsets_values("offsets", plan.offsets, k.shape[0], plan.max_len)
    run = compiled.attention_forward if compiled.usable(q) else eager.attention_forward
    return run(q, k, v, plan, save=save)


def _forward_cuda(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    from .gpu import attention as gpu

    plan, save = SoftmaxPlan(*rest[:-1]), bool(rest[-1])
    checks.offsets_values("offsets", plan.offsets, k.shape[0], plan.max_len)
    return gpu.attention_forward(q, k, v, plan, save=save)


def _forward_fake(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    lse = torch.float64 if q.dtype == torch.float64 and q.device.type == "cpu" else torch.float32
    return q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0] if rest[-1] else 0, dtype=lse)


def _backward_cpu(
    g: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if compiled.usable(q):
        return compiled.attention_backward(g, q, k, v, out, lse, SoftmaxPlan(*rest))
    return eager.attention_backward(g, q, k, v, out, SoftmaxPlan(*rest))


def _backward_cuda(
    g: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from .gpu import attention as gpu

    return gpu.attention_backward(g, q, k, v, out, lse, SoftmaxPlan(*rest))


def _backward_fake(
    g: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dbias = q.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dbias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:5])
    ctx.rest = inputs[5:-1]
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv, dbias = _backward(g, *ctx.saved_tensors, *ctx.rest)
    bias = ctx.saved_tensors[5]
    return dq, dk, dv, None if bias is None else dbias, *(None,) * 7


_backward = define(
    "attention_backward",
    f"(Tensor g, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, {_PLAN}) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=_backward_cuda,
    fake=_backward_fake,
)
_forward = define(
    "attention_forward",
    f"(Tensor q, Tensor k, Tensor v, {_PLAN}, int save) -> (Tensor, Tensor)",
    cpu=_forward_cpu,
    cuda=_forward_cuda,
    fake=_forward_fake,
    backward=_gradients,
    setup=_setup,
)


def _keeps_graph(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def check_heads(q: Tensor, q_axis: int, k: Tensor, v: Tensor) -> None:
    """Check that keys and values fit the queries, whose heads are in dimension `q_axis`."""
    for name, x in (("k", k), ("v", v)):
        checks.rank(name, x, ("total", "kv_heads", "dim"))
        checks.same_dtype(name, x, "q", q)
        checks.size(name, x, 2, q.shape[q_axis + 1], "the dim of q")
    checks.dtype("q", q)
    checks.size("v", v, 0, k.shape[0], "the values of k")
    checks.size("v", v, 1, k.shape[1], "the heads of k")
    if k.shape[1] == 0 or q.shape[q_axis] % k.shape[1]:
        raise ShapeError(f"q has {q.shape[q_axis]} heads, which k and v's {k.shape[1]} heads do not divide")


def jagged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | int | None = None,
    max_len: int | None = None,
) -> Tensor:
    """Softmax attention of every row of a jagged batch to itself (arXiv 2409.15373), without padding.

    Args:
        q: `(total, heads, dim)`: float16, bfloat16, float32, or (on the CPU) float64.
        k: `(total, kv_heads, dim)`; `kv_heads` divides `heads`, and serves that many of them each.
        v: As `k`.
        offsets: `(batch + 1,)` int32 or int64: row b holds the values `offsets[b]:offsets[b + 1]`.
        causal: A query sees its own position and earlier ones only.
        window: A query sees keys at most this far away: `i - j <= window` causal, `|i - j| <= window` else.
        scale: Multiplies the scores; `dim ** -0.5` if None.
        max_len: At least the longest row. None costs a GPU one wait for the device; the CPU needs none.

    Returns:
        `(total, heads, dim)` in the dtype of q; accumulated in float32. Differentiable in q, k and v.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError: An argument that does not fit the others.
        OffsetsError: Offsets that do not start at 0, decrease or overrun (checks.py says when values are read).
    """
    checks.rank("q", q, ("total", "heads", "dim"))
    check_heads(q, 1, k, v)
    checks.size("k", k, 0, q.shape[0], "the values of q")
    checks.offsets_form("offsets", offsets)
    checks.devices(q=q, k=k, v=v, offsets=offsets)
    if window is not None:
        checks.at_least("window", window, 0)
    left, right = band(causal=causal, window=window)
    scale = float(q.shape[2]) ** -0.5 if scale is None else float(scale)
    save = _keeps_graph(q, k, v)
    out: Tensor
    out, _ = _forward(q, k, v, None, offsets, 0, left, right, scale, -1 if max_len is None else max_len, save)
    return out


def jagged_cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float | int | None = None,
    max_len: int | None = None,
) -> Tensor:
    """Softmax attention of a dense block of queries per row over a jagged history (arXiv 2409.15373).

    Args:
        q: `(batch, queries, heads, dim)`.
        k: `(total, kv_heads, dim)`; `kv_heads` divides `heads`.
        v: As `k`.
        offsets: `(batch + 1,)` int32 or int64 into k and v.
        bias: `(batch, queries, max_len)`, added to the scores of all heads; its columns beyond a row are ignored.
        scale: Multiplies q k^T; `dim ** -0.5` if None.
        max_len: At least the longest row; the width of `bias` where there is one.

    Returns:
        `(batch, queries, heads, dim)`; zeros for rows without history. Differentiable in q, k, v and bias.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: As `jagged_attention`.
    """
    checks.rank("q", q, ("batch", "queries", "heads", "dim"))
    check_heads(q, 2, k, v)
    checks.offsets_form("offsets", offsets)
    batch, queries, heads, dim = q.shape
    checks.size("offsets", offsets, 0, batch + 1, "one more than the rows of q")
    if bias is not None:
        checks.rank("bias", bias, ("batch", "queries", "max_len"))
        checks.dtype("bias", bias)
        checks.size("bias", bias, 0, batch, "the rows of q")
        checks.size("bias", bias, 1, queries, "the queries of q")
        max_len = bias.shape[2] if max_len is None else min(max_len, bias.shape[2])
    checks.devices(q=q, k=k, v=v, offsets=offsets, bias=bias)
    scale = float(dim) ** -0.5 if scale is None else float(scale)
    save = _keeps_graph(q, k, v, bias)
    flat = q.reshape(batch * queries, heads, dim)
    longest = -1 if max_len is None else max_len
    out: Tensor
    out, _ = _forward(flat, k, v, bias, offsets, queries, FAR, FAR, scale, longest, save)
    return out.view(q.shape)
