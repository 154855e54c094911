"""Attention over jagged rows with a bias of time: the one place where sequences are padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenlake_models.jagged import row_numbers

#: Bucket 0: the row itself. 1 + b: earlier by at least 2^b - 1 seconds and less than 2^(b + 1) - 1.
BUCKETS = 33
_HIDDEN = BUCKETS
#: Seconds between two events of a user that 32 bits hold: 34 years.
_LONGEST = 2**30


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which key each query sees, and how long ago it was; shared by the layers of one batch.

    Attributes:
        queries: `(rows, longest)` index of each query in the jagged values, padded with any.
        keys: `(rows, longest)` likewise.
        places: `(q,)` where each query lies in the padded, flattened queries.
        buckets: `(rows, queries, keys)`.
    """

    queries: Int64[Tensor, "rows q_max"]
    keys: Int64[Tensor, "rows k_max"]
    places: Int64[Tensor, " q"]
    buckets: Int32[Tensor, "rows q_max k_max"]


def pair(
    timestamps: Int64[Tensor, " total"],
    offsets: Int64[Tensor, " rows_1"],
    asks: Bool[Tensor, " total"],
    visible: Bool[Tensor, " total"],
) -> Pairs:
    """Lay out the attention of the values where `asks` over all values of their own jagged row.

    A query sees itself and every visible key with a strictly earlier timestamp: rows of a tie don't see each other.
    """
    if not len(timestamps):
        none = offsets.new_zeros(0, 1)
        return Pairs(none, none, offsets.new_zeros(0), none.unsqueeze(2).int())
    keys, there = _padded(offsets)
    rows = row_numbers(offsets)
    asking = asks.nonzero()[:, 0]
    begins = torch.searchsorted(asking, offsets)
    queries, _ = _padded(begins)
    places = rows[asking] * queries.shape[1] + torch.arange(len(asking), device=rows.device) - begins[rows[asking]]
    queries = torch.zeros_like(queries).view(-1).index_copy(0, places, asking).view_as(queries)
    buckets = _ages(timestamps, offsets, rows, queries, keys, there & visible[keys]).flatten(0, 1)
    # A padded query has no key of its own; seeing the first keeps its softmax a number.
    first = torch.zeros(len(buckets), dtype=torch.int64, device=rows.device)
    buckets[
        torch.arange(len(buckets), device=rows.device), first.index_copy(0, places, asking - offsets[rows[asking]])
    ] = 0
    return Pairs(queries, keys, places, buckets.view(*queries.shape, -1))


def _ages(timestamps: Tensor, offsets: Tensor, rows: Tensor, queries: Tensor, keys: Tensor, readable: Tensor) -> Tensor:
    """Buckets of the pairs by gap of time alone; in 32 bits, since these are the largest tensors of a step."""
    since = timestamps - timestamps[offsets[rows]]
    seconds = (since // 1_000_000).clamp(-_LONGEST, _LONGEST).int()
    rank = torch.unique(timestamps, return_inverse=True)[1].int()
    key_rank = torch.where(readable, rank[keys], len(rank))
    gap = (seconds[queries] + 1).unsqueeze(2) - seconds[keys].unsqueeze(1)
    # floor(log2(gap + 1)) is the exponent of that number as a float.
    buckets = gap.clamp_(min=1).float().view(torch.int32).bitwise_right_shift_(23).sub_(126)
    return buckets.masked_fill_(key_rank.unsqueeze(1) >= rank[queries].unsqueeze(2), _HIDDEN)


def attend(
    q: Float32[Tensor, "total_q heads d"],
    k: Float32[Tensor, "total heads d"],
    v: Float32[Tensor, "total heads d"],
    pairs: Pairs,
    bias: Float32[Tensor, "heads buckets"],
) -> Float32[Tensor, "total_q heads d"]:
    """Softmax attention of jagged queries: `softmax(q k^T / sqrt(d) + bias[bucket]) v` over the keys seen.

    Args:
        q: queries where `pair` was told that they ask, in their order.
        k: keys of all values.
        v: values.
        pairs: the layout, from `pair`.
        bias: added to the score of a pair by the bucket of its time gap.
    """
    rows, longest = pairs.queries.shape
    padded = q.new_zeros(rows * longest, *q.shape[1:]).index_copy(0, pairs.places, q)
    q = padded.view(rows, longest, *q.shape[1:]).transpose(1, 2)
    k = k[pairs.keys].transpose(1, 2)
    v = v[pairs.keys].transpose(1, 2)
    bias_of_pairs: Tensor = _PairBias.apply(bias, pairs.buckets)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    out = scaled_dot_product_attention(q, k, v, attn_mask=bias_of_pairs)
    return out.transpose(1, 2).flatten(0, 1)[pairs.places]


class _PairBias(torch.autograd.Function):
    """`bias[:, bucket]`, -inf where hidden; its gradient counts by bucket, ten times faster than a scatter."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, buckets: Tensor) -> Tensor:
        ctx.save_for_backward(buckets)
        hidden = bias.new_full((len(bias), 1), -torch.inf)
        rows, queries, keys = buckets.shape
        flat = torch.cat([bias, hidden], dim=1).index_select(1, buckets.flatten())
        return flat.view(len(bias), rows, queries, keys).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (buckets,) = ctx.saved_tensors
        flat = buckets.flatten()
        by_head = gradient.transpose(0, 1).flatten(1)
        sums = [torch.bincount(flat, weights=g, minlength=BUCKETS + 1)[:BUCKETS] for g in by_head]
        return torch.stack(sums).to(gradient.dtype), None


def _padded(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Padded indices of jagged rows, and where there is one; padding repeats a valid index."""
    lengths = offsets.diff()
    longest = max(int(lengths.max()) if len(lengths) else 0, 1)
    places = torch.arange(longest, device=offsets.device)
    there = places < lengths.unsqueeze(1)
    return torch.where(there, offsets[:-1].unsqueeze(1) + places, 0), there
