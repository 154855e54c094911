"""The attention layout of SIT: visible keys and time gaps of jagged rows, prepared once per batch for the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from tokenlake_kernels import jagged_prefix_attention
from tokenlake_models.jagged import offsets_of, row_numbers

#: Bucket 0: the row itself. 1 + b: earlier by at least 2^b - 1 seconds and less than 2^(b + 1) - 1.
BUCKETS = 33
#: Largest time between two events of a user, in seconds: 34 years fit in 32 bits.
_LONGEST = 2**30


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """The attention of some values of jagged rows over all values of their own row.

    Keys are reordered: in each row first the keys that later values may read, ascending in time, then the others, which
    only their own query sees.

    Attributes:
        offsets: `(rows + 1,)` into the keys.
        q_offsets: `(rows + 1,)` into the queries.
        queries: `(q,)` the position of each query among the keys; None: every value, in the keys' order.
        limits: `(q,)` number of keys at the start of its row that a query sees.
        own_positions: `(q,)` the query's own position in its row.
        seconds: `(total,)` seconds since the row's first event.
    """

    offsets: Int64[Tensor, " rows_1"]
    q_offsets: Int64[Tensor, " rows_1"]
    queries: Int64[Tensor, " q"] | None
    limits: Int64[Tensor, " q"]
    own_positions: Int64[Tensor, " q"]
    seconds: Int64[Tensor, " total"]

    def for_queries(self, is_query: Bool[Tensor, " total"], positions: Int64[Tensor, " total"]) -> AttentionLayout:
        """The layout in which only some values are queries, in the values' order; `self` is the layout of all values.

        Args:
            is_query: which values are queries, in the order in which `attention_layout` got them.
            positions: each value's position among the keys, from `attention_layout`.
        """
        queries = positions[is_query]
        q_offsets = offsets_of(is_query.long())[self.offsets]
        return AttentionLayout(
            self.offsets, q_offsets, queries, self.limits[queries], self.own_positions[queries], self.seconds
        )


def attention_layout(
    timestamps: Int64[Tensor, " total"], offsets: Int64[Tensor, " rows_1"], visible: Bool[Tensor, " total"]
) -> tuple[AttentionLayout, Int64[Tensor, " total"], Int64[Tensor, " total"]]:
    """Compute the attention layout of jagged rows, whose values may have any order.

    A value sees itself and every visible value with a strictly earlier timestamp; values with equal timestamps do not

    see each other.

    Returns:
        The layout of all values, in the keys' order; the indices of the values in that order; each value's position in it.
    """
    rows = row_numbers(offsets)
    places = torch.arange(len(timestamps), device=timestamps.device)
    by_time = torch.sort(timestamps, stable=True).indices
    by_time = by_time[torch.sort(rows[by_time], stable=True).indices]
    timestamps, visible = timestamps[by_time], visible[by_time]
    starts = offsets[rows]
    tied = torch.zeros_like(visible)
    tied[1:] = (timestamps[1:] == timestamps[:-1]) & (rows[1:] == rows[:-1])
    tie_begin = places.masked_fill(tied, 0).cummax(0).values if len(places) else places
    before = offsets_of(visible.long())
    earlier = before[:-1] - before[starts]
    count = before[offsets[1:]][rows] - before[starts]
    seconds = ((timestamps - timestamps[starts]) // 1_000_000).clamp(-_LONGEST, _LONGEST)
    target = starts + torch.where(visible, earlier, count + places - starts - earlier)
    turned = torch.empty_like(places).index_copy(0, target, places)
    everything = AttentionLayout(offsets, offsets, None, earlier[tie_begin][turned], places - starts, seconds[turned])
    return everything, by_time[turned], torch.empty_like(places).index_copy(0, by_time, target)


def layout_attention(
    q: Float32[Tensor, "total_q heads d"],
    k: Float32[Tensor, "total heads d"],
    v: Float32[Tensor, "total heads d"],
    layout: AttentionLayout,
    bias: Float32[Tensor, "heads buckets"],
) -> Float32[Tensor, "total_q heads d"]:
    """Softmax attention of jagged queries: `softmax(q k^T / sqrt(d) + bias[bucket]) v` over the keys seen.

    Args:
        q: the queries of `layout`, in its order.
        k: keys of all values, in the order of `attention_layout`.
        v: values, likewise.
        layout: the attention layout.
        bias: added to the score of a pair by the bucket of its time gap.
    """
    # The kernel's buckets are half octaves of the gap: of gap + 1 here, and both halves of an octave share an entry.
    table = torch.cat([bias[:, :1], bias[:, 1:].repeat_interleave(2, 1)], 1)
    out: Tensor = jagged_prefix_attention(
        q,
        k,
        v,
        layout.offsets,
        layout.limits,
        layout.own_positions,
        q_offsets=layout.q_offsets,
        q_timestamps=(layout.seconds if layout.queries is None else layout.seconds[layout.queries]) + 1,
        timestamps=layout.seconds,
        time_bias=table,
    )
    return out
