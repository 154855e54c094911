"""HSTU attention on Triton: forward, dK and dV, dQ with the gradients of the bias tables.

Only tiles inside the mask are computed. A tile of queries visits at most three runs of key tiles: the sink (prefix and
contextual rows), the band before it, and for targets their own diagonal; a tile of keys visits at most two runs of query
tiles. The runs are counted first and visited in one loop, so the cost grows with the number of visible pairs.
"""

import itertools
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu import eager
from ..plans import HstuPlan
from .flash import QKV, QKVG, dense_last, half_octaves, is_wide, lines, pairs, row_at, row_bounds, strides, table_sizes
from .grid import VARYING, place, programs
from .launch import Kernel, LaunchConfig, deterministic, head_sizes, launch, longest, precision


@triton.jit
@no_type_check
def _seen(i, j, length, history, first, local, tail, prefix, target_local):
    """The mask of `masks.Hstu` on a tile: i down, j across."""
    near = (i - j <= local) | (i >= history - tail) | (j < prefix)
    past = (i < history) & (j <= i) & near
    ahead = (target_local == 0) | (tail > 0) | (history - j <= local) | (j < prefix)
    target = (i >= history) & (((j < history) & ahead) | (i == j))
    return (past | target | (j < first)) & (i < length) & (j < length)


@triton.jit
@no_type_check
def _key_runs(
    i0, length, history, first, local, tail, prefix, target_local, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """For a tile of queries: the ends of its runs of key tiles, as (sink, band start, band end, own start, own end)."""
    i1 = tl.minimum(i0 + BLOCK_M, length)
    sink = tl.cdiv(tl.maximum(tl.minimum(prefix, i1), first), BLOCK_N)
    if i0 >= history:
        low = tl.where((target_local != 0) & (tail == 0), tl.maximum(history - local, 0), 0)
        band_start = tl.maximum(sink, low // BLOCK_N)
        band_end = tl.maximum(band_start, tl.cdiv(history, BLOCK_N))
        own_start = tl.maximum(band_end, i0 // BLOCK_N)
        own_end = tl.maximum(own_start, tl.cdiv(i1, BLOCK_N))
    else:
        whole = (i1 > history) | (i1 > history - tail)
        low = tl.where(whole, 0, tl.maximum(i0 - local, 0))
        band_start = tl.maximum(sink, low // BLOCK_N)
        band_end = tl.maximum(band_start, tl.cdiv(i1, BLOCK_N))
        own_start = band_end
        own_end = band_end
    return sink, band_start, band_end, own_start, own_end


@triton.jit
@no_type_check
def _run_tile(t, first_end, second_start, second_end, third_start):
    """The t-th tile of three runs: 0..first_end, second_start..second_end, third_start.."""
    second = t - first_end
    third = second - (second_end - second_start)
    return tl.where(t < first_end, t, tl.where(third < 0, second_start + second, third_start + third))


@triton.jit
@no_type_check
def _buckets(times, i, j, length, size):
    """Half-octave buckets of |t_i - t_j|."""
    ti = tl.load(times + i, mask=i < length, other=0)
    tj = tl.load(times + j, mask=j < length, other=0)
    gap = ti[:, None] - tj[None, :]
    return half_octaves(gap, size)


@triton.jit
@no_type_check
def _positions(i, j, size):
    return tl.minimum(tl.maximum(i[:, None] - j[None, :], 0), size - 1)


@triton.jit
@no_type_check
def _scores(
    q, k, i, j, length, seen, Times, Position, Time, position_size, time_size, scale,
    POSITION: tl.constexpr, TIME: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores of a tile with their biases. Times points at the row's own, Position and Time at the head's."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if POSITION:
        s += tl.load(Position + _positions(i, j, position_size), mask=seen, other=0.0).to(tl.float32)
    if TIME:
        s += tl.load(Time + _buckets(Times, i, j, length, time_size), mask=seen, other=0.0).to(tl.float32)
    return s


@triton.jit
@no_type_check
def _history(Targets, row, length, contextual, TARGETS: tl.constexpr):
    """Number of values of a row before its targets, and number of contextual values among them."""
    history = length
    if TARGETS:
        history -= tl.load(Targets + row).to(tl.int32)
    return history, tl.minimum(contextual, history)


@triton.jit
@no_type_check
def _slopes(g, v, s, gate, seen, PRECISION: tl.constexpr):
    """The gradient of a tile's scores, before norm; gate is their sigmoid."""
    slope = tl.where(seen, gate * (1 + s * (1 - gate)), 0.0)
    return tl.dot(g, tl.trans(v), input_precision=PRECISION) * slope


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def hstu_forward_kernel(
    Q, K, V, Out, Offsets, Targets, Times, Position, Time,
    q_token, q_head, k_token, k_head, v_token, v_head, heads, position_size, position_step, time_size, time_step,
    local, tail, prefix, contextual, target_local, scale, inverse_norm, most,
    TARGETS: tl.constexpr, POSITION: tl.constexpr, TIME: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one row and head, over the key tiles inside its mask."""
    tile, head, row = place(tl.cdiv(most, BLOCK_M), heads)
    start, length = row_bounds(Offsets, row)
    i0 = tile * BLOCK_M
    if i0 >= length:
        return
    history, first = _history(Targets, row, length, contextual, TARGETS)
    Q = row_at(Q, start, q_token, head, q_head)
    K = row_at(K, start, k_token, head, k_head)
    V = row_at(V, start, v_token, head, v_head)
    i, d = i0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    mask = (i < length)[:, None] & (d < DIM)[None, :]
    q = tl.load(lines(Q, i, q_token, d, WIDE), mask=mask, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    sink, low, high, own, end = _key_runs(
        i0, length, history, first, local, tail, prefix, target_local, BLOCK_M, BLOCK_N
    )
    for t in range(sink + (high - low) + (end - own)):
        j = _run_tile(t, sink, low, high, own) * BLOCK_N + tl.arange(0, BLOCK_N)
        held = (j < length)[:, None] & (d < DIM)[None, :]
        k = tl.load(lines(K, j, k_token, d, WIDE), mask=held, other=0.0)
        v = tl.load(lines(V, j, v_token, d, WIDE), mask=held, other=0.0)
        seen = _seen(i[:, None], j[None, :], length, history, first, local, tail, prefix, target_local)
        s = _scores(
            q, k, i, j, length, seen, Times + start, Position + head * position_step, Time + head * time_step,
            position_size, time_size, scale, POSITION, TIME, PRECISION,
        )  # fmt: skip
        p = tl.where(seen, s * tl.sigmoid(s), 0.0)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    at = lines((start * heads + head) * DIM, i, heads * DIM, d, WIDE)
    tl.store(Out + at, (acc * inverse_norm).to(Out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def hstu_dkdv_kernel(
    Q, K, V, G, DK, DV, Offsets, Targets, Times, Position, Time,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, position_size, position_step, time_size, time_step,
    local, tail, prefix, contextual, target_local, scale, inverse_norm, most,
    TARGETS: tl.constexpr, POSITION: tl.constexpr, TIME: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DK and dV of one tile of keys, over the query tiles that see it."""
    tile, head, row = place(tl.cdiv(most, BLOCK_N), heads)
    start, length = row_bounds(Offsets, row)
    j0 = tile * BLOCK_N
    if j0 >= length:
        return
    history, first = _history(Targets, row, length, contextual, TARGETS)
    Q = row_at(Q, start, q_token, head, q_head)
    K = row_at(K, start, k_token, head, k_head)
    V = row_at(V, start, v_token, head, v_head)
    G = row_at(G, start, g_token, head, g_head)
    j, d = j0 + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    held = (j < length)[:, None] & (d < DIM)[None, :]
    k = tl.load(lines(K, j, k_token, d, WIDE), mask=held, other=0.0)
    v = tl.load(lines(V, j, v_token, d, WIDE), mask=held, other=0.0)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    # Queries that see these keys: all later ones for a sink; else the band, then the tail and the targets.
    j1 = tl.minimum(j0 + BLOCK_N, length)
    low = tl.where(j0 < first, 0, j0 // BLOCK_M)
    reach = tl.where(j0 < tl.maximum(prefix, first), length, tl.maximum(tl.minimum(j1 + local, history), j1))
    reach = tl.where(j0 >= history, j1, reach)
    high = tl.maximum(low, tl.cdiv(tl.minimum(reach, length), BLOCK_M))
    rest = tl.maximum(high, tl.maximum(history - tail, 0) // BLOCK_M)
    end = tl.where(j0 >= history, rest, tl.maximum(rest, tl.cdiv(length, BLOCK_M)))
    for t in range((high - low) + (end - rest)):
        i = tl.where(t < high - low, low + t, rest + t - (high - low)) * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = (i < length)[:, None] & (d < DIM)[None, :]
        q = tl.load(lines(Q, i, q_token, d, WIDE), mask=mask, other=0.0)
        g = tl.load(lines(G, i, g_token, d, WIDE), mask=mask, other=0.0)
        seen = _seen(i[:, None], j[None, :], length, history, first, local, tail, prefix, target_local)
        s = _scores(
            q, k, i, j, length, seen, Times + start, Position + head * position_step, Time + head * time_step,
            position_size, time_size, scale, POSITION, TIME, PRECISION,
        )  # fmt: skip
        gate = tl.sigmoid(s)
        p = tl.where(seen, s * gate, 0.0)
        dv = tl.dot(tl.trans(p.to(g.dtype)), g, dv, input_precision=PRECISION)
        ds = _slopes(g, v, s, gate, seen, PRECISION)
        dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    at = lines((start * heads + head) * DIM, j, heads * DIM, d, WIDE)
    tl.store(DK + at, (dk * (scale * inverse_norm)).to(DK.dtype.element_ty), mask=held)
    tl.store(DV + at, (dv * inverse_norm).to(DV.dtype.element_ty), mask=held)


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def hstu_dq_kernel(
    Q, K, V, G, DQ, DPosition, DTime, Offsets, Targets, Times, Position, Time,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, position_size, position_step, time_size, time_step,
    local, tail, prefix, contextual, target_local, scale, inverse_norm, most,
    TARGETS: tl.constexpr, POSITION: tl.constexpr, TIME: tl.constexpr, TABLES: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DQ of one tile of queries; with TABLES it also adds dS into the gradients of the bias tables."""
    tile, head, row = place(tl.cdiv(most, BLOCK_M), heads)
    start, length = row_bounds(Offsets, row)
    i0 = tile * BLOCK_M
    if i0 >= length:
        return
    history, first = _history(Targets, row, length, contextual, TARGETS)
    Q = row_at(Q, start, q_token, head, q_head)
    K = row_at(K, start, k_token, head, k_head)
    V = row_at(V, start, v_token, head, v_head)
    G = row_at(G, start, g_token, head, g_head)
    i, d = i0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    mask = (i < length)[:, None] & (d < DIM)[None, :]
    q = tl.load(lines(Q, i, q_token, d, WIDE), mask=mask, other=0.0)
    g = tl.load(lines(G, i, g_token, d, WIDE), mask=mask, other=0.0)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    sink, low, high, own, end = _key_runs(
        i0, length, history, first, local, tail, prefix, target_local, BLOCK_M, BLOCK_N
    )
    for t in range(sink + (high - low) + (end - own)):
        j = _run_tile(t, sink, low, high, own) * BLOCK_N + tl.arange(0, BLOCK_N)
        held = (j < length)[:, None] & (d < DIM)[None, :]
        k = tl.load(lines(K, j, k_token, d, WIDE), mask=held, other=0.0)
        v = tl.load(lines(V, j, v_token, d, WIDE), mask=held, other=0.0)
        seen = _seen(i[:, None], j[None, :], length, history, first, local, tail, prefix, target_local)
        s = _scores(
            q, k, i, j, length, seen, Times + start, Position + head * position_step, Time + head * time_step,
            position_size, time_size, scale, POSITION, TIME, PRECISION,
        )  # fmt: skip
        ds = _slopes(g, v, s, tl.sigmoid(s), seen, PRECISION)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
        if TABLES:
            if POSITION:
                at = DPosition + head * position_step + _positions(i, j, position_size)
                tl.atomic_add(at, ds * inverse_norm, mask=seen, sem="relaxed")
            if TIME:
                at = DTime + head * time_step + _buckets(Times + start, i, j, length, time_size)
                tl.atomic_add(at, ds * inverse_norm, mask=seen, sem="relaxed")
    at = lines((start * heads + head) * DIM, i, heads * DIM, d, WIDE)
    tl.store(DQ + at, (dq * (scale * inverse_norm)).to(DQ.dtype.element_ty), mask=mask)


def _forward_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    if vendor == "hip":  # the taller tile leaves scalars of one form in scratch at dim 64
        return pairs((32, 32, 4, 1)) if 32 < dim <= 64 else pairs((64, 32, 4, 1))
    if dim <= 32:
        return pairs((64, 32, 4, 2), (64, 64, 8, 2))
    if dim <= 64:
        return pairs((32, 64, 4, 2), (64, 32, 4, 2))
    return pairs((32, 64, 4, 2)) if dim <= 128 else pairs((32, 32, 8, 1))


def _dkdv_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    if dim > 128:
        return pairs((16, 32, 8, 1)) if vendor == "cuda" else pairs((32, 32, 4, 1))
    if vendor == "cuda" and dim > 64:
        return pairs((32, 32, 4, 1))
    if vendor == "cuda" and dim <= 32:
        return pairs((64, 32, 4, 1), (32, 64, 4, 1))
    return pairs((64, 32, 4, 1), (32, 32, 4, 1))


def _dq_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    if vendor == "cuda":
        return pairs((32, 64, 8, 1), (32, 32, 4, 1)) if dim <= 128 else pairs((16, 32, 4, 1))
    return pairs((64, 32, 4, 1)) if dim <= 128 else pairs((32, 32, 4, 1))


_FLAGS = tuple(
    dict(zip(("TARGETS", "POSITION", "TIME"), form, strict=True)) | {"PRECISION": "ieee", "WIDE": False}
    for form in itertools.product((False, True), repeat=3)
)
_TABLE_FLAGS = tuple(
    form | {"TABLES": adds}
    for form in _FLAGS
    for adds in ((False, True) if form["POSITION"] or form["TIME"] else (False,))
)
_ROWS = {"Offsets": "*i64", "Targets": "*i64", "Times": "*i64", "Position": "*T", "Time": "*T"}
_COUNTS = dict.fromkeys(
    (
        "heads",
        "position_size",
        "position_step",
        "time_size",
        "time_step",
        "local",
        "tail",
        "prefix",
        "contextual",
        "target_local",
    ),
    "i32",
) | {"scale": "fp32", "inverse_norm": "fp32", "most": "i32"}
_IN = {"Q": "*T", "K": "*T", "V": "*T"}

FORWARD = Kernel(hstu_forward_kernel, _IN | {"Out": "*T"} | _ROWS | QKV | _COUNTS, _FLAGS, _forward_configs, head_sizes)
DKDV = Kernel(
    hstu_dkdv_kernel,
    _IN | {"G": "*T", "DK": "*T", "DV": "*T"} | _ROWS | QKVG | _COUNTS,
    _FLAGS,
    _dkdv_configs,
    head_sizes,
)
DQ = Kernel(
    hstu_dq_kernel,
    _IN | {"G": "*T", "DQ": "*T", "DPosition": "*fp32", "DTime": "*fp32"} | _ROWS | QKVG | _COUNTS,
    _TABLE_FLAGS,
    _dq_configs,
    head_sizes,
)
KERNELS = (FORWARD, DKDV, DQ)


class _HstuLaunch:
    """Common parts of the three launches: arguments in order, flags, and the size of the grid."""

    def __init__(self, tensors: tuple[Tensor, ...], plan: HstuPlan) -> None:
        q = tensors[0]
        self.like, self.heads, self.dim = q, q.shape[1], q.shape[2]
        ends = plan.offsets.long()
        self.batch, self.most = ends.shape[0] - 1, longest(ends, plan.max_len)
        rows = (None if x is None else x.long() for x in (plan.targets, plan.timestamps))
        tables = (plan.position, plan.time)
        self.rows = (ends, *rows, *(None if t is None else t.contiguous() for t in tables))
        sizes = (n for t in tables for n in table_sizes(t))
        self.numbers = (*strides(*tensors), self.heads, *sizes, *plan.mask, plan.scale, 1 / plan.norm)
        given = {"TARGETS": plan.targets, "POSITION": plan.position, "TIME": plan.time}
        self.flags = {name: x is not None for name, x in given.items()} | {
            "PRECISION": precision(q.dtype), "WIDE": is_wide(*tensors)
        }  # fmt: skip

    def run(
        self, kernel: Kernel, tensors: tuple[Tensor | None, ...], axis: str, *, repeatable: bool = True, **flags: Any
    ) -> None:
        """Launch over (tiles of `axis`, heads, rows)."""
        if not self.like.shape[0] or not self.most:
            return
        args = (*tensors, *self.rows, *self.numbers, self.most)
        launch(
            kernel, lambda t: programs(triton.cdiv(self.most, t[axis]), self.heads, self.batch), args,
            dim=self.dim, like=self.like, rows=self.most, repeatable=repeatable, **self.flags, **flags,
        )  # fmt: skip


def hstu_forward(q: Tensor, k: Tensor, v: Tensor, plan: HstuPlan) -> Tensor:
    """As `cpu.eager.hstu_forward`."""
    q, k, v = dense_last(q, k, v)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _HstuLaunch((q, k, v), plan).run(FORWARD, (q, k, v, out), "BLOCK_M")
    return out


def hstu_backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, plan: HstuPlan
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `cpu.eager.hstu_backward`, which computes the tables' gradients in deterministic mode."""
    q, k, v, g = dense_last(q, k, v, g)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    call = _HstuLaunch((q, k, v, g), plan)
    call.run(DKDV, (q, k, v, g, dk, dv), "BLOCK_N")
    given = (plan.position, plan.time)
    grads = [None if t is None else torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in given]
    adds = any(t is not None for t in given) and not deterministic()
    call.run(DQ, (q, k, v, g, dq, *grads), "BLOCK_M", repeatable=not adds, TABLES=adds)
    if any(t is not None for t in given) and not adds:
        return dq, dk, dv, *eager.hstu_backward(g, q, k, v, plan)[3:]
    dposition, dtime = (
        q.new_zeros(0) if t is None or grad is None else grad.to(t.dtype) for t, grad in zip(given, grads, strict=True)
    )
    return dq, dk, dv, dposition, dtime
