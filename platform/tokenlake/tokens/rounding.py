"""Float32 values rounded to what a store of some dtype keeps, so that casting them back is exact."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.tokens.quantize import quantize


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
