"""Feature interaction on Triton: products, softmax, broadcasting, copies and time differences over jagged rows.

No kernel here needs the longest row: the programs of a row loop over it with a stride, so no call waits for the device.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .grid import place, programs
from .launch import Kernel, LaunchConfig, launch, precision, tiles

# ---- products ---------------------------------------------------------------------------------------------------


@triton.jit
@no_type_check
def dense_bmm_kernel(
    X, Dense, Out, Offsets, Index, inner, outer, x_row, d_row, d_inner, d_outer, splits,
    INDEX: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows of X (picked by Index) of one group times the group's matrix; a program strides over tiles of rows."""
    tile, split, row = place(tl.cdiv(outer, BLOCK_N), splits)
    start, end = tl.load(Offsets + row), tl.load(Offsets + row + 1)
    c = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    for m0 in range(start + split * BLOCK_M, end, splits * BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        source = m
        if INDEX:
            source = tl.load(Index + m, mask=m < end, other=0)
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k0 in range(0, inner, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            x = tl.load(
                X + source[:, None] * x_row + k[None, :], mask=(m < end)[:, None] & (k < inner)[None, :], other=0.0
            )
            at = row * d_row + k.to(tl.int64)[:, None] * d_inner + c.to(tl.int64)[None, :] * d_outer
            w = tl.load(Dense + at, mask=(k < inner)[:, None] & (c < outer)[None, :], other=0.0)
            acc = tl.dot(x, w, acc, input_precision=PRECISION)
        mask = (m < end)[:, None] & (c < outer)[None, :]
        tl.store(Out + m[:, None] * outer + c[None, :], acc.to(Out.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def jagged_bmm_kernel(
    X, Y, Out, Offsets, Index, left, right, x_row, y_row,
    INDEX: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of X^T Y of one row: a sum over the row's length."""
    tile, across, row = place(tl.cdiv(left, BLOCK_M), tl.cdiv(right, BLOCK_N))
    start, end = tl.load(Offsets + row), tl.load(Offsets + row + 1)
    a = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    b = across * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k0 in range(start, end, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        source = k
        if INDEX:
            source = tl.load(Index + k, mask=k < end, other=0)
        x = tl.load(X + source[:, None] * x_row + a[None, :], mask=(k < end)[:, None] & (a < left)[None, :], other=0.0)
        y = tl.load(Y + k[:, None] * y_row + b[None, :], mask=(k < end)[:, None] & (b < right)[None, :], other=0.0)
        acc = tl.dot(tl.trans(x), y, acc, input_precision=PRECISION)
    at = (row * left + a)[:, None] * right + b[None, :]
    tl.store(Out + at, acc.to(Out.dtype.element_ty), mask=(a < left)[:, None] & (b < right)[None, :])


# ---- softmax ----------------------------------------------------------------------------------------------------


@triton.jit
@no_type_check
def softmax_kernel(X, Out, Offsets, cols, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Softmax over one row's length, for a tile of columns: maximum and sum in one pass, values in a second."""
    tile, _, row = place(tl.cdiv(cols, BLOCK_N), 1)
    start, end = tl.load(Offsets + row), tl.load(Offsets + row + 1)
    c = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    for m0 in range(start, end, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        mask = (m < end)[:, None] & (c < cols)[None, :]
        x = tl.load(X + m[:, None] * cols + c[None, :], mask=mask, other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, tl.max(x, 0))
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(x - base[None, :]), 0)
        top = new
    top = tl.where(top == float("-inf"), 0.0, top)
    total = tl.where(total == 0.0, 1.0, total)
    for m0 in range(start, end, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        mask = (m < end)[:, None] & (c < cols)[None, :]
        x = tl.load(X + m[:, None] * cols + c[None, :], mask=mask, other=0.0).to(tl.float32)
        y = tl.exp(x - top[None, :]) / total[None, :]
        tl.store(Out + m[:, None] * cols + c[None, :], y.to(Out.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def softmax_backward_kernel(Y, G, DX, Offsets, cols, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """`y (g - sum over the row of g y)` for a tile of columns."""
    tile, _, row = place(tl.cdiv(cols, BLOCK_N), 1)
    start, end = tl.load(Offsets + row), tl.load(Offsets + row + 1)
    c = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_N], tl.float32)
    for m0 in range(start, end, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        mask = (m < end)[:, None] & (c < cols)[None, :]
        y = tl.load(Y + m[:, None] * cols + c[None, :], mask=mask, other=0.0).to(tl.float32)
        g = tl.load(G + m[:, None] * cols + c[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(y * g, 0)
    for m0 in range(start, end, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        mask = (m < end)[:, None] & (c < cols)[None, :]
        y = tl.load(Y + m[:, None] * cols + c[None, :], mask=mask, other=0.0).to(tl.float32)
        g = tl.load(G + m[:, None] * cols + c[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(DX + m[:, None] * cols + c[None, :], (y * (g - total[None, :])).to(DX.dtype.element_ty), mask=mask)


# ---- elementwise and copies -------------------------------------------------------------------------------------


@triton.jit
@no_type_check
def broadcast_kernel(
    X,
    Dense,
    Out,
    Offsets,
    dim,
    d_row,
    d_len,
    d_col,
    splits,
    MUL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """`x + dense` or `x * dense` over one row; a stride of 0 broadcasts."""
    tile, split, row = place(tl.cdiv(dim, BLOCK_N), splits)
    start, end = tl.load(Offsets + row), tl.load(Offsets + row + 1)
    c = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    for m0 in range(start + split * BLOCK_M, end, splits * BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        mask = (m < end)[:, None] & (c < dim)[None, :]
        at = m[:, None] * dim + c[None, :]
        x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
        from_dense = row * d_row + (m - start)[:, None] * d_len + c[None, :] * d_col
        w = tl.load(Dense + from_dense, mask=mask, other=0.0).to(tl.float32)
        y = x + w
        if MUL:
            y = x * w
        tl.store(Out + at, y.to(Out.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def copy_kernel(Src, Dst, SrcStarts, DstStarts, Lengths, width, splits, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """One segment of rows from Src to Dst."""
    tile, split, segment = place(tl.cdiv(width, BLOCK_N), splits)
    source, target = tl.load(SrcStarts + segment), tl.load(DstStarts + segment)
    length = tl.load(Lengths + segment)
    c = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    for m0 in range(split * BLOCK_M, length, splits * BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        mask = (m < length)[:, None] & (c < width)[None, :]
        x = tl.load(Src + (source + m)[:, None] * width + c[None, :], mask=mask)
        tl.store(Dst + (target + m)[:, None] * width + c[None, :], x, mask=mask)


@triton.jit
@no_type_check
def time_differences_kernel(Times, Out, Offsets, OutOffsets, splits, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """`t_i - t_j` for all pairs of one row."""
    split, _, row = place(splits, 1)
    start = tl.load(Offsets + row)
    length = tl.load(Offsets + row + 1) - start
    base = tl.load(OutOffsets + row)
    for i0 in range(split * BLOCK_M, length, splits * BLOCK_M):
        i = i0 + tl.arange(0, BLOCK_M)
        ti = tl.load(Times + start + i, mask=i < length, other=0)
        for j0 in range(0, length, BLOCK_N):
            j = j0 + tl.arange(0, BLOCK_N)
            tj = tl.load(Times + start + j, mask=j < length, other=0)
            mask = (i < length)[:, None] & (j < length)[None, :]
            tl.store(Out + base + i[:, None] * length + j[None, :], ti[:, None] - tj[None, :], mask=mask)


# ---- how they ship ----------------------------------------------------------------------------------------------


def _product_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    warps, stages = (4, 1) if vendor == "hip" else (8, 3)
    return (
        tiles(warps, stages, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32),
        tiles(warps, stages, BLOCK_M=128, BLOCK_N=64, BLOCK_K=32),
        tiles(4, stages, BLOCK_M=32, BLOCK_N=32, BLOCK_K=32),
    )


def _flat_configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    return (tiles(4, 1, BLOCK_M=32, BLOCK_N=32),)


def _no_sizes(dim: int) -> dict[str, int]:
    return {}


_INDEXED = ({"INDEX": False, "PRECISION": "ieee"}, {"INDEX": True, "PRECISION": "ieee"})
DENSE_BMM = Kernel(
    dense_bmm_kernel,
    {"X": "*T", "Dense": "*T", "Out": "*T", "Offsets": "*i64", "Index": "*i64", "inner": "i32", "outer": "i32",
     "x_row": "i32", "d_row": "i32", "d_inner": "i32", "d_outer": "i32", "splits": "i32"},
    _INDEXED, _product_configs, _no_sizes,
)  # fmt: skip
JAGGED_BMM = Kernel(
    jagged_bmm_kernel,
    {"X": "*T", "Y": "*T", "Out": "*T", "Offsets": "*i64", "Index": "*i64", "left": "i32", "right": "i32", "x_row": "i32", "y_row": "i32"},
    _INDEXED, _product_configs, _no_sizes,
)  # fmt: skip
SOFTMAX = Kernel(
    softmax_kernel,
    {"X": "*T", "Out": "*T", "Offsets": "*i64", "cols": "i32"},
    ({},),
    _flat_configs,
    _no_sizes,
    dots=False,
)
SOFTMAX_BACKWARD = Kernel(
    softmax_backward_kernel,
    {"Y": "*T", "G": "*T", "DX": "*T", "Offsets": "*i64", "cols": "i32"},
    ({},), _flat_configs, _no_sizes, dots=False,
)  # fmt: skip
BROADCAST = Kernel(
    broadcast_kernel,
    {"X": "*T", "Dense": "*T", "Out": "*T", "Offsets": "*i64", "dim": "i32", "d_row": "i32", "d_len": "i32", "d_col": "i32", "splits": "i32"},
    ({"MUL": False}, {"MUL": True}), _flat_configs, _no_sizes, dots=False,
)  # fmt: skip
COPY = Kernel(
    copy_kernel,
    {"Src": "*T", "Dst": "*T", "SrcStarts": "*i64", "DstStarts": "*i64", "Lengths": "*i64", "width": "i32", "splits": "i32"},
    ({},), _flat_configs, _no_sizes, dots=False,
)  # fmt: skip
TIME_DIFFERENCES = Kernel(
    time_differences_kernel,
    {"Times": "*i64", "Out": "*i64", "Offsets": "*i64", "OutOffsets": "*i64", "splits": "i32"},
    ({},), _flat_configs, _no_sizes, dots=False,
)  # fmt: skip
KERNELS = (DENSE_BMM, JAGGED_BMM, SOFTMAX, SOFTMAX_BACKWARD, BROADCAST, COPY, TIME_DIFFERENCES)


def _splits(total: int, rows: int, block: int) -> int:
    """Number of programs per row: enough for a row of twice the mean length, independent of the longest one."""
    return max(1, min(64, -(-2 * total // (max(1, rows) * block))))


def dense_bmm(x: Tensor, dense: Tensor, offsets: Tensor, index: Tensor | None) -> Tensor:
    """Groups of rows of x (picked by index) times their matrices; any strides of `dense`."""
    x = x.contiguous()
    rows = x.shape[0] if index is None else index.shape[0]
    batch, inner, outer = dense.shape
    out = x.new_empty(rows, outer)
    if not rows or not outer:
        return out
    picks = None if index is None else index.long()
    splits = _splits(rows, batch, 64)
    args = (x, dense, out, offsets.long(), picks, inner, outer, x.stride(0), *dense.stride(), splits)
    launch(
        DENSE_BMM, lambda t: programs(triton.cdiv(outer, t["BLOCK_N"]), splits, batch), args,
        dim=inner, like=x, rows=rows, INDEX=index is not None, PRECISION=precision(x.dtype),
    )  # fmt: skip
    return out


def jagged_bmm(x: Tensor, y: Tensor, offsets: Tensor, index: Tensor | None) -> Tensor:
    """x^T y of every row, rows of x picked by index."""
    x, y = x.contiguous(), y.contiguous()
    batch, left, right = offsets.shape[0] - 1, x.shape[1], y.shape[1]
    out = x.new_zeros(batch, left, right)
    if not out.numel() or not y.shape[0]:
        return out
    args = (x, y, out, offsets.long(), None if index is None else index.long(), left, right, x.stride(0), y.stride(0))
    launch(
        JAGGED_BMM, lambda t: programs(triton.cdiv(left, t["BLOCK_M"]), triton.cdiv(right, t["BLOCK_N"]), batch), args,
        dim=left, like=x, rows=y.shape[0], INDEX=index is not None, PRECISION=precision(x.dtype),
    )  # fmt: skip
    return out


def softmax(x: Tensor, offsets: Tensor) -> Tensor:
    """Softmax over the length of each row."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.numel():
        batch, cols = offsets.shape[0] - 1, x.shape[1]
        args = (x, out, offsets.long(), cols)
        launch(
            SOFTMAX,
            lambda t: programs(triton.cdiv(cols, t["BLOCK_N"]), 1, batch),
            args,
            dim=cols,
            like=x,
            rows=x.shape[0],
        )
    return out


def softmax_backward(y: Tensor, g: Tensor, offsets: Tensor) -> Tensor:
    """`y (g - sum over the row of g y)`."""
    y, g = y.contiguous(), g.contiguous()
    out = torch.empty_like(y)
    if y.numel():
        batch, cols = offsets.shape[0] - 1, y.shape[1]
        args = (y, g, out, offsets.long(), cols)
        launch(
            SOFTMAX_BACKWARD,
            lambda t: programs(triton.cdiv(cols, t["BLOCK_N"]), 1, batch),
            args,
            dim=cols,
            like=y,
            rows=y.shape[0],
        )
    return out


def broadcast(x: Tensor, dense: Tensor, offsets: Tensor, *, mul: bool) -> Tensor:
    """`x + dense` or `x * dense`, row by row."""
    x, dense = x.contiguous(), dense.contiguous()
    out = torch.empty_like(x)
    if x.numel():
        batch, dim = offsets.shape[0] - 1, x.shape[1]
        strides = tuple(0 if size == 1 else step for size, step in zip(dense.shape, dense.stride(), strict=True))
        splits = _splits(x.shape[0], batch, 32)
        args = (x, dense, out, offsets.long(), dim, dense.stride(0), *strides[1:], splits)
        launch(
            BROADCAST,
            lambda t: programs(triton.cdiv(dim, t["BLOCK_N"]), splits, batch),
            args,
            dim=dim,
            like=x,
            rows=x.shape[0],
            MUL=mul,
        )
    return out


def copy_segments(src: Tensor, src_starts: Tensor, dst_starts: Tensor, lengths: Tensor, dst: Tensor) -> None:
    """`dst[dst_starts[s] + i] = src[src_starts[s] + i]` for i < lengths[s]."""
    src = src.contiguous()
    if not src.numel() or not dst.numel():
        return
    width, segments = src[:1].numel(), lengths.shape[0]
    splits = _splits(src.shape[0], segments, 32)
    args = (src, dst, src_starts.long(), dst_starts.long(), lengths.long(), width, splits)
    launch(
        COPY,
        lambda t: programs(triton.cdiv(width, t["BLOCK_N"]), splits, segments),
        args,
        dim=width,
        like=src,
        rows=src.shape[0],
    )


def time_differences(timestamps: Tensor, offsets: Tensor, total: int) -> Tensor:
    """`t_i - t_j` for all pairs of each row."""
    ends = offsets.long()
    out = timestamps.new_empty(total)
    if total:
        starts = torch.cat([ends.new_zeros(1), ends.diff().square().cumsum(0)])
        batch = ends.shape[0] - 1
        splits = _splits(timestamps.shape[0], batch, 32)
        args = (timestamps.contiguous(), out, ends, starts, splits)
        launch(
            TIME_DIFFERENCES,
            lambda t: programs(splits, 1, batch),
            args,
            dim=1,
            like=timestamps,
            rows=timestamps.shape[0],
        )
    return out
