"""The public surface is exactly what the contract says."""

from __future__ import annotations

import tokenlake_kernels

CONTRACT = {
    "hstu_attention",
    "jagged_attention",
    "jagged_cross_attention",
    "jagged_dense_add",
    "jagged_dense_bmm",
    "jagged_dense_mul",
    "jagged_jagged_bmm",
    "jagged_softmax",
    "jagged_to_padded",
    "padded_to_jagged",
}
BEYOND = {
    "SamoyedsWeight",
    "gated_norm",
    "grouped_gemm",
    "jagged_concat",
    "jagged_prefix_attention",
    "jagged_split",
    "jagged_time_differences",
    "sparse_moe_matmul",
}
ERRORS = {"ArgumentError", "DeviceError", "DtypeError", "KernelError", "OffsetsError", "ShapeError"}


def test_surface() -> None:
    assert sorted(tokenlake_kernels.__all__) == tokenlake_kernels.__all__
    assert set(tokenlake_kernels.__all__) == CONTRACT | BEYOND | ERRORS
    for name in tokenlake_kernels.__all__:
        assert getattr(tokenlake_kernels, name).__doc__
