"""Softmax attention on Triton: forward, dK and dV, dQ, and the gradient of the bias.

Tiles of queries by tiles of keys, inside one row and head; tiles past the row's end or outside the band are never
visited. All scores are in base 2. Gradients are summed inside one program each, so nothing depends on timing.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Config, Kernel, head_sizes, launch, longest, precision, tiles

# Triton reads these functions' source, not their bytecode: the checks of tests must not wrap them (@no_type_check).


@triton.jit
@no_type_check
def _scores(q, kt, Bias, i, j, n, keys, bias_len, left, right, scale, BIAS: tl.constexpr, PRECISION: tl.constexpr):
    """Base-2 scores of a tile, -inf where unseen. Bias points at the row's own; offsets inside a row fit in 32 bits."""
    s = tl.dot(q, kt, input_precision=PRECISION) * (scale * 1.4426950408889634)
    inside = (i < n)[:, None] & (j < keys)[None, :]
    if BIAS:
        s += (
            tl.load(Bias + i[:, None] * bias_len + j[None, :], mask=inside, other=0.0).to(tl.float32)
            * 1.4426950408889634
        )
    gap = j[None, :] - i[:, None]
    return tl.where(inside & (gap <= right) & (gap >= -left), s, float("-inf"))


@triton.jit
@no_type_check
def attention_forward_kernel(
    Q, K, V, Bias, Out, Lse, Offsets,
    q_token, q_head, k_token, k_head, v_token, v_head, heads, group, queries, q_total, bias_len, left, right, scale,
    DENSE: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one row and head, over all the keys that it sees."""
    row, head = tl.program_id(2), tl.program_id(1)
    start = tl.load(Offsets + row)
    keys = (tl.load(Offsets + row + 1) - start).to(tl.int32)
    q0, n = start, keys
    if DENSE:
        q0, n = row.to(tl.int64) * queries, queries
    i0 = tl.program_id(0) * BLOCK_M
    if i0 >= n:
        return
    kv = head // group
    Q += q0 * q_token + head * q_head
    K += start * k_token + kv * k_head
    V += start * v_token + kv * v_head
    if BIAS:
        Bias += q0 * bias_len
    i, d = i0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    within = (d < DIM)[None, :]
    q = tl.load(Q + i[:, None] * q_token + d[None, :], mask=(i < n)[:, None] & within, other=0.0)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    low = tl.maximum(i0 - left, 0) // BLOCK_N * BLOCK_N
    high = tl.minimum(keys, i0 + BLOCK_M + right)
    for j0 in range(low, high, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        held = (j < keys)[None, :]
        kt = tl.load(K + j[None, :] * k_token + d[:, None], mask=held & (d < DIM)[:, None], other=0.0)
        s = _scores(q, kt, Bias, i, j, n, keys, bias_len, left, right, scale, BIAS, PRECISION)
        new = tl.maximum(top, tl.max(s, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(s - base[:, None])
        fade = tl.exp2(top - base)
        total = total * fade + tl.sum(p, 1)
        v = tl.load(V + j[:, None] * v_token + d[None, :], mask=(j < keys)[:, None] & within, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
        top = new
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    Out += (q0 * heads + head) * DIM
    tl.store(
        Out + i[:, None] * (heads * DIM) + d[None, :], acc.to(Out.dtype.element_ty), mask=(i < n)[:, None] & within
    )
    lse = tl.where(
        total == 0.0, float("-inf"), (top + tl.log2(tl.where(total == 0.0, 1.0, total))) * 0.6931471805599453
    )
    tl.store(Lse + head.to(tl.int64) * q_total + q0 + i, lse, mask=i < n)


@triton.jit
@no_type_check
def delta_kernel(
    G, Out, Delta, g_token, g_head, heads, total, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr
):
    """`sum(g * out)` of every query and head."""
    head = tl.program_id(1)
    i, d = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    mask = (i < total)[:, None] & (d < DIM)[None, :]
    at = i.to(tl.int64)
    g = tl.load(G + at[:, None] * g_token + head * g_head + d[None, :], mask=mask, other=0.0).to(tl.float32)
    o = tl.load(Out + (at[:, None] * heads + head) * DIM + d[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(Delta + head.to(tl.int64) * total + at, tl.sum(g * o, 1), mask=i < total)


@triton.jit
@no_type_check
def attention_dkdv_kernel(
    Q, K, V, G, Bias, Lse, Delta, DK, DV, Offsets,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    kv_heads, group, queries, q_total, bias_len, left, right, scale,
    DENSE: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DK and dV of one tile of keys: over the query heads that share them and the queries that see them."""
    row, kv = tl.program_id(2), tl.program_id(1)
    start = tl.load(Offsets + row)
    keys = (tl.load(Offsets + row + 1) - start).to(tl.int32)
    q0, n = start, keys
    if DENSE:
        q0, n = row.to(tl.int64) * queries, queries
    j0 = tl.program_id(0) * BLOCK_N
    if j0 >= keys:
        return
    K += start * k_token + kv * k_head
    V += start * v_token + kv * v_head
    if BIAS:
        Bias += q0 * bias_len
    j, d = j0 + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    held = (j < keys)[:, None] & (d < DIM)[None, :]
    k = tl.load(K + j[:, None] * k_token + d[None, :], mask=held, other=0.0)
    v = tl.load(V + j[:, None] * v_token + d[None, :], mask=held, other=0.0)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    low = tl.maximum(j0 - right, 0) // BLOCK_M * BLOCK_M
    high = tl.minimum(n, j0 + BLOCK_N + left)
    for head in range(kv * group, (kv + 1) * group):
        q_at = Q + q0 * q_token + head * q_head
        g_at = G + q0 * g_token + head * g_head
        line = tl.cast(head, tl.int64) * q_total + q0
        for i0 in range(low, high, BLOCK_M):
            i = i0 + tl.arange(0, BLOCK_M)
            mask = (i < n)[:, None] & (d < DIM)[None, :]
            q = tl.load(q_at + i[:, None] * q_token + d[None, :], mask=mask, other=0.0)
            g = tl.load(g_at + i[:, None] * g_token + d[None, :], mask=mask, other=0.0)
            lse = tl.load(Lse + line + i, mask=i < n, other=0.0) * 1.4426950408889634
            delta = tl.load(Delta + line + i, mask=i < n, other=0.0)
            s = _scores(q, tl.trans(k), Bias, i, j, n, keys, bias_len, left, right, scale, BIAS, PRECISION)
            p = tl.exp2(s - lse[:, None])
            dv = tl.dot(tl.trans(p.to(g.dtype)), g, dv, input_precision=PRECISION)
            ds = p * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - delta[:, None])
            dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    out = (start * kv_heads + kv) * DIM + j[:, None] * (kv_heads * DIM) + d[None, :]
    tl.store(DK + out, (dk * scale).to(DK.dtype.element_ty), mask=held)
    tl.store(DV + out, dv.to(DV.dtype.element_ty), mask=held)


@triton.jit
@no_type_check
def attention_dq_kernel(
    Q, K, V, G, Bias, Lse, Delta, DQ, Offsets,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, group, queries, q_total, bias_len, left, right, scale,
    DENSE: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DQ of one tile of queries: over the keys that it sees."""
    row, head = tl.program_id(2), tl.program_id(1)
    start = tl.load(Offsets + row)
    keys = (tl.load(Offsets + row + 1) - start).to(tl.int32)
    q0, n = start, keys
    if DENSE:
        q0, n = row.to(tl.int64) * queries, queries
    i0 = tl.program_id(0) * BLOCK_M
    if i0 >= n:
        return
    kv = head // group
    Q += q0 * q_token + head * q_head
    G += q0 * g_token + head * g_head
    K += start * k_token + kv * k_head
    V += start * v_token + kv * v_head
    if BIAS:
        Bias += q0 * bias_len
    i, d = i0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    mask = (i < n)[:, None] & (d < DIM)[None, :]
    q = tl.load(Q + i[:, None] * q_token + d[None, :], mask=mask, other=0.0)
    g = tl.load(G + i[:, None] * g_token + d[None, :], mask=mask, other=0.0)
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
        k = tl.load(K + j[:, None] * k_token + d[None, :], mask=held, other=0.0)
        v = tl.load(V + j[:, None] * v_token + d[None, :], mask=held, other=0.0)
        s = _scores(q, tl.trans(k), Bias, i, j, n, keys, bias_len, left, right, scale, BIAS, PRECISION)
        ds = tl.exp2(s - lse[:, None]) * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    DQ += (q0 * heads + head) * DIM
    tl.store(DQ + i[:, None] * (heads * DIM) + d[None, :], (dq * scale).to(DQ.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def attention_dbias_kernel(
    Q, K, V, G, Bias, Lse, Delta, DBias, Offsets,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    heads, group, queries, q_total, bias_len, scale,
    PRECISION: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The bias gradient of one tile: summed over the heads, which share the bias."""
    row = tl.program_id(2)
    start = tl.load(Offsets + row)
    keys = (tl.load(Offsets + row + 1) - start).to(tl.int32)
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    q0 = row.to(tl.int64) * queries
    Bias += q0 * bias_len
    DBias += q0 * bias_len
    mask = (i < queries)[:, None] & (d < DIM)[None, :]
    held = (j < keys)[:, None] & (d < DIM)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    far = 1 << 30
    for head in range(heads):
        kv = head // group
        q = tl.load(Q + q0 * q_token + head * q_head + i[:, None] * q_token + d[None, :], mask=mask, other=0.0)
        g = tl.load(G + q0 * g_token + head * g_head + i[:, None] * g_token + d[None, :], mask=mask, other=0.0)
        k = tl.load(K + start * k_token + kv * k_head + j[:, None] * k_token + d[None, :], mask=held, other=0.0)
        v = tl.load(V + start * v_token + kv * v_head + j[:, None] * v_token + d[None, :], mask=held, other=0.0)
        line = tl.cast(head, tl.int64) * q_total + q0 + i
        lse = tl.load(Lse + line, mask=i < queries, other=0.0) * 1.4426950408889634
        lse = tl.where(lse == float("-inf"), 0.0, lse)
        delta = tl.load(Delta + line, mask=i < queries, other=0.0)
        s = _scores(
            q, tl.trans(k), Bias, i, j, queries, keys, bias_len, far, far, scale, BIAS=True, PRECISION=PRECISION
        )
        total += tl.exp2(s - lse[:, None]) * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - delta[:, None])
    tl.store(
        DBias + i[:, None] * bias_len + j[None, :],
        total.to(DBias.dtype.element_ty),
        mask=(i < queries)[:, None] & (j < bias_len)[None, :],
    )


# Which tiles hold their registers was found by `python -m tokenlake_kernels.report`; sm_80 is the narrowest.


def _pairs(*sizes: tuple[int, int, int, int]) -> tuple[Config, ...]:
    return tuple(tiles(warps, stages, BLOCK_M=m, BLOCK_N=n) for m, n, warps, stages in sizes)


def _forward_configs(dim: int, vendor: str) -> tuple[Config, ...]:
    if vendor == "hip":
        return _pairs((64, 64, 4, 1), (64, 32, 4, 1)) if dim <= 128 else _pairs((64, 32, 4, 1))
    if dim <= 64:
        return _pairs((64, 64, 8, 2), (64, 32, 4, 3))
    return _pairs((64, 64, 8, 2), (32, 32, 4, 2)) if dim <= 128 else _pairs((32, 32, 4, 1))


def _dkdv_configs(dim: int, vendor: str) -> tuple[Config, ...]:
    if vendor == "hip":
        return _pairs((64, 32, 4, 1), (32, 32, 4, 1)) if dim <= 128 else _pairs((32, 32, 4, 1))
    if dim <= 64:
        return _pairs((64, 32, 4, 1), (32, 32, 4, 1))
    return _pairs((32, 32, 4, 1)) if dim <= 128 else _pairs((32, 32, 8, 1))


def _dq_configs(dim: int, vendor: str) -> tuple[Config, ...]:
    if vendor == "hip":
        return _pairs((64, 32, 4, 1), (32, 32, 4, 1)) if dim <= 128 else _pairs((32, 32, 4, 1))
    if dim <= 64:
        return _pairs((32, 64, 4, 1), (32, 32, 4, 1))
    return _pairs((64, 64, 8, 1), (32, 32, 4, 1)) if dim <= 128 else _pairs((32, 32, 4, 1))


def _dbias_configs(dim: int, vendor: str) -> tuple[Config, ...]:
    return _pairs((32, 32, 4, 1)) if dim <= 128 else _pairs((16, 32, 8, 1))


_FORMS = ({"DENSE": False, "BIAS": False}, {"DENSE": True, "BIAS": False}, {"DENSE": True, "BIAS": True})
_FLAGS = tuple(form | {"PRECISION": "ieee"} for form in _FORMS)
_QKV = {"q_token": "i32", "q_head": "i32", "k_token": "i32", "k_head": "i32", "v_token": "i32", "v_head": "i32"}
_QKVG = _QKV | {"g_token": "i32", "g_head": "i32"}
_COUNTS = {"heads": "i32", "group": "i32", "queries": "i32", "q_total": "i32", "bias_len": "i32"}
_BAND = {"left": "i32", "right": "i32", "scale": "fp32"}
_SAVED = {"Q": "*T", "K": "*T", "V": "*T", "G": "*T", "Bias": "*T", "Lse": "*fp32", "Delta": "*fp32"}

FORWARD = Kernel(
    attention_forward_kernel,
    {"Q": "*T", "K": "*T", "V": "*T", "Bias": "*T", "Out": "*T", "Lse": "*fp32", "Offsets": "*i64"}
    | _QKV
    | _COUNTS
    | _BAND,
    _FLAGS,
    _forward_configs,
    head_sizes,
)
DELTA = Kernel(
    delta_kernel,
    {"G": "*T", "Out": "*T", "Delta": "*fp32", "g_token": "i32", "g_head": "i32", "heads": "i32", "total": "i32"},
    ({},),
    lambda dim, vendor: (tiles(4, 1, BLOCK_M=32),),
    head_sizes,
    dots=False,
)
DKDV = Kernel(
    attention_dkdv_kernel,
    _SAVED | {"DK": "*T", "DV": "*T", "Offsets": "*i64"} | _QKVG | {"kv_heads": "i32"}
    | {name: kind for name, kind in _COUNTS.items() if name != "heads"} | _BAND,
    _FLAGS,
    _dkdv_configs,
    head_sizes,
)  # fmt: skip
DQ = Kernel(
    attention_dq_kernel,
    _SAVED | {"DQ": "*T", "Offsets": "*i64"} | _QKVG | _COUNTS | _BAND,
    _FLAGS,
    _dq_configs,
    head_sizes,
)
DBIAS = Kernel(
    attention_dbias_kernel,
    _SAVED | {"DBias": "*T", "Offsets": "*i64"} | _QKVG | _COUNTS | {"scale": "fp32"},
    ({"PRECISION": "ieee"},),
    _dbias_configs,
    head_sizes,
)
KERNELS = (FORWARD, DELTA, DKDV, DQ, DBIAS)


def dense_last(x: Tensor) -> Tensor:
    """The kernels take any strides but that of the last dimension."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(s for x in tensors for s in x.stride()[:2])


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    queries: int,
    left: int,
    right: int,
    scale: float,
    max_len: int,
    *,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """As `cpu.eager.attention_forward`, with the longest row to size the grid."""
    q, k, v = dense_last(q), dense_last(k), dense_last(v)
    ends = offsets.long()
    n, heads, dim = q.shape
    out, lse = torch.empty(q.shape, dtype=q.dtype, device=q.device), q.new_empty(heads, n, dtype=torch.float32)
    most = queries or longest(ends, max_len)
    batch = offsets.shape[0] - 1
    if n and most:
        width = 0 if bias is None else bias.shape[2]
        args = (q, k, v, None if bias is None else bias.contiguous(), out, lse, ends, *_strides(q, k, v))
        counts = (heads, heads // k.shape[1], queries, n, width, left, right, scale)
        launch(
            FORWARD, lambda t: (triton.cdiv(most, t["BLOCK_M"]), heads, batch), (*args, *counts),
            dim=dim, like=q, rows=most, DENSE=queries > 0, BIAS=bias is not None, PRECISION=precision(q.dtype),
        )  # fmt: skip
    return out, lse if save else lse[:, :0]


def attention_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    offsets: Tensor,
    queries: int,
    left: int,
    right: int,
    scale: float,
    max_len: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `cpu.eager.attention_backward`."""
    q, k, v, g = dense_last(q), dense_last(k), dense_last(v), dense_last(g)
    out, ends = out.contiguous(), offsets.long()
    n, heads, dim = q.shape
    kv_heads, batch = k.shape[1], offsets.shape[0] - 1
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    dbias = q.new_zeros(0) if bias is None else torch.zeros_like(bias, memory_format=torch.contiguous_format)
    width = 0 if bias is None else bias.shape[2]
    keys = longest(ends, max_len)
    most = queries or keys
    if not n or not most or not keys:
        return dq.zero_(), dk.zero_(), dv.zero_(), dbias
    delta = torch.empty_like(lse)
    launch(
        DELTA,
        lambda t: (triton.cdiv(n, t["BLOCK_M"]), heads),
        (g, out, delta, *g.stride()[:2], heads, n),
        dim=dim,
        like=q,
        rows=n,
    )
    saved = (q, k, v, g, None if bias is None else bias.contiguous(), lse, delta)
    strides, group = _strides(q, k, v, g), heads // kv_heads
    counts = (group, queries, n, width, left, right, scale)
    form: dict[str, Any] = {"dim": dim, "like": q, "rows": keys, "PRECISION": precision(q.dtype)}
    flags = form | {"DENSE": queries > 0, "BIAS": bias is not None}
    over_keys = (*saved, dk, dv, ends, *strides, kv_heads, *counts)
    launch(DKDV, lambda t: (triton.cdiv(keys, t["BLOCK_N"]), kv_heads, batch), over_keys, **flags)
    over_queries = (*saved, dq, ends, *strides, heads, *counts)
    launch(DQ, lambda t: (triton.cdiv(most, t["BLOCK_M"]), heads, batch), over_queries, **flags)
    if bias is not None:
        both = (*saved, dbias, ends, *strides, heads, group, queries, n, width, scale)
        launch(
            DBIAS, lambda t: (triton.cdiv(queries, t["BLOCK_M"]), triton.cdiv(width, t["BLOCK_N"]), batch), both, **form
        )
    return dq, dk, dv, dbias
