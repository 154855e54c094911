"""Prefix attention on Triton: forward, dK and dV, dQ with the gradient of the bias table.

Tiles of queries by tiles of keys, as in `attention`; a key tile that no query sees is skipped. Scores are in base 2. The
table's gradient is added with atomics; in deterministic mode the PyTorch kernels compute it.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu.prefix import eager_backward
from ..plans import PrefixPlan
from .flash import (
    QKV,
    QKVG,
    delta,
    dense_last,
    half_octaves,
    is_wide,
    lines,
    lines_across,
    online_softmax_step,
    pairs,
    probs_and_dscores,
    row_at,
    row_bounds,
    strides,
    table_sizes,
)
from .grid import VARYING, place, programs
from .launch import Kernel, LaunchConfig, deterministic, head_sizes, launch, longest, precision


@triton.jit
@no_type_check
def _entries(q_times, Times, own, j, keys, buckets):
    """Entries of the bias table: 0 for a query's own key, else 1 + the half-octave bucket of the time gap."""
    gap = q_times[:, None] - tl.load(Times + j, mask=j < keys, other=0)[None, :]
    return tl.where(own[:, None] == j[None, :], 0, 1 + half_octaves(gap, buckets))


@triton.jit
@no_type_check
def _scores(
    q, kt, limits, own, j, keys, q_times, Times, Table, buckets, scale, TABLE: tl.constexpr, PRECISION: tl.constexpr
):
    """Base-2 scores of a tile, -inf where unseen. Table points at the head's own."""
    s = tl.dot(q, kt, input_precision=PRECISION) * (scale * 1.4426950408889634)
    seen = ((j[None, :] < limits[:, None]) | (j[None, :] == own[:, None])) & (j < keys)[None, :]
    if TABLE:
        at = Table + _entries(q_times, Times, own, j, keys, buckets)
        s += tl.load(at, mask=seen, other=0.0).to(tl.float32) * 1.4426950408889634
    return tl.where(seen, s, float("-inf"))


@triton.jit
@no_type_check
def _queries(Limits, Own, QTimes, q0, i, n, TABLE: tl.constexpr):
    """Limits, own places and times of some queries; those past the row see nothing."""
    limits = tl.load(Limits + q0 + i, mask=i < n, other=0)
    own = tl.load(Own + q0 + i, mask=i < n, other=-1)
    q_times = limits.to(tl.int64)
    if TABLE:
        q_times = tl.load(QTimes + q0 + i, mask=i < n, other=0)
    return limits, own, q_times


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def prefix_forward_kernel(
    Q, K, V, Table, Out, Lse, QOffsets, Offsets, Limits, Own, QTimes, Times,
    q_token, q_head, k_token, k_head, v_token, v_head, heads, group, q_total, buckets, step, scale, most,
    TABLE: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one row and head, over all the keys that it sees."""
    tile, head, row = place(tl.cdiv(most, BLOCK_M), heads)
    start, keys = row_bounds(Offsets, row)
    q0, n = row_bounds(QOffsets, row)
    i0 = tile * BLOCK_M
    if i0 >= n:
        return
    kv = head // group
    Q = row_at(Q, q0, q_token, head, q_head)
    K = row_at(K, start, k_token, kv, k_head)
    V = row_at(V, start, v_token, kv, v_head)
    Table += head * step
    i, d = i0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    within = (d < DIM)[None, :]
    limits, own, q_times = _queries(Limits, Own, QTimes, q0, i, n, TABLE)
    q = tl.load(lines(Q, i, q_token, d, WIDE), mask=(i < n)[:, None] & within, other=0.0)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    high = tl.minimum(keys, tl.max(tl.maximum(limits, own + 1), 0))
    for j0 in range(0, high, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        kt = tl.load(lines_across(K, j, k_token, d, WIDE), mask=(j < keys)[None, :] & (d < DIM)[:, None], other=0.0)
        s = _scores(q, kt, limits, own, j, keys, q_times, Times + start, Table, buckets, scale, TABLE, PRECISION)
        v = tl.load(lines(V, j, v_token, d, WIDE), mask=(j < keys)[:, None] & within, other=0.0)
        top, total, acc = online_softmax_step(s, v, top, total, acc, PRECISION)
    total = tl.where(total == 0.0, 1.0, total)
    at = lines((q0 * heads + head) * DIM, i, heads * DIM, d, WIDE)
    tl.store(Out + at, (acc / total[:, None]).to(Out.dtype.element_ty), mask=(i < n)[:, None] & within)
    tl.store(Lse + head.to(tl.int64) * q_total + q0 + i, (top + tl.log2(total)) * 0.6931471805599453, mask=i < n)


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def prefix_dkdv_kernel(
    Q, K, V, G, Table, Lse, Delta, DK, DV, QOffsets, Offsets, Limits, Own, QTimes, Times,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, group, q_total, buckets, step, scale, most,
    TABLE: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DK and dV of one tile of keys: over the query heads that share them and the queries that see them."""
    tile, kv, row = place(tl.cdiv(most, BLOCK_N), heads // group)
    start, keys = row_bounds(Offsets, row)
    q0, n = row_bounds(QOffsets, row)
    j0 = tile * BLOCK_N
    if j0 >= keys:
        return
    K = row_at(K, start, k_token, kv, k_head)
    V = row_at(V, start, v_token, kv, v_head)
    j, d = j0 + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    held = (j < keys)[:, None] & (d < DIM)[None, :]
    k = tl.load(lines(K, j, k_token, d, WIDE), mask=held, other=0.0)
    v = tl.load(lines(V, j, v_token, d, WIDE), mask=held, other=0.0)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for head in range(kv * group, (kv + 1) * group):
        q_at = row_at(Q, q0, q_token, head, q_head)
        g_at = row_at(G, q0, g_token, head, g_head)
        line = tl.cast(head, tl.int64) * q_total + q0
        for i0 in range(0, n, BLOCK_M):
            i = i0 + tl.arange(0, BLOCK_M)
            limits, own, q_times = _queries(Limits, Own, QTimes, q0, i, n, TABLE)
            mine = (own >= j0) & (own < j0 + BLOCK_N)
            if tl.max(tl.where(mine, j0 + 1, limits), 0) > j0:
                mask = (i < n)[:, None] & (d < DIM)[None, :]
                q = tl.load(lines(q_at, i, q_token, d, WIDE), mask=mask, other=0.0)
                g = tl.load(lines(g_at, i, g_token, d, WIDE), mask=mask, other=0.0)
                lse = tl.load(Lse + line + i, mask=i < n, other=0.0) * 1.4426950408889634
                delta = tl.load(Delta + line + i, mask=i < n, other=0.0)
                s = _scores(
                    q, tl.trans(k), limits, own, j, keys, q_times, Times + start, Table + head * step, buckets, scale,
                    TABLE, PRECISION,
                )  # fmt: skip
                p, ds = probs_and_dscores(g, v, s, lse, delta, PRECISION)
                dv = tl.dot(tl.trans(p.to(g.dtype)), g, dv, input_precision=PRECISION)
                dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    kv_heads = heads // group
    out = lines((start * kv_heads + kv) * DIM, j, kv_heads * DIM, d, WIDE)
    tl.store(DK + out, (dk * scale).to(DK.dtype.element_ty), mask=held)
    tl.store(DV + out, dv.to(DV.dtype.element_ty), mask=held)


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def prefix_dq_kernel(
    Q, K, V, G, Table, Lse, Delta, DQ, DTable, QOffsets, Offsets, Limits, Own, QTimes, Times,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, group, q_total, buckets, step, scale, most,
    TABLE: tl.constexpr, ADDS: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DQ of one tile of queries, and with ADDS its part of the table's gradient."""
    tile, head, row = place(tl.cdiv(most, BLOCK_M), heads)
    start, keys = row_bounds(Offsets, row)
    q0, n = row_bounds(QOffsets, row)
    i0 = tile * BLOCK_M
    if i0 >= n:
        return
    kv = head // group
    Q = row_at(Q, q0, q_token, head, q_head)
    G = row_at(G, q0, g_token, head, g_head)
    K = row_at(K, start, k_token, kv, k_head)
    V = row_at(V, start, v_token, kv, v_head)
    Table += head * step
    i, d = i0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    mask = (i < n)[:, None] & (d < DIM)[None, :]
    limits, own, q_times = _queries(Limits, Own, QTimes, q0, i, n, TABLE)
    q = tl.load(lines(Q, i, q_token, d, WIDE), mask=mask, other=0.0)
    g = tl.load(lines(G, i, g_token, d, WIDE), mask=mask, other=0.0)
    line = head.to(tl.int64) * q_total + q0 + i
    lse = tl.load(Lse + line, mask=i < n, other=0.0) * 1.4426950408889634
    delta = tl.load(Delta + line, mask=i < n, other=0.0)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    high = tl.minimum(keys, tl.max(tl.maximum(limits, own + 1), 0))
    for j0 in range(0, high, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        held = (j < keys)[:, None] & (d < DIM)[None, :]
        k = tl.load(lines(K, j, k_token, d, WIDE), mask=held, other=0.0)
        v = tl.load(lines(V, j, v_token, d, WIDE), mask=held, other=0.0)
        s = _scores(
            q, tl.trans(k), limits, own, j, keys, q_times, Times + start, Table, buckets, scale, TABLE, PRECISION
        )
        _, ds = probs_and_dscores(g, v, s, lse, delta, PRECISION)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
        if ADDS:
            at = DTable + head * step + _entries(q_times, Times + start, own, j, keys, buckets)
            tl.atomic_add(at, ds, mask=s > float("-inf"), sem="relaxed")
    at = lines((q0 * heads + head) * DIM, i, heads * DIM, d, WIDE)
    tl.store(DQ + at, (dq * scale).to(DQ.dtype.element_ty), mask=mask)


def _forward_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    if vendor == "hip":
        return pairs((64, 32, 4, 1)) if dim <= 128 else pairs((32, 32, 4, 1))
    if dim <= 32:  # at dim 64 the taller tile spills with a table
        return pairs((64, 32, 4, 2), (32, 32, 4, 2))
    return pairs((32, 32, 4, 2)) if dim <= 128 else pairs((32, 32, 8, 1))


def _dkdv_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    return pairs((32, 32, 4 if vendor == "hip" or dim <= 128 else 8, 1))


def _dq_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    return pairs((32, 32, 4, 1)) if vendor == "hip" or dim <= 128 else pairs((16, 32, 8, 1))


_PLACES = {"QOffsets": "*i64", "Offsets": "*i64", "Limits": "*i32", "Own": "*i32", "QTimes": "*i64", "Times": "*i64"}
_COUNTS = dict.fromkeys(("heads", "group", "q_total", "buckets", "step"), "i32") | {"scale": "fp32", "most": "i32"}
_SAVED = {"Q": "*T", "K": "*T", "V": "*T", "G": "*T", "Table": "*T", "Lse": "*fp32", "Delta": "*fp32"}
_FLAGS = ({"TABLE": False, "PRECISION": "ieee", "WIDE": False}, {"TABLE": True, "PRECISION": "ieee", "WIDE": False})

FORWARD = Kernel(
    prefix_forward_kernel,
    {"Q": "*T", "K": "*T", "V": "*T", "Table": "*T", "Out": "*T", "Lse": "*fp32"} | _PLACES | QKV | _COUNTS,
    _FLAGS,
    _forward_configs,
    head_sizes,
)
DKDV = Kernel(
    prefix_dkdv_kernel,
    _SAVED | {"DK": "*T", "DV": "*T"} | _PLACES | QKVG | _COUNTS,
    _FLAGS,
    _dkdv_configs,
    head_sizes,
)
DQ = Kernel(
    prefix_dq_kernel,
    _SAVED | {"DQ": "*T", "DTable": "*fp32"} | _PLACES | QKVG | _COUNTS,
    (_FLAGS[0] | {"ADDS": False}, _FLAGS[1] | {"ADDS": False}, _FLAGS[1] | {"ADDS": True}),
    _dq_configs,
    head_sizes,
)
KERNELS = (FORWARD, DKDV, DQ)


class _PrefixLaunch:
    """Common parts of the launches: arguments in order, flags, and the sizes of the grids."""

    def __init__(self, tensors: tuple[Tensor, ...], plan: PrefixPlan) -> None:
        q, k = tensors[:2]
        ends = [x.long() for x in (plan.q_offsets, plan.offsets)]
        places = [x.int() for x in (plan.limits, plan.own)]
        times = [None if x is None else x.long() for x in (plan.q_times, plan.times)]
        self.most = [longest(x, plan.max_len) for x in ends]
        self.batch, self.heads, self.kv_heads = ends[0].shape[0] - 1, q.shape[1], k.shape[1]
        entries, step = table_sizes(plan.table)
        counts = (self.heads, self.heads // self.kv_heads, q.shape[0], entries - 1, step, plan.scale)
        self.rest = (*ends, *places, *times, *strides(*tensors), *counts)
        self.table = None if plan.table is None else plan.table.contiguous()
        self.form: dict[str, Any] = {
            "dim": q.shape[2], "like": q, "rows": max(self.most), "TABLE": plan.table is not None,
            "PRECISION": precision(q.dtype), "WIDE": is_wide(*tensors),
        }  # fmt: skip

    def over_queries(self, kernel: Kernel, tensors: tuple[Tensor | None, ...], **form: bool) -> None:
        """Launch over (tiles of queries, heads, rows)."""
        launch(
            kernel, lambda t: programs(triton.cdiv(self.most[0], t["BLOCK_M"]), self.heads, self.batch),
            (*tensors, *self.rest, self.most[0]), **(self.form | form),
        )  # fmt: skip

    def over_keys(self, kernel: Kernel, tensors: tuple[Tensor | None, ...]) -> None:
        """Launch over (tiles of keys, key-value heads, rows)."""
        launch(
            kernel, lambda t: programs(triton.cdiv(self.most[1], t["BLOCK_N"]), self.kv_heads, self.batch),
            (*tensors, *self.rest, self.most[1]), **self.form,
        )  # fmt: skip


def forward(q: Tensor, k: Tensor, v: Tensor, plan: PrefixPlan) -> tuple[Tensor, Tensor]:
    """As `cpu.prefix.eager_forward`."""
    q, k, v = dense_last(q, k, v)
    out, lse = torch.empty(q.shape, dtype=q.dtype, device=q.device), q.new_empty(q.shape[1::-1], dtype=torch.float32)
    call = _PrefixLaunch((q, k, v), plan)
    if q.shape[0] and call.most[0]:
        call.over_queries(FORWARD, (q, k, v, call.table, out, lse))
    return out, lse


def backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: PrefixPlan
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `cpu.prefix.eager_backward`, with what the forward pass saved."""
    q, k, v, g = dense_last(q, k, v, g)
    table = plan.table
    dq, dk, dv = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    dtable = q.new_zeros(0) if table is None else torch.zeros(table.shape, dtype=torch.float32, device=q.device)
    call = _PrefixLaunch((q, k, v, g), plan)
    adds = table is not None and not deterministic()
    if q.shape[0] and min(call.most):
        saved = (q, k, v, g, call.table, lse, delta(g, out))
        call.over_keys(DKDV, (*saved, dk, dv))
        call.over_queries(DQ, (*saved, dq, dtable), ADDS=adds, repeatable=not adds)
    if table is not None and not adds:
        return dq, dk, dv, eager_backward(g, q, k, v, out, plan)[3]
    return dq, dk, dv, dtable if table is None else dtable.to(table.dtype)
