"""Jagged kernels: values and offsets, never padding.

Every op takes a batch of rows of different lengths as `values (total, ...)` and `offsets (batch + 1,)`: row b is
`values[offsets[b]:offsets[b + 1]]`. One definition serves CPUs (compiled C++, or plain PyTorch), CUDA and ROCm GPUs
(Triton), tracing and autograd. `reference` holds a slow and obvious form of each; docs/kernels.md explains the rest.

    >>> import torch
    >>> from tokenlake_kernels import jagged_attention
    >>> offsets = torch.tensor([0, 3, 3, 7])  # rows of 3, 0 and 4 values
    >>> q, k, v = torch.randn(3, 7, 2, 16).unbind(0)
    >>> jagged_attention(q, k, v, offsets, causal=True).shape
    torch.Size([7, 2, 16])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import ArgumentError, DeviceError, DtypeError, KernelError, OffsetsError, ShapeError

if TYPE_CHECKING:
    from .ops import (
        SamoyedsWeight,
        gated_norm,
        grouped_gemm,
        hstu_attention,
        jagged_attention,
        jagged_concat,
        jagged_cross_attention,
        jagged_dense_add,
        jagged_dense_bmm,
        jagged_dense_mul,
        jagged_jagged_bmm,
        jagged_prefix_attention,
        jagged_softmax,
        jagged_split,
        jagged_time_differences,
        jagged_to_padded,
        padded_to_jagged,
        sparse_moe_matmul,
    )

__all__ = [
    "ArgumentError",
    "DeviceError",
    "DtypeError",
    "KernelError",
    "OffsetsError",
    "SamoyedsWeight",
    "ShapeError",
    "gated_norm",
    "grouped_gemm",
    "hstu_attention",
    "jagged_attention",
    "jagged_concat",
    "jagged_cross_attention",
    "jagged_dense_add",
    "jagged_dense_bmm",
    "jagged_dense_mul",
    "jagged_jagged_bmm",
    "jagged_prefix_attention",
    "jagged_softmax",
    "jagged_split",
    "jagged_time_differences",
    "jagged_to_padded",
    "padded_to_jagged",
    "sparse_moe_matmul",
]


def __getattr__(name: str) -> Any:
    """Import the ops at first use, since a token store without PyTorch imports `native_build` from here."""
    if name in __all__:
        return getattr(importlib.import_module(".ops", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
