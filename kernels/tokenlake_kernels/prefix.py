"""Softmax attention of jagged queries to a prefix of their row, and to one key of their own.

With it, events of one user with the same timestamp do not see each other: a row's keys ascend in time, and a query sees
the strictly earlier keys and itself. A causal mask cannot express that, since a query's limit differs from its position.
"""

from typing import Any

import torch
from torch import Tensor

from . import checks
from .attention import check_heads
from .cpu import compiled
from .cpu import prefix as cpu
from .errors import ArgumentError, ShapeError
from .plans import PrefixPlan
from .registry import define

_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? table, Tensor q_offsets, Tensor offsets, Tensor limits, Tensor own, "
    "Tensor? q_times, Tensor? times, float scale, SymInt max_len"
)


def _check_values(plan: PrefixPlan, queries: int, keys: int) -> None:
    checks.offsets_values("offsets", plan.offsets, keys, plan.max_len)
    checks.offsets_values("q_offsets", plan.q_offsets, queries, plan.max_len)
    checks.places_in_rows("limits", plan.limits, plan.q_offsets, plan.offsets, last=0)
    checks.places_in_rows("own", plan.own, plan.q_offsets, plan.offsets, last=-1)


def _forward_cpu(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    plan = PrefixPlan(*rest)
    _check_values(plan, q.shape[0], k.shape[0])
    run = cpu.compiled_forward if compiled.usable(q) else cpu.eager_forward
    return run(q, k, v, plan)


def _forward_cuda(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    from .gpu import prefix as gpu

    plan = PrefixPlan(*rest)
    _check_values(plan, q.shape[0], k.shape[0])
    return gpu.forward(q, k, v, plan)


def _forward_fake(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    lse = torch.float64 if q.dtype == torch.float64 and q.device.type == "cpu" else torch.float32
    return q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=lse)


def _backward_cpu(
    g: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if compiled.usable(q):
        return cpu.compiled_backward(g, q, k, v, out, lse, PrefixPlan(*rest))
    return cpu.eager_backward(g, q, k, v, out, PrefixPlan(*rest))


def _backward_cuda(
    g: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from .gpu import prefix as gpu

    return gpu.backward(g, q, k, v, out, lse, PrefixPlan(*rest))


def _backward_fake(
    g: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtable = q.new_empty(0) if table is None else table.new_empty(table.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dtable


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:10])
    ctx.rest = inputs[10:]
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv, dtable = _backward(g, *ctx.saved_tensors, *ctx.rest)
    return dq, dk, dv, None if ctx.saved_tensors[5] is None else dtable, *(None,) * 8


_backward = define(
    "prefix_backward",
    f"(Tensor g, Tensor out, Tensor lse, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=_backward_cuda,
    fake=_backward_fake,
)
_forward = define(
    "prefix_forward",
    f"({_INPUTS}) -> (Tensor, Tensor)",
    cpu=_forward_cpu,
    cuda=_forward_cuda,
    fake=_forward_fake,
    backward=_gradients,
    setup=_setup,
)


def _check_places(q: Tensor, k: Tensor, **places: Tensor | None) -> None:
    for name, x in places.items():
        if x is not None:
            axis, like, meaning = (
                ("total", k, "the values of k") if name == "timestamps" else ("queries", q, "one a query")
            )
            checks.dtype(name, x, checks.INTS)
            checks.rank(name, x, (axis,))
            checks.size(name, x, 0, like.shape[0], meaning)


def _check_bias(q: Tensor, time_bias: Tensor) -> None:
    checks.dtype("time_bias", time_bias)
    heads = time_bias.shape[0] if time_bias.dim() == 2 else 1
    if time_bias.dim() not in (1, 2) or time_bias.shape[-1] < 2 or heads not in (1, q.shape[1]):
        expected = f"(1 + buckets,) for all heads, or ({q.shape[1]}, 1 + buckets)"
        raise ShapeError(f"time_bias has shape {tuple(time_bias.shape)}; expected {expected}")


def jagged_prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    limits: Tensor,
    own: Tensor,
    *,
    q_offsets: Tensor | None = None,
    scale: float | int | None = None,
    max_len: int | None = None,
    q_timestamps: Tensor | None = None,
    timestamps: Tensor | None = None,
    time_bias: Tensor | None = None,
) -> Tensor:
    """Softmax attention of each query to the first `limits` keys of its row and to its own key.

    With keys that ascend in time and limits that count the strictly earlier ones, a query sees the past and itself,
    and rows of a tie do not see each other: the mask of SIT (IAT, arXiv 2604.08933). Keys that only their own query
    may read are at the end of a row, beyond all limits.

    Args:
        q: `(queries, heads, dim)`: all values of the rows, or, with `q_offsets`, any number a row.
        k: `(total, kv_heads, dim)`; `kv_heads` divides `heads`.
        v: As `k`.
        offsets: `(batch + 1,)` int32 or int64 into k and v.
        limits: `(queries,)` integers, 0 to the length of the row.
        own: `(queries,)` integers: position in its row of the key that a query always sees.
        q_offsets: `(batch + 1,)` into q; None: `offsets`.
        scale: Multiplies the scores; `dim ** -0.5` if None.
        max_len: At least the longest row, of keys and of queries. None costs a GPU one wait for the device.
        q_timestamps: `(queries,)` integers, any unit; None: `timestamps`, where q has as many values as k.
        timestamps: `(total,)` integers, when the keys happened; needed by `time_bias`.
        time_bias: `(1 + buckets,)` or `(heads, 1 + buckets)`: entry 0 is added to the score of a query's own key, entry
            1 + b to the others', b the half-octave bucket of `|t_query - t_key|`, clamped into the table.

    Returns:
        `(queries, heads, dim)` in the dtype of q; differentiable in q, k, v and time_bias.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError: An argument that does not fit the others.
        OffsetsError: Bad offsets, or a limit or own place outside its row.
    """
    checks.rank("q", q, ("queries", "heads", "dim"))
    check_heads(q, 1, k, v)
    checks.offsets_form("offsets", offsets)
    q_ends = offsets if q_offsets is None else q_offsets
    checks.offsets_form("q_offsets", q_ends)
    checks.size("q_offsets", q_ends, 0, offsets.shape[0], "as many as offsets")
    q_times = timestamps if q_timestamps is None else q_timestamps
    _check_places(q, k, limits=limits, own=own, timestamps=timestamps, q_timestamps=q_times)
    if time_bias is not None:
        _check_bias(q, time_bias)
        if timestamps is None:
            raise ArgumentError("time_bias is given without timestamps; pass the timestamps of the keys")
    checks.devices(
        q=q, k=k, v=v, offsets=offsets, q_offsets=q_ends, limits=limits, own=own, timestamps=timestamps,
        q_timestamps=q_times, time_bias=time_bias,
    )  # fmt: skip
    table = time_bias[None] if time_bias is not None and time_bias.dim() == 1 else time_bias
    given = (None, None) if table is None else (q_times, timestamps)
    scale = float(q.shape[2]) ** -0.5 if scale is None else float(scale)
    out: Tensor
    out, _ = _forward(q, k, v, table, q_ends, offsets, limits, own, *given, scale, -1 if max_len is None else max_len)
    return out
