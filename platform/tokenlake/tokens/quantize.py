"""Tokens as a store of some dtype keeps them; int8 with a float32 scale per row.

Writing what was read gives the same bytes again.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import SchemaError

#: Rows whose largest value is below this are stored as zeros: their scale would lose bits.
TINY = 2.0**-100


def quantize(tokens: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row to int8 multiples of its scale, about max(abs(row)) / 127.

    The scale keeps 17 significant bits, rounded up: so `q * scale` is exact in float32, the largest value is +-127
    scales, and quantizing `q * scale` gives `q` and `scale` again.

    Args:
        tokens: (n, dim) finite float32.

    Returns:
        (n, dim) int8 and (n,) float32 scales.
    """
    top = np.abs(tokens).max(axis=1) if tokens.size else np.zeros(len(tokens), np.float32)
    top = np.where(top < TINY, np.float32(0), top).astype(np.float32)
    bits = (top.astype(np.float64) / 127).astype(np.float32).view(np.uint32)
    scales = ((bits + np.uint32(127)) & ~np.uint32(127)).view(np.float32)
    steps = tokens / np.where(scales > 0, scales, 1)[:, None]
    return np.where(scales[:, None] > 0, np.rint(steps), 0).astype(np.int8), scales


def round_to(tokens: NDArray[np.float32], dtype: Literal["float32", "float16", "int8"]) -> NDArray[np.float32]:
    """Round `(rows, dim)` float32 tokens to a store's dtype and back.

    Raises:
        SchemaError: a value beyond float16's range.
    """
    if dtype == "float32":
        return tokens
    if dtype == "int8":
        steps, scales = quantize(tokens)
        return steps * scales[:, None]
    largest = float(np.abs(tokens).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise SchemaError(
            f"a token holds {largest:g}, beyond float16's 65504; use dtype: float32 for this lake's tokens"
        )
    return tokens.astype(np.float16).astype(np.float32)
