"""Prefix attention on the CPU: plain PyTorch, and the call into the compiled kernels."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..plans import PrefixPlan
from . import compiled
from .eager import BLOCK, buckets

_PADDING = 64  # the compiled kernels read whole vectors past the last query


class _Block(NamedTuple):
    """Some queries of one row, all its keys, heads first and wide."""

    at: slice
    keys: slice
    q: Float[Tensor, "heads queries dim"]
    k: Float[Tensor, "heads keys dim"]
    v: Float[Tensor, "heads keys dim"]
    seen: Bool[Tensor, "queries keys"]
    entries: Int[Tensor, "queries keys"] | None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _heads_first(x: Tensor, heads: int) -> Tensor:
    first = _wide(x).movedim(0, 1)
    return first if first.shape[0] == heads else first.repeat_interleave(heads // first.shape[0], 0)


def _blocks(q: Tensor, k: Tensor, v: Tensor, plan: PrefixPlan) -> Iterator[_Block]:
    heads, ends, q_ends = q.shape[1], plan.offsets.tolist(), plan.q_offsets.tolist()
    for row in range(len(ends) - 1):
        keys = slice(ends[row], ends[row + 1])
        for i in range(q_ends[row], q_ends[row + 1], BLOCK):
            at = slice(i, min(q_ends[row + 1], i + BLOCK))
            j = torch.arange(keys.stop - keys.start, device=q.device)
            mine = plan.own[at, None] == j
            entries = None
            if plan.table is not None and plan.q_times is not None and plan.times is not None:
                gaps = plan.q_times[at, None] - plan.times[None, keys]
                entries = (1 + buckets(gaps, plan.table.shape[1] - 1)).masked_fill_(mine, 0)
            yield _Block(
                at,
                keys,
                _wide(q[at]).movedim(0, 1),
                _heads_first(k[keys], heads),
                _heads_first(v[keys], heads),
                mine | (j < plan.limits[at, None]),
                entries,
            )


def _scores(block: _Block, plan: PrefixPlan) -> Float[Tensor, "heads queries keys"]:
    scores = block.q @ block.k.mT * plan.scale
    if plan.table is not None and block.entries is not None:
        scores = scores + _wide(plan.table)[:, block.entries]
    return scores.masked_fill(~block.seen, float("-inf"))


def eager_forward(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    plan: PrefixPlan,
) -> tuple[Float[Tensor, "queries heads dim"], Float[Tensor, "heads queries"]]:
    """Softmax over the keys seen, and its log-sum-exps."""
    out = torch.zeros_like(q)
    lse = q.new_zeros(q.shape[1], q.shape[0], dtype=_wide(q).dtype)
    for block in _blocks(q, k, v, plan):
        scores = _scores(block, plan)
        total = scores.logsumexp(-1)
        out[block.at] = ((scores - total[..., None]).exp() @ block.v).movedim(0, 1).to(q.dtype)
        lse[:, block.at] = total
    return out, lse


def eager_backward(
    g: Float[Tensor, "queries heads dim"],
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    out: Float[Tensor, "queries heads dim"],
    plan: PrefixPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the table (empty without one). Works on any device."""
    dq, dk, dv = (torch.zeros_like(x, dtype=_wide(x).dtype) for x in (q, k, v))
    table, scale = plan.table, plan.scale
    dtable = q.new_zeros(0) if table is None else torch.zeros_like(table, dtype=_wide(table).dtype)

    def fold(x: Tensor) -> Tensor:  # (heads, keys, dim) to (keys, kv_heads, dim)
        return x.view(k.shape[1], -1, *x.shape[1:]).sum(1).movedim(0, 1)

    for block in _blocks(q, k, v, plan):
        p = _scores(block, plan).softmax(-1)
        gs, os = (_wide(x[block.at]).movedim(0, 1) for x in (g, out))
        ds = p * (gs @ block.v.mT - (gs * os).sum(-1, keepdim=True))
        dq[block.at] = (ds @ block.k).movedim(0, 1) * scale
        dk[block.keys] += fold(ds.mT @ block.q) * scale
        dv[block.keys] += fold(p.mT @ gs)
        if table is not None and block.entries is not None:
            flat = ds.sum(0, keepdim=True) if table.shape[0] == 1 else ds
            dtable.index_add_(1, block.entries.flatten(), flat.flatten(1).to(dtable.dtype))
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dtable if table is None else dtable.to(table.dtype)


def _padded(x: Int[Tensor, " queries"]) -> Int[Tensor, " padded"]:
    return torch.cat([x.int(), torch.zeros(_PADDING, dtype=torch.int32)])


def _arguments(q: Tensor, k: Tensor, plan: PrefixPlan, table: Tensor | None) -> tuple[Tensor | int | float | None, ...]:
    """The common arguments of both C functions: positions, table, sizes and scale."""
    times = (None if x is None else compiled.long(x) for x in (plan.q_times, plan.times))
    ends = (compiled.long(plan.q_offsets), compiled.long(plan.offsets))
    sizes = (0, 0) if table is None else (table.shape[1] - 1, 0 if table.shape[0] == 1 else table.shape[1])
    places = (*ends, _padded(plan.limits), _padded(plan.own), *times, table, torch.tensor(sizes))
    return *places, plan.offsets.shape[0] - 1, q.shape[1], k.shape[1], q.shape[2], plan.scale


def compiled_forward(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    plan: PrefixPlan,
) -> tuple[Float[Tensor, "queries heads dim"], Float[Tensor, "heads queries"]]:
    """As `eager_forward`."""
    qs, ks, vs = (compiled.as_float(x) for x in (q, k, v))
    flat = None if plan.table is None else compiled.flat_float(plan.table)
    out, lse = torch.empty(q.shape), torch.empty(q.shape[1], q.shape[0])
    compiled.call(
        "tl_prefix_forward",
        *(qs, ks, vs, compiled.strides(qs, ks, vs), *_arguments(q, k, plan, flat), out, lse),
        threads=compiled.threads_for(q.numel() * 8),
    )
    return out.to(q.dtype), lse


def compiled_backward(
    g: Float[Tensor, "queries heads dim"],
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    out: Float[Tensor, "queries heads dim"],
    lse: Float[Tensor, "heads queries"],
    plan: PrefixPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `eager_backward`, with what the forward pass saved."""
    qs, ks, vs, gs = (compiled.as_float(x) for x in (q, k, v, g))
    flat = None if plan.table is None else compiled.flat_float(plan.table)
    dq, dk, dv = torch.zeros(q.shape), torch.zeros(k.shape), torch.zeros(v.shape)
    threads = compiled.threads_for(q.numel() * 8)
    dtable = None if flat is None else torch.zeros(threads, *flat.shape)
    delta = (gs * out.float()).sum(-1).T.contiguous()
    compiled.call(
        "tl_prefix_backward",
        *(qs, ks, vs, gs, compiled.strides(qs, ks, vs, gs), lse, delta, *_arguments(q, k, plan, flat)),
        *(dq, dk, dv, dtable, 0 if flat is None else flat.numel()),
        threads=threads,
    )
    given = q.new_zeros(0) if plan.table is None or dtable is None else dtable.sum(0).to(plan.table.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), given
