"""The pure-PyTorch CPU kernels: row by row, a block of queries at a time, so that memory is linear in the length.

Used for float64 (for gradcheck) and on machines without a compiler. Gradients are explicit: only inputs, outputs and
log-sum-exps are stored for them.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from ..masks import FAR
from ..plans import HstuPlan, SoftmaxPlan

BLOCK = 256


def _wide(x: Tensor) -> Tensor:
    """Convert to float32 for accumulation; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def _bounds(offsets: Int[Tensor, " rows_plus_one"]) -> Iterator[tuple[int, int, int]]:
    ends = offsets.tolist()
    for row, (a, b) in enumerate(pairwise(ends)):
        if b > a:
            yield row, a, b


def _heads_first(x: Float[Tensor, "len kv_heads dim"], heads: int) -> Float[Tensor, "{heads} len dim"]:
    wide = _wide(x).movedim(0, 1)
    return wide if wide.shape[0] == heads else wide.repeat_interleave(heads // wide.shape[0], 0)


def _fold_group(x: Float[Tensor, "heads len dim"], kv_heads: int) -> Float[Tensor, "{kv_heads} len dim"]:
    return x if x.shape[0] == kv_heads else x.view(kv_heads, -1, *x.shape[1:]).sum(1)


def _query_rows(row: int, a: int, b: int, queries: int) -> tuple[int, int]:
    return (row * queries, (row + 1) * queries) if queries else (a, b)


def _band_block(i0: int, i1: int, keys: int, left: int, right: int) -> tuple[int, int, Bool[Tensor, "q k"] | None]:
    j0, j1 = max(0, i0 - left), min(keys, i1 + right)
    if j0 == 0 and j1 == keys and right >= keys and left >= i1:
        return 0, keys, None
    gap = torch.arange(j0, j1)[None, :] - torch.arange(i0, i1)[:, None]
    return j0, j1, (gap <= right) & (gap >= -left)


def attention_forward(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    plan: SoftmaxPlan,
    *,
    save: bool,
) -> tuple[Float[Tensor, "queries heads dim"], Float[Tensor, "heads saved"]]:
    """Softmax attention and, with `save`, its log-sum-exps."""
    heads = q.shape[1]
    out = torch.zeros(q.shape, dtype=q.dtype)
    lse = torch.full((heads, q.shape[0] if save else 0), float("-inf"), dtype=_wide(q).dtype)
    for row, a, b in _bounds(plan.offsets):
        start, end = _query_rows(row, a, b, plan.queries)
        qs, ks, vs = q[start:end], k[a:b], v[a:b]
        if not save and plan.bias is None and plan.left >= FAR:
            heads_first = [x.movedim(0, 1)[None] for x in (qs, ks, vs)]
            fused = scaled_dot_product_attention(
                heads_first[0],
                heads_first[1],
                heads_first[2],
                is_causal=plan.right == 0,
                scale=plan.scale,
                enable_gqa=k.shape[1] != heads,
            )
            out[start:end] = fused[0].movedim(0, 1)
            continue
        kt, vt = _heads_first(ks, heads), _heads_first(vs, heads)
        for i0 in range(0, end - start, BLOCK):
            i1 = min(end - start, i0 + BLOCK)
            j0, j1, mask = _band_block(i0, i1, b - a, plan.left, plan.right)
            scores = _scores(qs[i0:i1], kt[:, j0:j1], plan, row, i0, j0, mask)
            total = scores.logsumexp(-1)
            out[start + i0 : start + i1] = ((scores - total[..., None]).exp() @ vt[:, j0:j1]).movedim(0, 1).to(q.dtype)
            if save:
                lse[:, start + i0 : start + i1] = total
    return out, lse


def _scores(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "heads keys dim"],
    plan: SoftmaxPlan,
    row: int,
    i0: int,
    j0: int,
    mask: Bool[Tensor, "queries keys"] | None,
) -> Float[Tensor, "heads queries keys"]:
    scores = _wide(q).movedim(0, 1) @ k.mT * plan.scale
    if plan.bias is not None:
        scores += _wide(plan.bias[row, i0 : i0 + q.shape[0], j0 : j0 + k.shape[1]])
    return scores if mask is None else scores.masked_fill_(~mask, float("-inf"))


def attention_backward(
    g: Float[Tensor, "queries heads dim"],
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    out: Float[Tensor, "queries heads dim"],
    plan: SoftmaxPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and of the bias (empty without one); probabilities are recomputed."""
    heads, kv_heads, bias, scale = q.shape[1], k.shape[1], plan.bias, plan.scale
    dq, dk, dv = (torch.zeros(x.shape, dtype=_wide(x).dtype) for x in (q, k, v))
    dbias = q.new_zeros(0) if bias is None else torch.zeros(bias.shape, dtype=_wide(bias).dtype)
    for row, a, b in _bounds(plan.offsets):
        start, end = _query_rows(row, a, b, plan.queries)
        kt, vt = _heads_first(k[a:b], heads), _heads_first(v[a:b], heads)
        for i0 in range(0, end - start, BLOCK):
            i1 = min(end - start, i0 + BLOCK)
            at = slice(start + i0, start + i1)
            j0, j1, mask = _band_block(i0, i1, b - a, plan.left, plan.right)
            p = _scores(q[at], kt[:, j0:j1], plan, row, i0, j0, mask).softmax(-1)
            gs, os, qs = (_wide(x[at]).movedim(0, 1) for x in (g, out, q))
            ds = p * (gs @ vt[:, j0:j1].mT - (gs * os).sum(-1, keepdim=True))
            dq[at] = (ds @ kt[:, j0:j1]).movedim(0, 1) * scale
            dk[a + j0 : a + j1] += _fold_group(ds.mT @ qs, kv_heads).movedim(0, 1) * scale
            dv[a + j0 : a + j1] += _fold_group(p.mT @ gs, kv_heads).movedim(0, 1)
            if bias is not None:
                dbias[row, i0:i1, j0:j1] += ds.sum(0)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dbias if bias is None else dbias.to(bias.dtype)


def buckets(gaps: Int[Tensor, "*shape"], size: int) -> Int[Tensor, "*shape"]:
    """The time bucket of every gap; `reference.time_buckets` explains them."""
    bits = gaps.abs().clamp_(min=1).to(torch.float32).view(torch.int32)
    return ((bits - 0x3F800000) >> 22).clamp_(max=size - 1).long()


class _HstuBlock:
    """Scores and mask of one block of queries of one row."""

    def __init__(
        self,
        q: Float[Tensor, "queries heads dim"],
        keys: Int[Tensor, " keys"],
        kt: Float[Tensor, "heads keys dim"],
        start: int,
        i0: int,
        history: int,
        plan: HstuPlan,
    ) -> None:
        i = torch.arange(i0, i0 + q.shape[0], device=q.device)
        position, time = plan.position, plan.time
        self.seen = plan.mask.seen(i[:, None], keys[None, :], history)
        self.scores = _wide(q).movedim(0, 1) @ kt.mT * plan.scale
        self.positions = self.times = None
        if position is not None:
            self.positions = (i[:, None] - keys[None, :]).clamp_(0, position.shape[1] - 1)
            self.scores = self.scores + _wide(position)[:, self.positions]
        if time is not None and plan.timestamps is not None:
            at = plan.timestamps[start:]
            self.times = buckets(at[i][:, None] - at[keys][None, :], time.shape[1])
            self.scores = self.scores + _wide(time)[:, self.times]


def _hstu_blocks(plan: HstuPlan) -> Iterator[tuple[int, int, int, int, Int[Tensor, " keys"]]]:
    for row, a, b in _bounds(plan.offsets):
        history = b - a - (0 if plan.targets is None else int(plan.targets[row]))
        for i0 in range(0, b - a, BLOCK):
            i1 = min(b - a, i0 + BLOCK)
            runs = plan.mask.keys(i0, i1, history)
            keys = torch.cat([torch.arange(lo, min(hi, b - a), device=plan.offsets.device) for lo, hi in runs])
            yield a, i0, i1, history, keys


def hstu_forward(
    q: Float[Tensor, "total heads dim"],
    k: Float[Tensor, "total heads dim"],
    v: Float[Tensor, "total heads dim"],
    plan: HstuPlan,
) -> Float[Tensor, "total heads dim"]:
    """SiLU attention under the masks of HSTU."""
    out = torch.zeros(q.shape, dtype=q.dtype)
    for a, i0, i1, history, keys in _hstu_blocks(plan):
        kt, vt = (_wide(x[a + keys]).movedim(0, 1) for x in (k, v))
        block = _HstuBlock(q[a + i0 : a + i1], keys, kt, a, i0, history, plan)
        weights = torch.nn.functional.silu(block.scores).masked_fill_(~block.seen, 0)
        out[a + i0 : a + i1] = ((weights @ vt) / plan.norm).movedim(0, 1).to(q.dtype)
    return out


def hstu_backward(
    g: Float[Tensor, "total heads dim"],
    q: Float[Tensor, "total heads dim"],
    k: Float[Tensor, "total heads dim"],
    v: Float[Tensor, "total heads dim"],
    plan: HstuPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and of both tables (empty without them). Works on any device."""
    given = (plan.position, plan.time)
    dq, dk, dv = (torch.zeros_like(x, dtype=_wide(x).dtype) for x in (q, k, v))
    tables = [q.new_zeros(0) if t is None else torch.zeros_like(t, dtype=_wide(t).dtype) for t in given]
    for a, i0, i1, history, keys in _hstu_blocks(plan):
        at = slice(a + i0, a + i1)
        kt, vt = (_wide(x[a + keys]).movedim(0, 1) for x in (k, v))
        block = _HstuBlock(q[at], keys, kt, a, i0, history, plan)
        sigma = block.scores.sigmoid()
        weights = (block.scores * sigma).masked_fill_(~block.seen, 0) / plan.norm
        slope = (sigma * (1 + block.scores * (1 - sigma))).masked_fill_(~block.seen, 0) / plan.norm
        gs, qs = (_wide(x[at]).movedim(0, 1) for x in (g, q))
        ds = gs @ vt.mT * slope
        dq[at] = (ds @ kt).movedim(0, 1) * plan.scale
        dk[a + keys] += (ds.mT @ qs).movedim(0, 1) * plan.scale
        dv[a + keys] += (weights.mT @ gs).movedim(0, 1)
        for table, index in zip(tables, (block.positions, block.times), strict=True):
            if index is not None:
                flat = ds.sum(0, keepdim=True) if table.shape[0] == 1 else ds
                table.index_add_(1, index.flatten(), flat.flatten(1).to(table.dtype))
    dposition, dtime = (t if like is None else t.to(like.dtype) for t, like in zip(tables, given, strict=True))
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dposition, dtime


def dense_bmm(
    x: Float[Tensor, "total inner"], dense: Float[Tensor, "rows inner outer"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "total outer"]:
    """Each row times its own matrix."""
    out = x.new_empty(x.shape[0], dense.shape[2])
    for row, a, b in _bounds(offsets):
        torch.mm(x[a:b], dense[row], out=out[a:b])
    return out


def jagged_bmm(
    x: Float[Tensor, "total left"], y: Float[Tensor, "total right"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "rows left right"]:
    """Each row of x, transposed, times the same row of y."""
    out = x.new_zeros(offsets.shape[0] - 1, x.shape[1], y.shape[1])
    for row, a, b in _bounds(offsets):
        torch.mm(x[a:b].T, y[a:b], out=out[row])
    return out


def softmax(
    x: Float[Tensor, "total columns"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "total columns"]:
    """Softmax over the length of each row."""
    out = torch.empty_like(x)
    for _, a, b in _bounds(offsets):
        out[a:b] = x[a:b].softmax(0)
    return out


def softmax_backward(
    y: Float[Tensor, "total columns"], g: Float[Tensor, "total columns"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "total columns"]:
    """`y (g - sum over the row of g y)`."""
    out = torch.empty_like(y)
    for _, a, b in _bounds(offsets):
        yr, gr = _wide(y[a:b]), _wide(g[a:b])
        out[a:b] = yr * (gr - (gr * yr).sum(0))
    return out


def broadcast(
    x: Float[Tensor, "total dim"],
    dense: Float[Tensor, "rows len cols"],
    offsets: Int[Tensor, " rows_plus_one"],
    *,
    mul: bool,
) -> Float[Tensor, "total dim"]:
    """`x + dense` or `x * dense`, row by row."""
    out = torch.empty_like(x)
    op = torch.mul if mul else torch.add
    for row, a, b in _bounds(offsets):
        op(x[a:b], dense[row, : b - a], out=out[a:b])
    return out


def copy_segments(
    src: Shaped[Tensor, " n *rest"],
    src_starts: Int[Tensor, " segments"],
    dst_starts: Int[Tensor, " segments"],
    lengths: Int[Tensor, " segments"],
    dst: Shaped[Tensor, " m *rest"],
) -> None:
    """`dst[dst_starts[s] + i] = src[src_starts[s] + i]` for i < lengths[s]."""
    for s, d, n in zip(src_starts.tolist(), dst_starts.tolist(), lengths.tolist(), strict=True):
        dst[d : d + n] = src[s : s + n]


def time_differences(
    timestamps: Int[Tensor, " total"], offsets: Int[Tensor, " rows_plus_one"], total: int
) -> Int[Tensor, " pairs"]:
    """`t_i - t_j` for all pairs of each row."""
    parts = [(timestamps[a:b, None] - timestamps[None, a:b]).flatten() for _, a, b in _bounds(offsets)]
    return torch.cat(parts) if parts else timestamps.new_empty(total)


def gated_norm(
    a: Float[Tensor, "total dim"],
    u: Float[Tensor, "total dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"],
    eps: float,
    *,
    concat: bool,
) -> Float[Tensor, "total out"]:
    """`u * LayerNorm(a)`, with `concat` behind u and a."""
    y = (_wide(u) * layer_norm(_wide(a), a.shape[1:], _wide(weight), _wide(bias), eps)).to(a.dtype)
    return torch.cat([u, a, y], 1) if concat else y


def gated_norm_backward(
    g: Float[Tensor, "total out"],
    a: Float[Tensor, "total dim"],
    u: Float[Tensor, "total dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"],
    eps: float,
    *,
    concat: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, u, weight and bias; the normalised rows are recomputed."""
    dim = a.shape[1]
    gu, ga, gy = (_wide(x) for x in torch.split(g, dim, 1)) if concat else (torch.zeros(()), torch.zeros(()), _wide(g))
    wide, wu, ww = _wide(a), _wide(u), _wide(weight)
    centred = wide - wide.mean(1, keepdim=True)
    inverse = (centred.square().mean(1, keepdim=True) + eps).rsqrt()
    x = centred * inverse
    dn = gy * wu
    dx = dn * ww
    da = (dx - dx.mean(1, keepdim=True) - x * (dx * x).mean(1, keepdim=True)) * inverse + ga
    du = gy * (x * ww + _wide(bias)) + gu
    return da.to(a.dtype), du.to(u.dtype), (dn * x).sum(0).to(weight.dtype), dn.sum(0).to(bias.dtype)
