"""Samoyeds (arXiv 2503.10725): the product of structured sparse weights, 75% zeros, with a selection of tokens.

Of every 2 rows one is kept, chosen for each block of V = 128 columns; of the kept row, 2 of every 4 values are kept
(2:4 sparsity). Activations are not pruned: an expert reads its routed tokens through a selection list.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import checks
from .errors import ShapeError
from .registry import Size, define

BLOCK = 128  # V: columns for which the same row is kept


@dataclass(frozen=True, slots=True)
class SamoyedsWeight:
    """A `(rows, cols)` matrix, 75% zeros.

    Attributes:
        data: `(rows / 2, cols / 2)`: the kept values.
        indices: `(cols / 128, rows / 2)` uint8: which of two rows was kept in a block of columns.
        metadata: `(rows / 2, cols / 8)` uint8: the position of each value among its four columns, 2 bits per value.
    """

    data: Tensor
    indices: Tensor
    metadata: Tensor

    @property
    def shape(self) -> tuple[Size, Size]:
        """`(rows, cols)` of the decoded matrix."""
        return self.data.shape[0] * 2, self.data.shape[1] * 2

    @classmethod
    def encode(cls, weight: Tensor) -> "SamoyedsWeight":
        """Prune by magnitude and pack.

        Args:
            weight: `(rows, cols)` floating point; rows a multiple of 2, cols of 128.

        Returns:
            The packed weight: of each two rows in a block of columns the heavier one, two of its every four values.

        Raises:
            ShapeError, DtypeError: A weight that cannot be packed.
        """
        checks.dtype("weight", weight)
        checks.rank("weight", weight, ("rows", "cols"))
        rows, cols = weight.shape
        if rows % 2 or cols % BLOCK:
            raise ShapeError(f"weight has shape {tuple(weight.shape)}; expected rows a multiple of 2, cols of {BLOCK}")
        blocks = weight.detach().reshape(rows // 2, 2, cols // BLOCK, BLOCK)
        fours = blocks.view(*blocks.shape[:3], -1, 4)
        kept = fours.abs().float().square().topk(2, -1).values.sum((-1, -2))  # what a row would keep after 2:4
        choice = kept.argmax(1)  # (rows / 2, blocks)
        row = fours.gather(1, choice[:, None, :, None, None].expand(-1, 1, -1, BLOCK // 4, 4)).squeeze(1)
        place = row.abs().topk(2, -1).indices.sort(-1).values
        data = row.gather(-1, place).reshape(rows // 2, cols // 2)
        bits = place.reshape(rows // 2, cols // 8, 4) << torch.arange(0, 8, 2, device=weight.device)
        return cls(data, choice.T.contiguous().to(torch.uint8), bits.sum(-1).to(torch.uint8))

    def decode(self) -> Tensor:
        """The dense `(rows, cols)` matrix; differentiable in `data`."""
        row, col = _positions(self.indices, self.metadata)
        dense = self.data.new_zeros(self.shape)
        return dense.index_put((row, col), self.data)


def _positions(indices: Tensor, metadata: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column in the decoded matrix of every kept value: the paper's formula with N:M:V = 1:2:128."""
    place = _places(metadata)
    c = torch.arange(place.shape[1], device=metadata.device)
    r = torch.arange(metadata.shape[0], device=metadata.device)[:, None]
    return r * 2 + indices[c // (BLOCK // 2)].T.long(), place


def _places(metadata: Tensor) -> Tensor:
    """`(rows / 2, kept)`: the column of every kept value, counted from the first column of the metadata."""
    bits = (metadata[..., None] >> torch.arange(0, 8, 2, device=metadata.device)) & 3
    place = bits.reshape(metadata.shape[0], -1).long()
    return place + torch.arange(place.shape[1], device=metadata.device) // 2 * 4


def _dense(data: Tensor, indices: Tensor, metadata: Tensor) -> Tensor:
    return SamoyedsWeight(data, indices, metadata).decode()


def _matmul_cpu(x: Tensor, data: Tensor, indices: Tensor, metadata: Tensor, selection: Tensor | None) -> Tensor:
    picked = x if selection is None else x.index_select(0, selection)
    return picked @ _dense(data, indices, metadata).T


def _matmul_cuda(x: Tensor, data: Tensor, indices: Tensor, metadata: Tensor, selection: Tensor | None) -> Tensor:
    from .gpu import samoyeds as gpu

    return gpu.matmul(x, data, indices, metadata, selection)


def _matmul_fake(x: Tensor, data: Tensor, indices: Tensor, metadata: Tensor, selection: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0] if selection is None else selection.shape[0], data.shape[0] * 2)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """Both gradients, by blocks of 128 columns: only the kept one of two rows is multiplied, and one block is decoded."""
    x, data, indices, metadata, selection = ctx.saved_tensors
    want_x, want_data = ctx.needs_input_grad[:2]
    picked = x if selection is None else x.index_select(0, selection)
    pairs = torch.arange(data.shape[0], device=data.device) * 2
    dx, ddata = [], []
    for b in range(indices.shape[0]):
        kept = g.index_select(1, pairs + indices[b].long())  # (tokens, rows / 2)
        place = _places(metadata[:, b * BLOCK // 8 : (b + 1) * BLOCK // 8])
        if want_x:
            values = data[:, b * BLOCK // 2 : (b + 1) * BLOCK // 2]
            dx.append(kept @ values.new_zeros(values.shape[0], BLOCK).scatter(1, place, values))
        if want_data:
            ddata.append((kept.T @ picked[:, b * BLOCK : (b + 1) * BLOCK]).gather(1, place))
    whole = torch.cat(dx, 1) if want_x else None
    if whole is not None and selection is not None:
        whole = x.new_zeros(x.shape).index_add(0, selection, whole)
    return whole, torch.cat(ddata, 1) if want_data else None, None, None, None


_matmul = define(
    "samoyeds_matmul",
    "(Tensor x, Tensor data, Tensor indices, Tensor metadata, Tensor? selection) -> Tensor",
    cpu=_matmul_cpu,
    cuda=_matmul_cuda,
    fake=_matmul_fake,
    backward=_gradients,
    setup=_setup,
)


def sparse_moe_matmul(x: Tensor, weight: SamoyedsWeight, selection: Tensor | None = None) -> Tensor:
    """`x[selection] @ weight.decode().T` with the weight left packed (arXiv 2503.10725).

    Args:
        x: `(tokens, cols)` in the dtype of the weight's data.
        weight: The packed `(rows, cols)` matrix of one expert.
        selection: `(selected,)` int32 or int64 rows of x: the tokens routed to this expert; None: all.

    Returns:
        `(selected, rows)`; differentiable in x and in `weight.data`.

    Raises:
        ShapeError, DtypeError, DeviceError: An argument that does not fit the others.
    """
    checks.rank("x", x, ("tokens", "cols"))
    checks.dtype("x", x)
    checks.same_dtype("weight.data", weight.data, "x", x)
    checks.size("x", x, 1, weight.data.shape[1] * 2, "the columns of weight")
    if selection is not None:
        checks.rank("selection", selection, ("selected",))
        checks.dtype("selection", selection, checks.INTS)
    checks.devices(x=x, data=weight.data, indices=weight.indices, metadata=weight.metadata, selection=selection)
    out: Tensor = _matmul(x, weight.data, weight.indices, weight.metadata, selection)
    return out
