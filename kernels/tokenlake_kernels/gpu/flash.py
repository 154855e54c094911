"""Common parts of the attention kernels: addressing of rows, the steps of flash attention, and host functions.

Triton inlines the device functions into the kernels that call them.
"""

import operator
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .grid import place, programs
from .launch import Kernel, LaunchConfig, head_sizes, launch, tiles

# Triton reads these functions' source, not their bytecode: the checks of tests must not wrap them (@no_type_check).


@triton.jit
@no_type_check
def row_bounds(Offsets, row):
    """Start and length of a row."""
    start = tl.load(Offsets + row)
    return start, (tl.load(Offsets + row + 1) - start).to(tl.int32)


@triton.jit
@no_type_check
def row_at(base, start, token, head, step):
    """Pointer to the first value of a row and head."""
    return base + start * token + tl.cast(head, tl.int64) * step


@triton.jit
@no_type_check
def lines(base, line, stride, column, WIDE: tl.constexpr):
    """Pointers to a tile, one line of the matrix below the other; with WIDE (`is_wide`) in 64 bits, at more registers."""
    if WIDE:
        line = line.to(tl.int64)
    return base + line[:, None] * stride + column[None, :]


@triton.jit
@no_type_check
def lines_across(base, line, stride, column, WIDE: tl.constexpr):
    """As `lines`, one line beside the other."""
    if WIDE:
        line = line.to(tl.int64)
    return base + line[None, :] * stride + column[:, None]


@triton.jit
@no_type_check
def half_octaves(gap, size):
    """Buckets of |gap|, read from the bits of float32 (reference.time_buckets)."""
    wide = tl.maximum(tl.where(gap < 0, -gap, gap), 1).to(tl.float32)
    return tl.minimum((wide.to(tl.int32, bitcast=True) - 0x3F800000) >> 22, size - 1)


@triton.jit
@no_type_check
def online_softmax_step(s, v, top, total, acc, PRECISION: tl.constexpr):
    """A tile of base-2 scores and its values join the running maximum, sum and weighted sum of the queries."""
    new = tl.maximum(top, tl.max(s, 1))
    base = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp2(s - base[:, None])
    fade = tl.exp2(top - base)
    total = total * fade + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
    return new, total, acc


@triton.jit
@no_type_check
def probs_and_dscores(g, v, s, lse, delta, PRECISION: tl.constexpr):
    """Probabilities of a tile of base-2 scores, recomputed, and the gradient of its scores."""
    p = tl.exp2(s - lse[:, None])
    return p, p * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - delta[:, None])


@triton.jit
@no_type_check
def delta_kernel(
    G, Out, Delta, g_token, g_head, heads, total, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr
):
    """`sum(g * out)` of every query and head."""
    tile, _, head = place(tl.cdiv(total, BLOCK_M), 1)
    i, d = tl.cast(tile, tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    mask = (i < total)[:, None] & (d < DIM)[None, :]
    g = tl.load(G + i[:, None] * g_token + head * g_head + d[None, :], mask=mask, other=0.0).to(tl.float32)
    o = tl.load(Out + (i[:, None] * heads + head) * DIM + d[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(Delta + head * total + i, tl.sum(g * o, 1), mask=i < total)


QKV = {"q_token": "i32", "q_head": "i32", "k_token": "i32", "k_head": "i32", "v_token": "i32", "v_head": "i32"}
QKVG = QKV | {"g_token": "i32", "g_head": "i32"}
DELTA = Kernel(
    delta_kernel,
    {"G": "*T", "Out": "*T", "Delta": "*fp32", "g_token": "i32", "g_head": "i32", "heads": "i32", "total": "i32"},
    ({},),
    lambda dim, vendor: (tiles(4, 1, BLOCK_M=32),),
    head_sizes,
    dots=False,
)
KERNELS = (DELTA,)


def pairs(*sizes: tuple[int, int, int, int]) -> tuple[LaunchConfig, ...]:
    """Configurations from (queries, keys, warps, stages)."""
    return tuple(tiles(warps, stages, BLOCK_M=m, BLOCK_N=n) for m, n, warps, stages in sizes)


def dense_last(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Make the last dimension contiguous; the kernels support any other strides."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def strides(*tensors: Tensor) -> tuple[int, ...]:
    """The (token, head) strides of all tensors, concatenated."""
    return tuple(s for x in tensors for s in x.stride()[:2])


def is_wide(*tensors: Tensor | None) -> bool:
    """Whether a tensor, or its contiguous copy, spans 2^31 values, so that addresses within it need 64 bits."""
    given = (x for x in tensors if x is not None)
    return any(max(x.numel(), sum(map(operator.mul, x.shape, x.stride()))) >= 2**31 for x in given)


def table_sizes(table: Tensor | None) -> tuple[int, int]:
    """(entries, stride between heads) of a bias table."""
    return (0, 0) if table is None else (table.shape[1], 0 if table.shape[0] == 1 else table.shape[1])


def delta(g: Tensor, out: Tensor) -> Tensor:
    """`(heads, queries)` float32: `sum(g * out)`."""
    n, heads, dim = g.shape
    found = torch.empty(heads, n, dtype=torch.float32, device=g.device)
    args = (g, out.contiguous(), found, *g.stride()[:2], heads, n)
    launch(DELTA, lambda t: programs(triton.cdiv(n, t["BLOCK_M"]), 1, heads), args, dim=dim, like=g, rows=n)
    return found
