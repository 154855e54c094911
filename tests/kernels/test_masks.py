"""The masks, drawn by hand."""

from __future__ import annotations

import pytest
import torch

import tokenlake_kernels as kernels
from tests.kernels.batches import offsets_of
from tokenlake_kernels.masks import FAR, HstuMask
from tokenlake_kernels.reference import band_mask, hstu_mask, time_buckets

DRAWN = {
    # the example of the paper's summary: six rows of history, the last two see everything
    "local 2, tail 2": ({"local": 2, "tail": 2}, 0, "100000 110000 111000 011100 111110 111111"),
    "local 2": ({"local": 2}, 0, "100000 110000 111000 011100 001110 000111"),
    "local 0": ({"local": 0}, 0, "100000 010000 001000 000100 000010 000001"),
    "full": ({}, 0, "100000 110000 111000 111100 111110 111111"),
    "local 1, prefix 1": ({"local": 1, "prefix": 1}, 0, "100000 110000 111000 101100 100110 100011"),
    "two targets": ({}, 2, "100000 110000 111000 111100 111110 111101"),
    "two targets, local 1": ({"local": 1}, 2, "100000 110000 011000 001100 111110 111101"),
    "two targets that see locally": (
        {"local": 2, "target_local": True},
        2,
        "100000 110000 111000 011100 001110 001101",
    ),
    "contextual 2, local 1": ({"local": 1, "contextual": 2}, 0, "110000 110000 111000 111100 110110 110011"),
    "tail and targets": ({"local": 1, "tail": 1}, 2, "100000 110000 011000 111100 111110 111101"),
}


def _drawn(text: str) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in row] for row in text.split()])


@pytest.mark.parametrize("name", DRAWN)
def test_hstu_masks(name: str) -> None:
    how, targets, text = DRAWN[name]
    assert torch.equal(hstu_mask(6, targets, **how), _drawn(text))
    numbers = HstuMask(
        how.get("local", FAR),
        how.get("tail", 0),
        how.get("prefix", 0),
        how.get("contextual", 0),
        how.get("target_local", False),
    )
    i = torch.arange(6)
    assert torch.equal(numbers.seen(i[:, None], i[None, :], 6 - targets), _drawn(text))


@pytest.mark.parametrize("name", DRAWN)
def test_the_op_sees_what_is_drawn(name: str) -> None:
    how, targets, text = DRAWN[name]
    q = torch.full((6, 1, 16), 1.0)
    v = torch.eye(6, 16)[:, None]  # each value marks its own column
    out = kernels.hstu_attention(q, q, v, offsets_of([6]), norm=1, num_targets=torch.tensor([targets]), **how)
    assert torch.equal(out[:, 0, :6] > 0, _drawn(text))


def test_band_masks() -> None:
    assert torch.equal(band_mask(3, 3, causal=True, window=1), _drawn("100 110 011"))
    assert torch.equal(band_mask(3, 3, causal=False, window=1), _drawn("110 111 011"))
    assert torch.equal(band_mask(2, 3, causal=False, window=None), _drawn("111 111"))


def test_time_buckets_are_half_octaves() -> None:
    gaps = torch.tensor([0, 1, -1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 1 << 40, -(1 << 40)])
    assert time_buckets(gaps, 100).tolist() == [0, 0, 0, 2, 3, 4, 4, 5, 5, 6, 7, 8, 80, 80]
    assert time_buckets(gaps, 5).max() == 4


def test_deleting_the_future_changes_nothing_before_it() -> None:
    """Every mask but the tail: what a row sees must not depend on where the sequence ends."""
    q, k, v = torch.randn(3, 90, 2, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    for how in ({}, {"local": 5}, {"local": 5, "prefix": 3}, {"local": 5, "contextual": 3}):
        whole = kernels.hstu_attention(q, k, v, offsets_of([90]), norm=90, **how)
        cut = kernels.hstu_attention(q[:50], k[:50], v[:50], offsets_of([50]), norm=90, **how)
        torch.testing.assert_close(whole[:50], cut, atol=1e-6, rtol=1e-6)
    tail = {"local": 5, "tail": 10}
    whole = kernels.hstu_attention(q, k, v, offsets_of([90]), norm=90, **tail)
    cut = kernels.hstu_attention(q[:50], k[:50], v[:50], offsets_of([50]), norm=90, **tail)
    assert not torch.allclose(whole[:50], cut)
