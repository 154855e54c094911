"""Samoyeds on Triton: 2:4 values are decoded to their 128 columns in registers, then one product computes two rows.

Half the arithmetic of the dense product, and 3.5 times fewer bytes of weights; Triton does not support the sparse tensor
cores, which would save the other half.
"""

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from .grid import place, programs
from .launch import Kernel, LaunchConfig, launch, precision, tiles


@triton.jit
@no_type_check
def samoyeds_kernel(
    X, Data, Indices, Metadata, Selection, Out, half, cols, tokens,
    SELECTION: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`out[s, 2 r + index] += spread(data)[r] . x[selection[s]]` for a tile of packed rows r and of tokens s."""
    tile, _, token_tile = place(tl.cdiv(half, BLOCK_M), 1)
    r = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    s = token_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    source = s
    if SELECTION:
        source = tl.load(Selection + s, mask=s < tokens, other=0)
    even = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    odd = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    rows = (r < half)[:, None]
    Data += tl.cast(tile, tl.int64) * BLOCK_M * (cols // 2)
    Metadata += tl.cast(tile, tl.int64) * BLOCK_M * (cols // 8)
    line = tl.arange(0, BLOCK_M)[:, None]
    for k0 in range(0, cols, BLOCK_K):
        c = k0 + tl.arange(0, BLOCK_K)
        # Column c belongs to four c // 4, which kept the values 2 (c // 4) and the next; a byte tells of four values.
        pair = (c // 4 * 2)[None, :]
        bits = tl.load(Metadata + line * (cols // 8) + (c // 8)[None, :], mask=rows, other=0).to(tl.int32)
        bits = bits >> ((pair % 4) * 2)
        first = tl.load(Data + line * (cols // 2) + pair, mask=rows, other=0.0)
        second = tl.load(Data + line * (cols // 2) + pair + 1, mask=rows, other=0.0)
        slot = (c % 4)[None, :]
        w = tl.where((bits & 3) == slot, first, tl.where(((bits >> 2) & 3) == slot, second, 0.0)).to(
            Data.dtype.element_ty
        )
        x = tl.load(
            X + source[None, :] * cols + c[:, None], mask=(s < tokens)[None, :] & (c < cols)[:, None], other=0.0
        )
        part = tl.dot(w, x, input_precision=PRECISION)
        index = tl.load(Indices + (k0 // 128) * half + r, mask=r < half, other=0)
        even += tl.where((index == 0)[:, None], part, 0.0)
        odd += tl.where((index == 0)[:, None], 0.0, part)
    at = s[None, :] * (2 * half) + 2 * r[:, None]
    mask = rows & (s < tokens)[None, :]
    tl.store(Out + at, even.to(Out.dtype.element_ty), mask=mask)
    tl.store(Out + at + 1, odd.to(Out.dtype.element_ty), mask=mask)


def _configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    stages = 1 if vendor == "hip" else 2
    return (tiles(4, stages, BLOCK_M=32, BLOCK_N=32, BLOCK_K=64), tiles(4, stages, BLOCK_M=32, BLOCK_N=64, BLOCK_K=32))


def _no_sizes(dim: int) -> dict[str, int]:
    return {}


MATMUL = Kernel(
    samoyeds_kernel,
    {"X": "*T", "Data": "*T", "Indices": "*u8", "Metadata": "*u8", "Selection": "*i64", "Out": "*T",
     "half": "i32", "cols": "i32", "tokens": "i32"},
    ({"SELECTION": False, "PRECISION": "ieee"}, {"SELECTION": True, "PRECISION": "ieee"}),
    _configs,
    _no_sizes,
)  # fmt: skip
KERNELS = (MATMUL,)


def matmul(x: Tensor, data: Tensor, indices: Tensor, metadata: Tensor, selection: Tensor | None) -> Tensor:
    """`x[selection]` times the packed matrix, transposed."""
    x = x.contiguous()
    tokens = x.shape[0] if selection is None else selection.shape[0]
    half, cols = data.shape[0], data.shape[1] * 2
    out = x.new_empty(tokens, 2 * half)
    if out.numel():
        picks = None if selection is None else selection.long()
        args = (x, data.contiguous(), indices.contiguous(), metadata.contiguous(), picks, out, half, cols, tokens)
        launch(
            MATMUL, lambda t: programs(triton.cdiv(half, t["BLOCK_M"]), 1, triton.cdiv(tokens, t["BLOCK_N"])), args,
            dim=cols, like=x, rows=tokens, SELECTION=selection is not None, PRECISION=precision(x.dtype),
        )  # fmt: skip
    return out
