"""Residual quantisation: codes by hand, what they keep of the vectors, and that they are fixed once made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokenlake_models.errors import CheckpointError, InstancesError
from tokenlake_models.semantic_ids import ResidualQuantizer, load_quantizers, save_quantizers


def clusters(n: int = 400, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(4, 8, generator=torch.Generator().manual_seed(9)) * 5
    return centers[torch.arange(n) % 4] + torch.randn(n, 8, generator=g) * 0.1


def test_codes_by_hand() -> None:
    books = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
    quantizer = ResidualQuantizer(torch.tensor([1.0, 1.0]), books)
    given = torch.tensor([[11.0, 2.0], [1.0, 0.1], [torch.nan, 0.0]])
    assert quantizer.codes(given).tolist() == [[2, 1], [1, 2], [0, 0]]
    assert quantizer.decode(torch.tensor([[2, 1]])).tolist() == [[11.0, 2.0]]


def test_like_vectors_share_codes_and_each_level_comes_closer() -> None:
    x = clusters()
    quantizer = ResidualQuantizer.fit(x, levels=3, size=16, seed=0)
    codes = quantizer.codes(clusters(seed=1))  # vectors that were never met
    first = codes[:, 0]
    for kind in range(4):
        assert not set(first[kind::4].tolist()) & set(first[torch.arange(len(x)) % 4 != kind].tolist())
    errors = [
        (
            x - ResidualQuantizer(quantizer.center, quantizer.codebooks[:level]).decode(quantizer.codes(x)[:, :level])
        ).norm()
        for level in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert torch.equal(quantizer.codebooks, ResidualQuantizer.fit(x, levels=3, size=16, seed=0).codebooks)


def test_few_vectors_or_one() -> None:
    one = ResidualQuantizer.fit(torch.ones(1, 3), levels=2, size=64, seed=0)
    assert one.codes(torch.ones(2, 3)).tolist() == [[1, 1], [1, 1]]
    assert ResidualQuantizer.fit(clusters(40), levels=2, size=64, seed=0).codebooks.shape == (2, 10, 8)
    same = ResidualQuantizer.fit(torch.ones(50, 3), levels=2, size=8, seed=0)
    assert same.codebooks.isfinite().all()


def test_saved_and_damaged(tmp_path: Path) -> None:
    quantizer = ResidualQuantizer.fit(clusters(), levels=2, size=8, seed=0)
    assert load_quantizers(tmp_path / "none") == {}
    save_quantizers({"image": quantizer}, tmp_path / "codes.safetensors")
    loaded = load_quantizers(tmp_path / "codes.safetensors")
    assert torch.equal(loaded["image"].codebooks, quantizer.codebooks)
    assert torch.equal(loaded["image"].codes(clusters()), quantizer.codes(clusters()))
    (tmp_path / "codes.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="codebooks"):
        load_quantizers(tmp_path / "codes.safetensors")


def test_what_cannot_be_quantised() -> None:
    with pytest.raises(InstancesError, match="0 vectors"):
        ResidualQuantizer.fit(torch.zeros(0, 3), 2, 4, 0)
    with pytest.raises(InstancesError, match="finite"):
        ResidualQuantizer.fit(torch.full((5, 3), torch.nan), 2, 4, 0)
    with pytest.raises(InstancesError, match="3 wide"):
        ResidualQuantizer.fit(torch.ones(9, 3), 2, 4, 0).codes(torch.ones(1, 4))
