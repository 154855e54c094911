"""Gated LayerNorm on Triton: one read of a and u, one write of the result; backward recomputes the normalised rows."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .grid import programs
from .launch import Kernel, LaunchConfig, launch, tiles


@triton.jit
@no_type_check
def _normalised(a, mask, dim, eps):
    """(x, 1 / deviation) of a tile of rows."""
    mean = tl.sum(a, 1) / dim
    centred = tl.where(mask, a - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / dim + eps)
    return centred * inverse[:, None], inverse


@triton.jit
@no_type_check
def gated_norm_kernel(
    A, U, Weight, Bias, Out, total, dim, eps, CONCAT: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr
):
    """A tile of rows of `u * layernorm(a)`, or of `[u, a, u * layernorm(a)]`."""
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    mask = (m < total)[:, None] & (d < dim)[None, :]
    at = m[:, None] * dim + d[None, :]
    a = tl.load(A + at, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(U + at, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(Weight + d, mask=d < dim, other=0.0).to(tl.float32)
    b = tl.load(Bias + d, mask=d < dim, other=0.0).to(tl.float32)
    x, _ = _normalised(a, mask, dim, eps)
    y = u * (x * w[None, :] + b[None, :])
    if CONCAT:
        out = Out + m[:, None] * (3 * dim) + d[None, :]
        tl.store(out, u.to(Out.dtype.element_ty), mask=mask)
        tl.store(out + dim, a.to(Out.dtype.element_ty), mask=mask)
        tl.store(out + 2 * dim, y.to(Out.dtype.element_ty), mask=mask)
    else:
        tl.store(Out + at, y.to(Out.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def gated_norm_backward_kernel(
    A, U, Weight, Bias, G, DA, DU, DWeight, DBias, total, dim, eps,
    CONCAT: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradients of every n-th tile; dWeight and dBias as one partial row per program, summed by the caller."""
    d = tl.arange(0, BLOCK_D)
    w = tl.load(Weight + d, mask=d < dim, other=0.0).to(tl.float32)
    b = tl.load(Bias + d, mask=d < dim, other=0.0).to(tl.float32)
    dw = tl.zeros([BLOCK_D], tl.float32)
    db = tl.zeros([BLOCK_D], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(total, BLOCK_M), tl.num_programs(0)):
        m = tl.cast(tile, tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = (m < total)[:, None] & (d < dim)[None, :]
        at = m[:, None] * dim + d[None, :]
        a = tl.load(A + at, mask=mask, other=0.0).to(tl.float32)
        u = tl.load(U + at, mask=mask, other=0.0).to(tl.float32)
        x, inverse = _normalised(a, mask, dim, eps)
        if CONCAT:
            wide = G + m[:, None] * (3 * dim) + d[None, :]
            du = tl.load(wide, mask=mask, other=0.0).to(tl.float32)
            da = tl.load(wide + dim, mask=mask, other=0.0).to(tl.float32)
            g = tl.load(wide + 2 * dim, mask=mask, other=0.0).to(tl.float32)
        else:
            du = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
            da = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
            g = tl.load(G + at, mask=mask, other=0.0).to(tl.float32)
        dn = g * u
        dx = dn * w[None, :]
        dw += tl.sum(dn * x, 0)
        db += tl.sum(dn, 0)
        du += g * (x * w[None, :] + b[None, :])
        da += (dx - (tl.sum(dx, 1) / dim)[:, None] - x * (tl.sum(dx * x, 1) / dim)[:, None]) * inverse[:, None]
        tl.store(DU + at, du.to(DU.dtype.element_ty), mask=mask)
        tl.store(DA + at, da.to(DA.dtype.element_ty), mask=mask)
    part = tl.program_id(0) * dim + d
    tl.store(DWeight + part, dw, mask=d < dim)
    tl.store(DBias + part, db, mask=d < dim)


def _sizes(dim: int) -> dict[str, int]:
    return {"BLOCK_D": max(16, triton.next_power_of_2(dim))}


def _configs(dim: int, vendor: str) -> tuple[LaunchConfig, ...]:
    width = max(16, triton.next_power_of_2(dim))
    return (tiles(min(16, max(4, width // 256)), 1, BLOCK_M=max(1, min(16, 2048 // width))),)


_IN = {"A": "*T", "U": "*T", "Weight": "*T", "Bias": "*T"}
_COUNTS = {"total": "i32", "dim": "i32", "eps": "fp32"}
_FLAGS = ({"CONCAT": False}, {"CONCAT": True})
_WIDTHS = (128, 256, 512, 1024, 2048)  # heads times their dimension
FORWARD = Kernel(gated_norm_kernel, _IN | {"Out": "*T"} | _COUNTS, _FLAGS, _configs, _sizes, dots=False, dims=_WIDTHS)
BACKWARD = Kernel(
    gated_norm_backward_kernel,
    _IN | {"G": "*T", "DA": "*T", "DU": "*T", "DWeight": "*fp32", "DBias": "*fp32"} | _COUNTS,
    _FLAGS,
    _configs,
    _sizes,
    dots=False,
    dims=_WIDTHS,
)
KERNELS = (FORWARD, BACKWARD)
_PROGRAMS = 256  # partial sums of the backward; fixed, so that the order of additions is fixed


def gated_norm(a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, *, concat: bool) -> Tensor:
    """As `cpu.eager.gated_norm`."""
    a, u = a.contiguous(), u.contiguous()
    total, dim = a.shape
    out = a.new_empty(total, 3 * dim if concat else dim)
    if a.numel():
        args = (a, u, weight.contiguous(), bias.contiguous(), out, total, dim, eps)
        launch(
            FORWARD,
            lambda t: programs(triton.cdiv(total, t["BLOCK_M"])),
            args,
            dim=dim,
            like=a,
            rows=total,
            CONCAT=concat,
        )
    return out


def gated_norm_backward(
    g: Tensor, a: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, *, concat: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `cpu.eager.gated_norm_backward`."""
    a, u, g = a.contiguous(), u.contiguous(), g.contiguous()
    total, dim = a.shape
    da, du = torch.empty_like(a), torch.empty_like(u)
    dweight, dbias = (torch.zeros(_PROGRAMS, dim, dtype=torch.float32, device=a.device) for _ in range(2))
    if a.numel():
        args = (a, u, weight.contiguous(), bias.contiguous(), g, da, du, dweight, dbias, total, dim, eps)
        launch(
            BACKWARD,
            lambda t: programs(min(_PROGRAMS, triton.cdiv(total, t["BLOCK_M"]))),
            args,
            dim=dim,
            like=a,
            rows=total,
            CONCAT=concat,
        )
    return da, du, dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype)
