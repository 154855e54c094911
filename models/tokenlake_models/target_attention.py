"""Attention of candidates to the steps of their query, with a bias where both agree and a null step to look away to."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from tokenlake_models.jagged import ranges

#: Pairs of a candidate and a step in one product, about: they fit a core's cache.
_PAIRS = 1 << 16


class TargetAttention(nn.Module):
    """Softmax attention of each candidate to the steps of its query and to a learned null step.

    `softmax(q k^T / sqrt(d) + sum of match[f] over the features f in which candidate and step agree) v`. The null step
    stands for "nothing here matters", and makes an empty history an input like any other.

    Args:
        query: width of the candidates' vectors.
        width: of steps and result; a multiple of `heads`.
        heads: attention heads.
        features: number of features that candidate and step may agree in.
    """

    def __init__(self, query: int, width: int, heads: int, features: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.match = nn.Parameter(torch.ones(heads, features))
        self.null_key = nn.Parameter(torch.zeros(heads, width // heads))
        self.null_value = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(
        self,
        queries: Float32[Tensor, "n query"],
        query_codes: Int64[Tensor, "features n"],
        query_offsets: Int64[Tensor, " q_1"],
        steps: Float32[Tensor, "total width"],
        step_codes: Int64[Tensor, "features total"],
        offsets: Int64[Tensor, " q_1"],
    ) -> Float32[Tensor, "n width"]:
        """One vector per candidate.

        Args:
            queries: the candidates.
            query_codes: of each feature, the candidate's value; 0 agrees with nothing.
            query_offsets: the candidates of each query.
            steps: of all queries.
            step_codes: the steps' values.
            offsets: the steps of each query.
        """
        dim = self.null_key.shape[1]
        q = (self.query(queries) * float(dim) ** -0.5).view(-1, self.heads, dim).transpose(0, 1).contiguous()
        k, v = self.key_value(steps).view(-1, 2, self.heads, dim).permute(1, 2, 0, 3).contiguous().unbind()
        null = torch.bmm(q, self.null_key.unsqueeze(2)).squeeze(2)
        codes = query_codes.masked_fill(query_codes == 0, -1), step_codes
        out, looked_away = _BlockAttention.apply(  # type: ignore[no-untyped-call]  # torch declares no types
            q, k, v, null, self.match, *codes, query_offsets, offsets
        )
        out = out + looked_away.unsqueeze(2) * self.null_value.unsqueeze(1)
        return torch.as_tensor(out.transpose(0, 1).flatten(1))


class _BlockAttention(torch.autograd.Function):
    """Attention of `(heads, candidates, d)` to `(heads, steps, d)`, query by query without padding.

    Returns the attention's output without the null step, and the null step's probability.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        null: Tensor,
        match: Tensor,
        q_codes: Tensor,
        k_codes: Tensor,
        q_offsets: Tensor,
        offsets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        out, away = torch.zeros_like(q), torch.ones_like(null)
        blocks = _blocks(q_offsets, offsets)
        saved = []
        for a, b, c, d in blocks:
            agree = (q_codes[:, a:b].unsqueeze(2) == k_codes[:, c:d].unsqueeze(1)).to(q.dtype)
            scores = torch.baddbmm(_bias(match, agree), q[:, a:b], k[:, c:d].transpose(1, 2))
            p = torch.cat([null[:, a:b].unsqueeze(2), scores], 2).softmax(2)
            away[:, a:b], p = p[:, :, 0], p[:, :, 1:]
            out[:, a:b] = p @ v[:, c:d]
            saved += [p, agree]
        ctx.blocks = blocks
        ctx.save_for_backward(q, k, v, match, out, away, *saved)
        return out, away

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g, g_away = grads
        q, k, v, match, out, away, *saved = ctx.saved_tensors
        dq, dk, dv, dmatch = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v), torch.zeros_like(match)
        delta = (g * out).sum(2) + g_away * away
        for (a, b, c, d), p, agree in zip(ctx.blocks, saved[::2], saved[1::2], strict=True):
            part = g[:, a:b]
            dv[:, c:d] += p.transpose(1, 2) @ part
            ds = (part @ v[:, c:d].transpose(1, 2)).sub_(delta[:, a:b].unsqueeze(2)).mul_(p)
            dq[:, a:b] = ds @ k[:, c:d]
            dk[:, c:d] += ds.transpose(1, 2) @ q[:, a:b]
            dmatch += ds.flatten(1) @ agree.flatten(1).T
        return dq, dk, dv, away * (g_away - delta), dmatch, None, None, None, None


def _blocks(q_offsets: Tensor, offsets: Tensor) -> list[tuple[int, int, int, int]]:
    """Begin and end of candidates and steps of every query that has both, a query of many pairs in parts."""
    blocks = []
    for (a, b), (c, d) in zip(pairwise(q_offsets.tolist()), pairwise(offsets.tolist()), strict=True):
        if d > c:
            size = max(1, _PAIRS // (d - c))
            blocks += [(begin, min(b, begin + size), c, d) for begin in range(a, b, size)]
    return blocks


def _bias(match: Tensor, agree: Tensor) -> Tensor:
    features, candidates, steps = agree.shape
    if not features:
        return agree.new_zeros(len(match), candidates, steps)
    return (match @ agree.view(features, -1)).view(len(match), candidates, steps)


def matching_pairs(
    query_codes: Int64[Tensor, " n"],
    queries: Int64[Tensor, " n"],
    step_codes: Int64[Tensor, " total"],
    step_queries: Int64[Tensor, " total"],
) -> tuple[Int64[Tensor, " pairs"], Int64[Tensor, " pairs"]]:
    """Every pair of a candidate and a step of its query that have the same value, found by sorting.

    Args:
        query_codes: the candidates' values, at least 0; 0 agrees with nothing.
        queries: the query of each candidate.
        step_codes: the steps' values.
        step_queries: the query of each step.

    Returns:
        Candidate and step of each pair.
    """
    rows = 1 + int(torch.cat([query_codes, step_codes, query_codes.new_zeros(1)]).max())
    keys, order = torch.sort(step_queries * rows + step_codes, stable=True)
    asked = (queries * rows + query_codes).masked_fill(query_codes == 0, -1)
    first = torch.searchsorted(keys, asked)
    count = torch.searchsorted(keys, asked, right=True) - first
    candidates = torch.repeat_interleave(torch.arange(len(asked), device=asked.device), count)
    return candidates, order[ranges(first, count)]
