"""Index arithmetic of jagged tensors: `values (total, ...)` beside `offsets (rows + 1,)`."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def offsets_of(lengths: Int64[Tensor, " rows"]) -> Int64[Tensor, " rows+1"]:
    """Offsets of rows of the given lengths: `[2, 0, 3] -> [0, 2, 2, 5]`."""
    offsets = lengths.new_zeros(len(lengths) + 1)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def ranges(starts: Int64[Tensor, " rows"], lengths: Int64[Tensor, " rows"]) -> Int64[Tensor, " total"]:
    """Concatenated index ranges: `starts [5, 0], lengths [2, 3] -> [5, 6, 0, 1, 2]`."""
    offsets = offsets_of(lengths)
    shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
    return torch.arange(len(shift), device=shift.device) + shift


def take_rows(
    values: Int64[Tensor, " total"], offsets: Int64[Tensor, " rows_1"], index: Int64[Tensor, " n"]
) -> tuple[Int64[Tensor, " taken"], Int64[Tensor, " n+1"]]:
    """The rows `index` of a jagged tensor, in that order."""
    starts = offsets[:-1][index]
    lengths = offsets[1:][index] - starts
    return values[ranges(starts, lengths)], offsets_of(lengths)


def row_numbers(offsets: Int64[Tensor, " rows_1"]) -> Int64[Tensor, " total"]:
    """The row of each value: `[0, 2, 2, 5] -> [0, 0, 2, 2, 2]`."""
    lengths = offsets.diff()
    return torch.repeat_interleave(torch.arange(len(lengths), device=offsets.device), lengths)
