"""Slow, obvious PyTorch versions of every op: the definitions, against which the fast ones are tested.

Each loops over the rows in Python and uses autograd for the gradients. Shapes are those of the public functions.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def rows(offsets: Int[Tensor, " rows_plus_one"]) -> list[tuple[int, int]]:
    """The (start, end) of every row."""
    ends = offsets.tolist()
    return list(pairwise(ends))


def band_mask(queries: int, keys: int, *, causal: bool, window: int | None) -> Bool[Tensor, "queries keys"]:
    """`mask[i, j]`: query i sees key j. Causal: j <= i. A window: at most so far apart."""
    gap = torch.arange(queries)[:, None] - torch.arange(keys)[None, :]
    seen = gap >= 0 if causal else torch.ones(queries, keys, dtype=torch.bool)
    return seen if window is None else seen & (gap.abs() <= window)


def hstu_mask(
    length: int,
    targets: int = 0,
    *,
    local: int | None = None,
    tail: int | None = None,
    prefix: int | None = None,
    contextual: int = 0,
    target_local: bool = False,
) -> Bool[Tensor, "length length"]:
    """The mask of ULTRA-HSTU (arXiv 2602.16986) in both readings; `hstu_attention` explains the arguments."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    history = length - targets
    for i in range(length):
        for j in range(i + 1):
            if i >= history:
                near = local is None or history - j <= local or bool(tail) or j < (prefix or 0)
                mask[i, j] = i == j or (j < history and (near or not target_local))
            else:
                near = local is None or i - j <= local
                mask[i, j] = near or (tail is not None and i >= history - tail) or (prefix is not None and j < prefix)
    first = min(contextual, history)
    mask[:, :first] = True
    return mask


def _softmax_rows(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "keys kv_heads dim"],
    v: Float[Tensor, "keys kv_heads dim"],
    mask: Bool[Tensor, "queries keys"],
    bias: Float[Tensor, "*heads queries keys"] | None,
    scale: float | int,
) -> Float[Tensor, "queries heads dim"]:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if bias is not None:
        scores = scores + bias
    weights = scores.masked_fill(~mask.to(scores.device), float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def jagged_attention(
    q: Float[Tensor, "total heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    offsets: Int[Tensor, " rows_plus_one"],
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | int | None = None,
) -> Float[Tensor, "total heads dim"]:
    """Softmax attention inside each row."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    out = [q[:0]]
    for a, b in rows(offsets):
        mask = band_mask(b - a, b - a, causal=causal, window=window)
        out.append(_softmax_rows(q[a:b], k[a:b], v[a:b], mask, None, scale))
    return torch.cat(out)


def jagged_cross_attention(
    q: Float[Tensor, "rows queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    offsets: Int[Tensor, " rows_plus_one"],
    *,
    bias: Float[Tensor, "rows queries max_len"] | None = None,
    scale: float | int | None = None,
) -> Float[Tensor, "rows queries heads dim"]:
    """Dense queries over each row's history; a row without history gives zeros."""
    scale = q.shape[3] ** -0.5 if scale is None else scale
    out = torch.zeros_like(q)
    for i, (a, b) in enumerate(rows(offsets)):
        if b > a:
            mask = torch.ones(q.shape[1], b - a, dtype=torch.bool)
            row_bias = None if bias is None else bias[i, :, : b - a]
            row = _softmax_rows(q[i], k[a:b], v[a:b], mask, row_bias, scale)
            out = torch.cat([out[:i], row[None], out[i + 1 :]])
    return out


def time_buckets(gaps: Int[Tensor, "*shape"], buckets: int) -> Int[Tensor, "*shape"]:
    """Half-octave buckets of |gap|: 0 and 1 -> 0, [1.5, 2) -> 1, [2, 3) -> 2, [3, 4) -> 3, [4, 6) -> 4, ...

    Computed from the bits of float32 (exponent and first mantissa bit), so that every device gives the same bucket.
    """
    bits = gaps.abs().clamp(min=1).to(torch.float32).view(torch.int32)
    return ((bits - 0x3F800000) >> 22).clamp(max=buckets - 1).long()


def jagged_prefix_attention(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    offsets: Int[Tensor, " rows_plus_one"],
    limits: Int[Tensor, " queries"],
    own: Int[Tensor, " queries"],
    *,
    q_offsets: Int[Tensor, " rows_plus_one"] | None = None,
    scale: float | int | None = None,
    q_timestamps: Int[Tensor, " queries"] | None = None,
    timestamps: Int[Tensor, " total"] | None = None,
    time_bias: Float[Tensor, "*tables entries"] | None = None,
) -> Float[Tensor, "queries heads dim"]:
    """Each query over the first `limits` keys of its row, and over its own key."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    out = [q[:0]]
    for (a, b), (c, d) in zip(rows(offsets), rows(offsets if q_offsets is None else q_offsets), strict=True):
        for i in range(c, d):
            seen = torch.tensor([j < int(limits[i]) or j == int(own[i]) for j in range(b - a)])
            bias = q.new_zeros(q.shape[1], 1, b - a)
            if time_bias is not None and timestamps is not None:
                gaps = (timestamps if q_timestamps is None else q_timestamps)[i] - timestamps[a:b]
                entries = 1 + time_buckets(gaps, time_bias.shape[-1] - 1)
                entries[int(own[i])] = 0
                bias = time_bias[..., entries].expand(q.shape[1], b - a)[:, None]
            out.append(_softmax_rows(q[i : i + 1], k[a:b], v[a:b], seen[None], bias, scale))
    return torch.cat(out)


def hstu_attention(
    q: Float[Tensor, "total heads dim"],
    k: Float[Tensor, "total heads dim"],
    v: Float[Tensor, "total heads dim"],
    offsets: Int[Tensor, " rows_plus_one"],
    *,
    norm: float | int,
    scale: float | int | None = None,
    num_targets: Int[Tensor, " rows"] | None = None,
    local: int | None = None,
    tail: int | None = None,
    prefix: int | None = None,
    contextual: int = 0,
    target_local: bool = False,
    timestamps: Int[Tensor, " total"] | None = None,
    position_bias: Float[Tensor, "*tables positions"] | None = None,
    time_bias: Float[Tensor, "*time_tables buckets"] | None = None,
) -> Float[Tensor, "total heads dim"]:
    """SiLU attention inside each row: `silu(scale q k^T + position + time) / norm`, masked, times v."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    out = [q[:0]]
    for i, (a, b) in enumerate(rows(offsets)):
        length = b - a
        targets = 0 if num_targets is None else int(num_targets[i])
        mask = hstu_mask(
            length, targets, local=local, tail=tail, prefix=prefix, contextual=contextual, target_local=target_local
        )
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[a:b]) * scale
        if position_bias is not None:
            gap = torch.arange(length)[:, None] - torch.arange(length)[None, :]
            scores = scores + position_bias[..., gap.clamp(0, position_bias.shape[-1] - 1).to(q.device)]
        if time_bias is not None and timestamps is not None:
            at = timestamps[a:b]
            scores = scores + time_bias[..., time_buckets(at[:, None] - at[None, :], time_bias.shape[-1])]
        weights = torch.nn.functional.silu(scores) / norm * mask.to(q.device)
        out.append(torch.einsum("hqk,khd->qhd", weights, v[a:b]))
    return torch.cat(out)


def jagged_dense_bmm(
    x: Float[Tensor, "total inner"], dense: Float[Tensor, "rows inner outer"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "total outer"]:
    """Each row times its own matrix."""
    return torch.cat(
        [x[:0] @ dense.new_zeros(dense.shape[1:])] + [x[a:b] @ dense[i] for i, (a, b) in enumerate(rows(offsets))]
    )


def jagged_jagged_bmm(
    x: Float[Tensor, "total left"], y: Float[Tensor, "total right"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "rows left right"]:
    """Each row of x, transposed, times the same row of y."""
    products = [x[a:b].T @ y[a:b] for a, b in rows(offsets)]
    return torch.stack(products) if products else x.new_zeros(0, x.shape[1], y.shape[1])


def jagged_softmax(
    x: Float[Tensor, " total *columns"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, " total *columns"]:
    """Softmax over the length of each row, column by column."""
    return torch.cat([x[:0]] + [x[a:b].softmax(0) for a, b in rows(offsets) if b > a])


def _rows_of_dense(
    dense: Float[Tensor, "rows len cols"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "total cols"]:
    picked = [dense[i, : b - a].expand(b - a, -1) for i, (a, b) in enumerate(rows(offsets))]
    return torch.cat([dense.new_zeros(0, dense.shape[2]), *picked])


def jagged_dense_add(
    x: Float[Tensor, "total dim"], offsets: Int[Tensor, " rows_plus_one"], dense: Float[Tensor, "rows len cols"]
) -> Float[Tensor, "total dim"]:
    """`x[a + l] + dense[row, l]`; a length or width of 1 in `dense` is broadcast."""
    return x + _rows_of_dense(dense, offsets)


def jagged_dense_mul(
    x: Float[Tensor, "total dim"], offsets: Int[Tensor, " rows_plus_one"], dense: Float[Tensor, "rows len cols"]
) -> Float[Tensor, "total dim"]:
    """`x[a + l] * dense[row, l]`; a length or width of 1 in `dense` is broadcast."""
    return x * _rows_of_dense(dense, offsets)


def jagged_to_padded(
    x: Shaped[Tensor, " total *rest"], offsets: Int[Tensor, " rows_plus_one"], max_len: int, fill: float | int = 0
) -> Shaped[Tensor, "rows max_len *rest"]:
    """The first `max_len` values of each row, the rest of the block `fill`."""
    out = []
    for a, b in rows(offsets):
        row = x[a : min(b, a + max_len)]
        out.append(torch.cat([row, row.new_full((max_len - len(row), *x.shape[1:]), fill)]))
    return torch.stack(out) if out else x.new_zeros(0, max_len, *x.shape[1:])


def padded_to_jagged(
    padded: Shaped[Tensor, "rows max_len *rest"], offsets: Int[Tensor, " rows_plus_one"]
) -> Shaped[Tensor, " total *rest"]:
    """The inverse of `jagged_to_padded`."""
    return torch.cat([padded.flatten(0, 1)[:0]] + [padded[i, : b - a] for i, (a, b) in enumerate(rows(offsets))])


def jagged_concat(
    values: Sequence[Shaped[Tensor, " _ *rest"]], offsets: Sequence[Int[Tensor, " rows_plus_one"]]
) -> tuple[Shaped[Tensor, " total *rest"], Int[Tensor, " rows_plus_one"]]:
    """Row i of the result is row i of every input, one after the other."""
    parts = [values[0][:0]]
    bounds = [rows(o) for o in offsets]
    for i in range(len(offsets[0]) - 1):
        parts += [x[slice(*bounds[n][i])] for n, x in enumerate(values)]
    return torch.cat(parts), torch.stack([o.long() for o in offsets]).sum(0)


def jagged_split(
    x: Shaped[Tensor, " total *rest"], offsets: Int[Tensor, " rows_plus_one"], lengths: Int[Tensor, " rows"]
) -> tuple[Shaped[Tensor, " first *rest"], Shaped[Tensor, " second *rest"]]:
    """The first `lengths[i]` values of row i, and the others."""
    cuts = lengths.tolist()
    first = [x[a : a + n] for (a, _), n in zip(rows(offsets), cuts, strict=True)]
    second = [x[a + n : b] for (a, b), n in zip(rows(offsets), cuts, strict=True)]
    return torch.cat([x[:0], *first]), torch.cat([x[:0], *second])


def jagged_time_differences(
    timestamps: Int[Tensor, " total"], offsets: Int[Tensor, " rows_plus_one"]
) -> Int[Tensor, " pairs"]:
    """`t_i - t_j` for all pairs of each row, row-major: (sum of squared lengths,)."""
    at = [timestamps[a:b] for a, b in rows(offsets)]
    return torch.cat([timestamps[:0]] + [(t[:, None] - t[None, :]).flatten() for t in at])


def gated_norm(
    a: Float[Tensor, "total dim"],
    u: Float[Tensor, "total dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"],
    *,
    concat: bool = False,
    eps: float = 1e-6,
) -> Float[Tensor, "total out"]:
    """`u * LayerNorm(a)`, or `[u, a, u * LayerNorm(a)]`: the last step of an HSTU layer before its projection."""
    y = u * torch.nn.functional.layer_norm(a, a.shape[1:], weight, bias, eps)
    return torch.cat([u, a, y], 1) if concat else y


def grouped_gemm(
    x: Float[Tensor, "tokens inner"],
    weights: Float[Tensor, "groups inner outer"],
    offsets: Int[Tensor, " groups_plus_one"],
    index: Int[Tensor, " selected"] | None = None,
) -> Float[Tensor, "selected outer"]:
    """Rows `offsets[g]:offsets[g + 1]` of x (or of x[index]) times `weights[g]`."""
    return jagged_dense_bmm(x if index is None else x[index], weights, offsets)
