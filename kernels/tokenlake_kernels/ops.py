"""All ops: importing this module registers them under `torch.ops.tokenlake`, as loading an exported program needs."""

from .attention import jagged_attention, jagged_cross_attention
from .broadcast import jagged_dense_add, jagged_dense_mul
from .differences import jagged_time_differences
from .hstu import hstu_attention
from .layouts import jagged_concat, jagged_split, jagged_to_padded, padded_to_jagged
from .norm import gated_norm
from .prefix import jagged_prefix_attention
from .products import grouped_gemm, jagged_dense_bmm, jagged_jagged_bmm
from .samoyeds import SamoyedsWeight, sparse_moe_matmul
from .softmax import jagged_softmax

__all__ = [
    "SamoyedsWeight",
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
