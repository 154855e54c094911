"""Semantic ids: a few codes for each content vector, by residual quantisation (RQ-VAE's codes, arXiv 2406.05898, 2306.08121).

Each level is a k-means of the residuals of the levels before. Similar vectors share their first codes, so an unseen item
shares embeddings with similar known items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenlake_models.errors import CheckpointError, InstancesError

_ROUNDS = 20
#: Least number of vectors per code, on average: with fewer, a code would identify a single item.
_PER_CODE = 4


@dataclass(frozen=True)
class ResidualQuantizer:
    """Codebooks of one vector feature; they never change after training, so a code keeps its meaning.

    Attributes:
        center: `(dim,)` mean of the training vectors.
        codebooks: `(levels, size, dim)`.
    """

    center: Float32[Tensor, " dim"]
    codebooks: Float32[Tensor, "levels size dim"]

    @classmethod
    def fit(cls, vectors: Float32[Tensor, "n dim"], levels: int, size: int, seed: int) -> ResidualQuantizer:
        """Train codebooks by k-means; fewer vectors than `4 * size` get smaller ones.

        Raises:
            InstancesError: no vector, or one that is not finite.
        """
        if not len(vectors) or not vectors.isfinite().all():
            raise InstancesError(
                f"{len(vectors)} vectors given to quantise; at least one is needed, all of them finite"
            )
        generator = torch.Generator().manual_seed(seed)
        center = vectors.mean(0)
        residual, books = vectors - center, []
        for _ in range(levels):
            books.append(_k_means(residual, max(1, min(size, len(vectors) // _PER_CODE)), generator))
            residual = residual - books[-1][_nearest(residual, books[-1])]
        return cls(center, torch.stack(books))

    def codes(self, vectors: Float32[Tensor, "n dim"]) -> Int64[Tensor, "n levels"]:
        """Codes from 1 for each level; 0 for a vector with NaN, which means a missing one.

        Raises:
            InstancesError: vectors of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.center):
            raise InstancesError(
                f"vectors of shape {tuple(vectors.shape)} given; the codebooks are {len(self.center)} wide"
            )
        there = vectors.isfinite().all(1)
        residual = torch.where(there.unsqueeze(1), vectors - self.center, 0.0)
        out = vectors.new_zeros(len(vectors), len(self.codebooks), dtype=torch.int64)
        for level, book in enumerate(self.codebooks):
            nearest = _nearest(residual, book)
            out[:, level] = torch.where(there, nearest + 1, 0)
            residual = residual - book[nearest]
        return out

    def decode(self, codes: Int64[Tensor, "n levels"]) -> Float32[Tensor, "n dim"]:
        """The vectors of codes from 1: the sum of their codebook entries."""
        return self.center + torch.stack([book[codes[:, i] - 1] for i, book in enumerate(self.codebooks)]).sum(0)


def save_quantizers(quantizers: Mapping[str, ResidualQuantizer], file: Path) -> None:
    """Write the codebooks of all features to one safetensors file."""
    tensors = {f"{name}/center": q.center for name, q in quantizers.items()}
    tensors |= {f"{name}/codebooks": q.codebooks for name, q in quantizers.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def load_quantizers(file: Path) -> dict[str, ResidualQuantizer]:
    """Read the file of `save_quantizers`; empty if there is no file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not file.exists():
        return {}
    try:
        tensors = load_file(file)
        names = {name.rpartition("/")[0] for name in tensors}
        return {n: ResidualQuantizer(tensors[f"{n}/center"], tensors[f"{n}/codebooks"]) for n in sorted(names)}
    except (SafetensorError, KeyError, OSError) as error:
        raise CheckpointError(f"{file} holds no codebooks: {error}") from error


def _nearest(x: Tensor, book: Tensor) -> Tensor:
    return torch.cat([torch.cdist(part, book).argmin(1) for part in torch.split(x, 8192)])


def _k_means(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    book = x[torch.randperm(len(x), generator=generator)[:size]].clone()
    for _ in range(_ROUNDS):
        nearest = _nearest(x, book)
        counts = torch.bincount(nearest, minlength=size)
        sums = torch.zeros_like(book).index_add(0, nearest, x)
        book = torch.where(counts.unsqueeze(1) > 0, sums / counts.clamp(min=1).unsqueeze(1), book)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):  # an unused code moves to the vector that is farthest from its own code
            far = (x - book[nearest]).norm(dim=1).topk(min(len(empty), len(x))).indices
            book[empty[: len(far)]] = x[far]
    return book
