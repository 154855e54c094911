"""Prefix attention on the CPU: plain PyTorch, and the call into the compiled kernels."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import compiled
from .eager import BLOCK, buckets

_PADDING = 64  # the compiled kernels read whole vectors past the last query


class Layout(NamedTuple):
    """Which keys each query sees, and when both happened.

    Attributes:
        q_offsets: `(batch + 1,)` into the queries.
        offsets: `(batch + 1,)` into the keys.
        limits: `(queries,)`: a query sees the first so many keys of its row.
        own: `(queries,)`: the place of a query's own key in its row.
        q_times: `(queries,)`, or None where there is no bias.
        times: `(total,)`, likewise.
    """

    q_offsets: Int[Tensor, " rows_plus_one"]
    offsets: Int[Tensor, " rows_plus_one"]
    limits: Int[Tensor, " queries"]
    own: Int[Tensor, " queries"]
    q_times: Int[Tensor, " queries"] | None
    times: Int[Tensor, " total"] | None


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


def _blocks(q: Tensor, k: Tensor, v: Tensor, layout: Layout, table: Tensor | None) -> Iterator[_Block]:
    heads, ends, q_ends = q.shape[1], layout.offsets.tolist(), layout.q_offsets.tolist()
    for row in range(len(ends) - 1):
        keys = slice(ends[row], ends[row + 1])
        for i in range(q_ends[row], q_ends[row + 1], BLOCK):
            at = slice(i, min(q_ends[row + 1], i + BLOCK))
            j = torch.arange(keys.stop - keys.start, device=q.device)
            mine = layout.own[at, None] == j
            entries = None
            if table is not None and layout.q_times is not None and layout.times is not None:
                gaps = layout.q_times[at, None] - layout.times[None, keys]
                entries = (1 + buckets(gaps, table.shape[1] - 1)).masked_fill_(mine, 0)
            yield _Block(
                at,
                keys,
                _wide(q[at]).movedim(0, 1),
                _heads_first(k[keys], heads),
                _heads_first(v[keys], heads),
                mine | (j < layout.limits[at, None]),
                entries,
            )


def _scores(block: _Block, table: Tensor | None, scale: float) -> Float[Tensor, "heads queries keys"]:
    scores = block.q @ block.k.mT * scale
    if table is not None and block.entries is not None:
        scores = scores + _wide(table)[:, block.entries]
    return scores.masked_fill(~block.seen, float("-inf"))


def eager_forward(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    layout: Layout,
    table: Float[Tensor, "tables entries"] | None,
    scale: float,
) -> tuple[Float[Tensor, "queries heads dim"], Float[Tensor, "heads queries"]]:
    """Softmax over the keys seen, and its log-sum-exps."""
    out = torch.zeros_like(q)
    lse = q.new_zeros(q.shape[1], q.shape[0], dtype=_wide(q).dtype)
    for block in _blocks(q, k, v, layout, table):
        scores = _scores(block, table, scale)
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
    layout: Layout,
    table: Float[Tensor, "tables entries"] | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the table (empty without one). Works on any device."""
    dq, dk, dv = (torch.zeros_like(x, dtype=_wide(x).dtype) for x in (q, k, v))
    dtable = q.new_zeros(0) if table is None else torch.zeros_like(table, dtype=_wide(table).dtype)

    def fold(x: Tensor) -> Tensor:  # (heads, keys, dim) to (keys, kv_heads, dim)
        return x.view(k.shape[1], -1, *x.shape[1:]).sum(1).movedim(0, 1)

    for block in _blocks(q, k, v, layout, table):
        p = _scores(block, table, scale).softmax(-1)
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


def _places(layout: Layout) -> tuple[Tensor | None, ...]:
    times = (None if x is None else compiled.long(x) for x in (layout.q_times, layout.times))
    ends = (compiled.long(layout.q_offsets), compiled.long(layout.offsets))
    return *ends, _padded(layout.limits), _padded(layout.own), *times


def _sizes(table: Tensor | None) -> Tensor:
    return torch.tensor((0, 0) if table is None else (table.shape[1] - 1, 0 if table.shape[0] == 1 else table.shape[1]))


def compiled_forward(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    layout: Layout,
    table: Float[Tensor, "tables entries"] | None,
    scale: float,
) -> tuple[Float[Tensor, "queries heads dim"], Float[Tensor, "heads queries"]]:
    """As `eager_forward`."""
    qs, ks, vs = (compiled.as_float(x) for x in (q, k, v))
    flat = None if table is None else compiled.flat_float(table)
    out, lse = torch.empty(q.shape), torch.empty(q.shape[1], q.shape[0])
    compiled.call(
        "tl_prefix_forward",
        *(qs, ks, vs, compiled.strides(qs, ks, vs), *_places(layout), flat, _sizes(flat)),
        *(layout.offsets.shape[0] - 1, q.shape[1], k.shape[1], q.shape[2], scale, out, lse),
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
    layout: Layout,
    table: Float[Tensor, "tables entries"] | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `eager_backward`, with what the forward pass saved."""
    qs, ks, vs, gs = (compiled.as_float(x) for x in (q, k, v, g))
    flat = None if table is None else compiled.flat_float(table)
    dq, dk, dv = torch.zeros(q.shape), torch.zeros(k.shape), torch.zeros(v.shape)
    threads = compiled.threads_for(q.numel() * 8)
    dtable = None if flat is None else torch.zeros(threads, *flat.shape)
    delta = (gs * out.float()).sum(-1).T.contiguous()
    compiled.call(
        "tl_prefix_backward",
        *(qs, ks, vs, gs, compiled.strides(qs, ks, vs, gs), lse, delta, *_places(layout), flat, _sizes(flat)),
        *(layout.offsets.shape[0] - 1, q.shape[1], k.shape[1], q.shape[2], scale, dq, dk, dv, dtable),
        0 if flat is None else flat.numel(),
        threads=threads,
    )
    given = q.new_zeros(0) if table is None or dtable is None else dtable.sum(0).to(table.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), given
