"""HSTU attention: SiLU in place of softmax, with the masks of ULTRA-HSTU and relative bias tables.

HSTU is arXiv 2402.17152, ULTRA-HSTU arXiv 2602.16986; docs/kernels.md draws the masks.
"""

from typing import Any

from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .errors import ArgumentError, ShapeError
from .masks import FAR, HstuMask
from .plans import HstuPlan
from .registry import define

_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor offsets, Tensor? targets, Tensor? timestamps, Tensor? position, Tensor? time, "
    "float scale, float norm, int[] mask, SymInt max_len"
)


def _check_values(k: Tensor, plan: HstuPlan) -> None:
    checks.offsets_values("offsets", plan.offsets, k.shape[0], plan.max_len)
    if plan.targets is not None:
        checks.row_counts("num_targets", plan.targets, plan.offsets)


def _forward_cpu(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    plan = HstuPlan.of(*rest)
    _check_values(k, plan)
    run = compiled.hstu_forward if compiled.usable(q) else eager.hstu_forward
    return run(q, k, v, plan)


def _forward_cuda(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    from .gpu import hstu as gpu

    plan = HstuPlan.of(*rest)
    _check_values(k, plan)
    return gpu.hstu_forward(q, k, v, plan)


def _forward_fake(q: Tensor, *rest: Any) -> Tensor:
    return q.new_empty(q.shape)


def _backward_cpu(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    run = compiled.hstu_backward if compiled.usable(q) else eager.hstu_backward
    return run(g, q, k, v, HstuPlan.of(*rest))


def _backward_cuda(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from .gpu import hstu as gpu

    return gpu.hstu_backward(g, q, k, v, HstuPlan.of(*rest))


def _backward_fake(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dposition, dtime = (q.new_empty(0) if t is None else t.new_empty(t.shape) for t in rest[3:5])
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dposition, dtime


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.rest = inputs[8:]


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    *_, position, time = ctx.saved_tensors
    dq, dk, dv, dposition, dtime = _backward(g, *ctx.saved_tensors, *ctx.rest)
    tables = (None if position is None else dposition, None if time is None else dtime)
    return dq, dk, dv, None, None, None, *tables, *(None,) * 4


_backward = define(
    "hstu_backward",
    f"(Tensor g, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=_backward_cuda,
    fake=_backward_fake,
)
_forward = define(
    "hstu_forward",
    f"({_INPUTS}) -> Tensor",
    cpu=_forward_cpu,
    cuda=_forward_cuda,
    fake=_forward_fake,
    backward=_gradients,
    setup=_setup,
)


def _check_tables(q: Tensor, timestamps: Tensor | None, position: Tensor | None, time: Tensor | None) -> None:
    for name, table in (("position_bias", position), ("time_bias", time)):
        if table is None:
            continue
        checks.dtype(name, table)
        if (
            table.dim() not in (1, 2)
            or table.shape[-1] == 0
            or (table.dim() == 2 and table.shape[0] not in (1, q.shape[1]))
        ):
            expected = f"(size,) for all heads, or ({q.shape[1]}, size)"
            raise ShapeError(f"{name} has shape {tuple(table.shape)}; expected {expected}")
    if time is not None and timestamps is None:
        raise ArgumentError("time_bias is given without timestamps; pass the timestamps of the values")
    if timestamps is not None:
        checks.dtype("timestamps", timestamps, checks.INTS)
        checks.rank("timestamps", timestamps, ("total",))
        checks.size("timestamps", timestamps, 0, q.shape[0], "the values of q")


def _table(table: Tensor | None) -> Tensor | None:
    return table[None] if table is not None and table.dim() == 1 else table


def hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    norm: float | int,
    scale: float | int | None = None,
    max_len: int | None = None,
    num_targets: Tensor | None = None,
    local: int | None = None,
    tail: int | None = None,
    prefix: int | None = None,
    contextual: int = 0,
    target_local: bool = False,
    timestamps: Tensor | None = None,
    position_bias: Tensor | None = None,
    time_bias: Tensor | None = None,
) -> Tensor:
    """`silu(scale q k^T + position + time) / norm`, masked, times v, inside each row (arXiv 2402.17152, eq. 2).

    A row of length L is H = L - its num_targets of history, then its targets (candidates to be scored). History row
    i sees j <= i where `i - j <= local`, or `i >= H - tail` (the last rows see everything), or `j < prefix` (all
    rows see the first keys). Targets see all history and themselves, never each other. Empty tiles of this mask
    are not computed: the cost grows as (local + tail) x L.

    The tail form leaks how long the row is: use it to score targets only, never under losses at every position.

    Args:
        q: `(total, heads, dim)`.
        k: As `q`.
        v: As `q`.
        offsets: `(batch + 1,)` int32 or int64.
        norm: What the weights are divided by: a fixed maximum length, the same in training and serving.
        scale: Multiplies q k^T; `dim ** -0.5` if None (1 in the research code, `1 / dim` in ULTRA).
        max_len: At least the longest row; None costs a GPU one wait for the device.
        num_targets: `(batch,)` integers: how many values at the end of each row are targets; None: none.
        local: How far back history rows see; None: no limit, and `tail` and `prefix` have no effect.
        tail: Number of last history rows that see everything.
        prefix: Number of first keys that all rows see.
        contextual: Number of first rows that see each other fully, and that every row sees.
        target_local: Limit targets to the last `local` keys of history (and the prefix) where there is no tail.
        timestamps: `(total,)` integers, any unit; needed by `time_bias`.
        position_bias: `(positions,)` or `(heads, positions)`: the bias at distance i - j, clamped into the table.
        time_bias: `(buckets,)` or `(heads, buckets)`: the bias at the half-octave bucket of |t_i - t_j|, clamped.

    Returns:
        `(total, heads, dim)` in the dtype of q; differentiable in q, k, v and both tables.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError: An argument that does not fit the others.
        OffsetsError: Bad offsets, or more targets than a row holds.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        checks.rank(name, x, ("total", "heads", "dim"))
        checks.same_dtype(name, x, "q", q)
        for axis, meaning in enumerate(("the values of q", "the heads of q", "the dim of q")):
            checks.size(name, x, axis, q.shape[axis], meaning)
    checks.dtype("q", q)
    checks.offsets_form("offsets", offsets)
    if num_targets is not None:
        checks.dtype("num_targets", num_targets, checks.INTS)
        checks.rank("num_targets", num_targets, ("batch",))
        checks.size("num_targets", num_targets, 0, offsets.shape[0] - 1, "one a row")
    _check_tables(q, timestamps, position_bias, time_bias)
    checks.devices(
        q=q,
        k=k,
        v=v,
        offsets=offsets,
        num_targets=num_targets,
        timestamps=timestamps,
        position_bias=position_bias,
        time_bias=time_bias,
    )
    for name, value in (("local", local), ("tail", tail), ("prefix", prefix), ("contextual", contextual)):
        checks.at_least(name, value or 0, 0)
    if norm <= 0:
        raise ArgumentError(f"norm is {norm}; expected a positive number, such as the maximum length")
    if max_len is not None:
        checks.at_least("max_len", max_len, 0)
    mask = HstuMask(
        FAR if local is None else local, tail or 0, prefix or 0, contextual, int(target_local and local is not None)
    )
    scale = float(q.shape[2]) ** -0.5 if scale is None else float(scale)
    times = timestamps if time_bias is not None else None
    tables = (_table(position_bias), _table(time_bias))
    longest = -1 if max_len is None else max_len
    out: Tensor = _forward(q, k, v, offsets, num_targets, times, *tables, scale, float(norm), list(mask), longest)
    return out
