"""Softmax attention on Triton: forward, dK and dV, dQ, and the gradient of the bias.

Tiles of queries by tiles of keys, inside one row and head; tiles past the row's end or outside the band are never
visited. All scores are in base 2. Gradients are summed inside one program each, so nothing depends on timing.
"""

from collections.abc import Mapping
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..plans import SoftmaxPlan
from .flash import (
    QKV,
    QKVG,
    delta,
    dense_last,
    is_wide,
    lines,
    lines_across,
    online_softmax_step,
    pairs,
    probs_and_dscores,
    row_at,
    row_bounds,
    strides,
)
from .grid import VARYING, place, programs
from .launch import Grid, Kernel, LaunchConfig, head_sizes, launch, longest, precision


@triton.jit
@no_type_check
def _scores(
    q, kt, Bias, i, j, n, keys, bias_len, left, right, scale,
    BIAS: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Base-2 scores of a tile, -inf where unseen. Bias points at the row's own."""
    s = tl.dot(q, kt, input_precision=PRECISION) * (scale * 1.4426950408889634)
    inside = (i < n)[:, None] & (j < keys)[None, :]
    if BIAS:
        s += tl.load(lines(Bias, i, bias_len, j, WIDE), mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
    gap = j[None, :] - i[:, None]
    return tl.where(inside & (gap <= right) & (gap >= -left), s, float("-inf"))


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def attention_forward_kernel(
    Q, K, V, Bias, Out, Lse, Offsets,
    q_token, q_head, k_token, k_head, v_token, v_head, heads, group, queries, q_total, bias_len, left, right, scale, most,
    DENSE: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one row and head, over all the keys that it sees."""
    tile, head, row = place(tl.cdiv(most, BLOCK_M), heads)
    start, keys = row_bounds(Offsets, row)
    q0, n = start, keys
    if DENSE:
        q0, n = row * queries, queries
    i0 = tile * BLOCK_M
    if i0 >= n:
        return
    kv = head // group
    Q = row_at(Q, q0, q_token, head, q_head)
    K = row_at(K, start, k_token, kv, k_head)
    V = row_at(V, start, v_token, kv, v_head)
    if BIAS:
        Bias += q0 * bias_len
    i, d = i0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    within = (d < DIM)[None, :]
    q = tl.load(lines(Q, i, q_token, d, WIDE), mask=(i < n)[:, None] & within, other=0.0)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    low = tl.maximum(i0 - left, 0) // BLOCK_N * BLOCK_N
    high = tl.minimum(keys, i0 + BLOCK_M + right)
    for j0 in range(low, high, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        held = (j < keys)[None, :]
        kt = tl.load(lines_across(K, j, k_token, d, WIDE), mask=held & (d < DIM)[:, None], other=0.0)
        s = _scores(q, kt, Bias, i, j, n, keys, bias_len, left, right, scale, BIAS, PRECISION, WIDE)
        v = tl.load(lines(V, j, v_token, d, WIDE), mask=(j < keys)[:, None] & within, other=0.0)
        top, total, acc = online_softmax_step(s, v, top, total, acc, PRECISION)
    total = tl.where(total == 0.0, 1.0, total)  # without keys the maximum is -inf, and so is the log-sum-exp
    at = lines((q0 * heads + head) * DIM, i, heads * DIM, d, WIDE)
    tl.store(Out + at, (acc / total[:, None]).to(Out.dtype.element_ty), mask=(i < n)[:, None] & within)
    tl.store(Lse + head.to(tl.int64) * q_total + q0 + i, (top + tl.log2(total)) * 0.6931471805599453, mask=i < n)


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def attention_dkdv_kernel(
    Q, K, V, G, Bias, Lse, Delta, DK, DV, Offsets,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, group, queries, q_total, bias_len, left, right, scale, most,
    DENSE: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DK and dV of one tile of keys: over the query heads that share them and the queries that see them."""
    tile, kv, row = place(tl.cdiv(most, BLOCK_N), heads // group)
    start, keys = row_bounds(Offsets, row)
    q0, n = start, keys
    if DENSE:
        q0, n = row * queries, queries
    j0 = tile * BLOCK_N
    if j0 >= keys:
        return
    K = row_at(K, start, k_token, kv, k_head)
    V = row_at(V, start, v_token, kv, v_head)
    if BIAS:
        Bias += q0 * bias_len
    j, d = j0 + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    held = (j < keys)[:, None] & (d < DIM)[None, :]
    k = tl.load(lines(K, j, k_token, d, WIDE), mask=held, other=0.0)
    v = tl.load(lines(V, j, v_token, d, WIDE), mask=held, other=0.0)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    low = tl.maximum(j0 - right, 0) // BLOCK_M * BLOCK_M
    high = tl.minimum(n, j0 + BLOCK_N + left)
    for head in range(kv * group, (kv + 1) * group):
        q_at = row_at(Q, q0, q_token, head, q_head)
        g_at = row_at(G, q0, g_token, head, g_head)
        line = tl.cast(head, tl.int64) * q_total + q0
        for i0 in range(low, high, BLOCK_M):
            i = i0 + tl.arange(0, BLOCK_M)
            mask = (i < n)[:, None] & (d < DIM)[None, :]
            q = tl.load(lines(q_at, i, q_token, d, WIDE), mask=mask, other=0.0)
            g = tl.load(lines(g_at, i, g_token, d, WIDE), mask=mask, other=0.0)
            lse = tl.load(Lse + line + i, mask=i < n, other=0.0) * 1.4426950408889634
            delta = tl.load(Delta + line + i, mask=i < n, other=0.0)
            s = _scores(q, tl.trans(k), Bias, i, j, n, keys, bias_len, left, right, scale, BIAS, PRECISION, WIDE)
            p, ds = probs_and_dscores(g, v, s, lse, delta, PRECISION)
            dv = tl.dot(tl.trans(p.to(g.dtype)), g, dv, input_precision=PRECISION)
            dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    kv_heads = heads // group
    out = lines((start * kv_heads + kv) * DIM, j, kv_heads * DIM, d, WIDE)
    tl.store(DK + out, (dk * scale).to(DK.dtype.element_ty), mask=held)
    tl.store(DV + out, dv.to(DV.dtype.element_ty), mask=held)


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def attention_dq_kernel(
    Q, K, V, G, Bias, Lse, Delta, DQ, Offsets,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, group, queries, q_total, bias_len, left, right, scale, most,
    DENSE: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DQ of one tile of queries: over the keys that it sees."""
    tile, head, row = place(tl.cdiv(most, BLOCK_M), heads)
    start, keys = row_bounds(Offsets, row)
    q0, n = start, keys
    if DENSE:
        q0, n = row * queries, queries
    i0 = tile * BLOCK_M
    if i0 >= n:
        return
    kv = head // group
    Q = row_at(Q, q0, q_token, head, q_head)
    G = row_at(G, q0, g_token, head, g_head)
    K = row_at(K, start, k_token, kv, k_head)
    V = row_at(V, start, v_token, kv, v_head)
    if BIAS:
        Bias += q0 * bias_len
    i, d = i0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    mask = (i < n)[:, None] & (d < DIM)[None, :]
    q = tl.load(lines(Q, i, q_token, d, WIDE), mask=mask, other=0.0)
    g = tl.load(lines(G, i, g_token, d, WIDE), mask=mask, other=0.0)
    line = head.to(tl.int64) * q_total + q0 + i
    lse = tl.load(Lse + line, mask=i < n, other=0.0) * 1.4426950408889634
    lse = tl.where(lse == float("-inf"), 0.0, lse)
    delta = tl.load(Delta + line, mask=i < n, other=0.0)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    low = tl.maximum(i0 - left, 0) // BLOCK_N * BLOCK_N
    high = tl.minimum(keys, i0 + BLOCK_M + right)
    for j0 in range(low, high, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        held = (j < keys)[:, None] & (d < DIM)[None, :]
        k = tl.load(lines(K, j, k_token, d, WIDE), mask=held, other=0.0)
        v = tl.load(lines(V, j, v_token, d, WIDE), mask=held, other=0.0)
        s = _scores(q, tl.trans(k), Bias, i, j, n, keys, bias_len, left, right, scale, BIAS, PRECISION, WIDE)
        _, ds = probs_and_dscores(g, v, s, lse, delta, PRECISION)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    at = lines((q0 * heads + head) * DIM, i, heads * DIM, d, WIDE)
    tl.store(DQ + at, (dq * scale).to(DQ.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def attention_dbias_kernel(
    Q, K, V, G, Bias, Lse, Delta, DBias, Offsets,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, group, queries, q_total, bias_len, left, right, scale, most,
    DENSE: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The bias gradient of one tile: summed over the heads, which share the bias."""
    tile, across, row = place(tl.cdiv(most, BLOCK_M), tl.cdiv(bias_len, BLOCK_N))
    start, keys = row_bounds(Offsets, row)
    i = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    j = across * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    q0 = row * queries
    Bias += q0 * bias_len
    DBias += q0 * bias_len
    mask = (i < queries)[:, None] & (d < DIM)[None, :]
    held = (j < keys)[:, None] & (d < DIM)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for head in range(heads):
        kv = head // group
        q_at, g_at = row_at(Q, q0, q_token, head, q_head), row_at(G, q0, g_token, head, g_head)
        k_at, v_at = row_at(K, start, k_token, kv, k_head), row_at(V, start, v_token, kv, v_head)
        q = tl.load(lines(q_at, i, q_token, d, WIDE), mask=mask, other=0.0)
        g = tl.load(lines(g_at, i, g_token, d, WIDE), mask=mask, other=0.0)
        k = tl.load(lines(k_at, j, k_token, d, WIDE), mask=held, other=0.0)
        v = tl.load(lines(v_at, j, v_token, d, WIDE), mask=held, other=0.0)
        line = tl.cast(head, tl.int64) * q_total + q0 + i
        lse = tl.load(Lse + line, mask=i < queries, other=0.0) * 1.4426950408889634
        lse = tl.where(lse == float("-inf"), 0.0, lse)
        delta = tl.load(Delta + line, mask=i < queries, other=0.0)
        s = _scores(q, tl.trans(k), Bias, i, j, queries, keys, bias_len, left, right, scale, BIAS, PRECISION, WIDE)
        _, ds = probs_and_dscores(g, v, s, lse, delta, PRECISION)
        total += ds
    tl.store(
        lines(DBias, i, bias_len, j, WIDE),
        total.to(DBias.dtype.element_ty),
        mask=(i < queries)[:, None] & (j < bias_len)[None, :],
    )


# Tile sizes that need no register spills, found with `python -m tokenlake_kernels.report`; sm_80 has the fewest.


def _forward_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    if vendor == "hip":
        return pairs((64, 64, 4, 1), (64, 32, 4, 1)) if dim <= 128 else pairs((64, 32, 4, 1))
    if dim <= 64:
        return pairs((64, 64, 8, 2), (64, 32, 4, 3))
    return pairs((64, 64, 8, 2), (32, 32, 4, 2)) if dim <= 128 else pairs((32, 32, 8, 1))


def _dkdv_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    if vendor == "hip":
        return pairs((64, 32, 4, 1), (32, 32, 4, 1)) if dim <= 128 else pairs((32, 32, 4, 1))
    if dim <= 64:
        return pairs((64, 32, 4, 1), (32, 32, 4, 1))
    return pairs((32, 32, 4, 1)) if dim <= 128 else pairs((32, 32, 8, 1))


def _dq_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    if vendor == "hip":
        return pairs((64, 32, 4, 1), (32, 32, 4, 1)) if dim <= 128 else pairs((32, 32, 4, 1))
    if dim <= 64:
        return pairs((32, 64, 4, 1), (32, 32, 4, 1))
    return pairs((64, 64, 8, 1), (32, 32, 4, 1)) if dim <= 128 else pairs((32, 32, 4, 1))


def _dbias_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    if dim <= 64:
        return pairs((32, 32, 4, 1))
    return pairs((32, 32, 8, 1)) if dim <= 128 else pairs((16, 32, 8, 1))


_FORMS = ({"DENSE": False, "BIAS": False}, {"DENSE": True, "BIAS": False}, {"DENSE": True, "BIAS": True})
_FLAGS = tuple(form | {"PRECISION": "ieee", "WIDE": False} for form in _FORMS)
_COUNTS = {"heads": "i32", "group": "i32", "queries": "i32", "q_total": "i32", "bias_len": "i32"}
_BAND = {"left": "i32", "right": "i32", "scale": "fp32", "most": "i32"}
_SAVED = {"Q": "*T", "K": "*T", "V": "*T", "G": "*T", "Bias": "*T", "Lse": "*fp32", "Delta": "*fp32"}

FORWARD = Kernel(
    attention_forward_kernel,
    {"Q": "*T", "K": "*T", "V": "*T", "Bias": "*T", "Out": "*T", "Lse": "*fp32", "Offsets": "*i64"}
    | QKV
    | _COUNTS
    | _BAND,
    _FLAGS,
    _forward_configs,
    head_sizes,
)
DKDV = Kernel(
    attention_dkdv_kernel,
    _SAVED | {"DK": "*T", "DV": "*T", "Offsets": "*i64"} | QKVG | _COUNTS | _BAND,
    _FLAGS,
    _dkdv_configs,
    head_sizes,
)
DQ = Kernel(
    attention_dq_kernel,
    _SAVED | {"DQ": "*T", "Offsets": "*i64"} | QKVG | _COUNTS | _BAND,
    _FLAGS,
    _dq_configs,
    head_sizes,
)
DBIAS = Kernel(
    attention_dbias_kernel,
    _SAVED | {"DBias": "*T", "Offsets": "*i64"} | QKVG | _COUNTS | _BAND,
    _FLAGS[-1:],
    _dbias_configs,
    head_sizes,
)
KERNELS = (FORWARD, DKDV, DQ, DBIAS)


class _AttentionLaunch:
    """Common parts of the launches: arguments in order, flags, and the sizes of the grids."""

    def __init__(self, tensors: tuple[Tensor, ...], plan: SoftmaxPlan) -> None:
        q, k = tensors[:2]
        ends = plan.offsets.long()
        self.keys = longest(ends, plan.max_len)
        self.most = plan.queries or self.keys
        self.batch, self.heads, self.kv_heads = ends.shape[0] - 1, q.shape[1], k.shape[1]
        self.bias = None if plan.bias is None else plan.bias.contiguous()
        self.width = 0 if plan.bias is None else plan.bias.shape[2]
        self.rest = (
            *(ends, *strides(*tensors), self.heads, self.heads // self.kv_heads, plan.queries, q.shape[0], self.width),
            *(plan.left, plan.right, plan.scale),
        )
        self.form: dict[str, Any] = {
            "dim": q.shape[2], "like": q, "DENSE": plan.queries > 0, "BIAS": plan.bias is not None,
            "PRECISION": precision(q.dtype), "WIDE": is_wide(*tensors, plan.bias),
        }  # fmt: skip

    def over_queries(self, kernel: Kernel, tensors: tuple[Tensor | None, ...]) -> None:
        """Launch over (tiles of queries, heads, rows)."""
        tall = self.most
        self._launch(kernel, lambda t: programs(triton.cdiv(tall, t["BLOCK_M"]), self.heads, self.batch), tensors, tall)

    def over_keys(self, kernel: Kernel, tensors: tuple[Tensor | None, ...]) -> None:
        """Launch over (tiles of keys, key-value heads, rows)."""
        wide, heads = self.keys, self.kv_heads
        self._launch(kernel, lambda t: programs(triton.cdiv(wide, t["BLOCK_N"]), heads, self.batch), tensors, wide)

    def over_bias(self, kernel: Kernel, tensors: tuple[Tensor | None, ...]) -> None:
        """Launch over (tiles of queries, tiles of the bias's columns, rows)."""
        tall, wide = self.most, self.width

        def grid(t: Mapping[str, int]) -> tuple[int]:
            return programs(triton.cdiv(tall, t["BLOCK_M"]), triton.cdiv(wide, t["BLOCK_N"]), self.batch)

        self._launch(kernel, grid, tensors, tall)

    def _launch(self, kernel: Kernel, grid: Grid, tensors: tuple[Tensor | None, ...], most: int) -> None:
        launch(kernel, grid, (*tensors, *self.rest, most), rows=max(self.most, self.keys), **self.form)


def attention_forward(q: Tensor, k: Tensor, v: Tensor, plan: SoftmaxPlan, *, save: bool) -> tuple[Tensor, Tensor]:
    """As `cpu.eager.attention_forward`."""
    q, k, v = dense_last(q, k, v)
    out, lse = torch.empty(q.shape, dtype=q.dtype, device=q.device), q.new_empty(q.shape[1::-1], dtype=torch.float32)
    call = _AttentionLaunch((q, k, v), plan)
    if q.shape[0] and call.most:
        call.over_queries(FORWARD, (q, k, v, call.bias, out, lse))
    return out, lse if save else lse[:, :0]


def attention_backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: SoftmaxPlan
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `cpu.eager.attention_backward`, with what the forward pass saved."""
    q, k, v, g = dense_last(q, k, v, g)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    bias = plan.bias
    dbias = q.new_zeros(0) if bias is None else torch.zeros_like(bias, memory_format=torch.contiguous_format)
    call = _AttentionLaunch((q, k, v, g), plan)
    if not q.shape[0] or not call.keys:
        return dq.zero_(), dk.zero_(), dv.zero_(), dbias
    saved = (q, k, v, g, call.bias, lse, delta(g, out))
    call.over_keys(DKDV, (*saved, dk, dv))
    call.over_queries(DQ, (*saved, dq))
    if bias is not None:
        call.over_bias(DBIAS, (*saved, dbias))
    return dq, dk, dv, dbias
