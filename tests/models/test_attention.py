from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenlake_models.attention import BUCKETS, attention_layout, layout_attention
from tokenlake_models.jagged import offsets_of

SECOND = 1_000_000


def bucket(query: int, key: int, gap: int) -> int | None:
    if query == key:
        return 0
    return 1 + int(math.log2(gap // SECOND + 1)) if gap > 0 else None


def slow(q, k, v, timestamps, offsets, asks, visible, bias):
    """Query by query, head by head."""
    out = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        for i in range(begin, end):
            if not asks[i]:
                continue
            # Seconds are counted from the row's first event, as `pair` says.
            first = int(timestamps[begin])
            at = [(int(t) - first) // SECOND for t in timestamps[begin:end]]
            seen = [
                (j, bucket(i, j, (at[i - begin] - at[j - begin]) * SECOND if timestamps[j] < timestamps[i] else 0))
                for j in range(begin, end)
                if j == i or (timestamps[j] < timestamps[i] and visible[j])
            ]
            seen = [(j, 1 if b is None else b) for j, b in seen]
            heads = []
            for h in range(q.shape[1]):
                scores = torch.stack([q[len(out), h] @ k[j, h] / q.shape[2] ** 0.5 + bias[h, b] for j, b in seen])
                heads.append(scores.softmax(0) @ torch.stack([v[j, h] for j, _ in seen]))
            out.append(torch.stack(heads))
    return torch.stack(out) if out else q.new_zeros(0, *q.shape[1:])


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.sampled_from([0, 0, 1, SECOND - 1, SECOND, 3600 * SECOND]), max_size=5), min_size=1, max_size=4
    ),
    st.integers(0, 2**16),
)
def test_against_the_slow_one(gaps, seed):
    generator = torch.Generator().manual_seed(seed)
    timestamps = torch.tensor([t for row in gaps for t in torch.tensor(row, dtype=torch.int64).cumsum(0).tolist()])
    timestamps = timestamps.long() + 1_500_000_000 * SECOND
    offsets = offsets_of(torch.tensor([len(row) for row in gaps]))
    asks = torch.rand(len(timestamps), generator=generator) < 0.7
    visible = torch.rand(len(timestamps), generator=generator) < 0.8
    k, v = (torch.randn(len(timestamps), 2, 3, generator=generator, requires_grad=True) for _ in range(2))
    q = torch.randn(int(asks.sum()), 2, 3, generator=generator, requires_grad=True)
    bias = torch.randn(2, BUCKETS, generator=generator, requires_grad=True)
    everything, order, place = attention_layout(timestamps, offsets, visible)
    fast = layout_attention(q, k[order], v[order], everything.for_queries(asks, place), bias)
    expected = slow(q, k, v, timestamps, offsets, asks, visible, bias)
    assert torch.allclose(fast, expected, atol=1e-5)
    if not len(q):
        return
    weight = torch.randn(expected.shape, generator=generator)
    ours = torch.autograd.grad((fast * weight).sum(), [q, k, v, bias])
    theirs = torch.autograd.grad((expected * weight).sum(), [q, k, v, bias])
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def biases(seconds: list[int]) -> list[float]:
    """What the last of some events adds to its scores: of the keys before it, and of itself."""
    n = len(seconds)
    timestamps, offsets = torch.tensor(seconds) * SECOND, torch.tensor([0, n])
    everything, order, place = attention_layout(timestamps, offsets, torch.ones(n, dtype=torch.bool))
    asks = torch.arange(n) == n - 1
    bias = torch.arange(BUCKETS, dtype=torch.float32)[None]
    # Values that pick out one key each, and scores so flat that the softmax gives the biases back.
    q, k, v = torch.zeros(1, 1, n), torch.zeros(n, 1, n), torch.eye(n)[:, None]
    weights = layout_attention(q, k, v[order], everything.for_queries(asks, place), bias)[0, 0]
    return [round(float(x)) for x in weights.log() - weights[-1].log()]


def test_buckets_double():
    seconds = [0, 1, 3, 7, 8, 3600 * 24]
    assert biases(seconds) == [1 + int(math.log2(seconds[-1] - s + 1)) for s in seconds[:-1]] + [0]


def test_decades_apart():
    year = 365 * 86400
    assert biases([0, 20 * year, 33 * year]) == [30, 29, 0]
    assert biases([0, 30 * year, 90 * year])[0] == 31  # 34 years are the longest gap there is
