"""Vector features, such as the content vectors of items, as plain matrices."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import SchemaError


def matrix(name: str, column: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """A vector feature as float32 (n, width), a row of NaN where there is none.

    Raises:
        SchemaError: a vector of another length.
    """
    out = np.full((len(column), width), np.nan, np.float32)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    there = lengths > 0
    if (wrong := np.flatnonzero(there & (lengths != width))).size:
        raise SchemaError(f"{name}: a vector of {lengths[wrong[0]]} numbers in row {wrong[0]}; the model takes {width}")
    out[there] = pc.list_flatten(column).to_numpy().reshape(-1, width)
    return out


def token_matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """View a list<float32> column of equal lengths as a `(rows, dim)` matrix."""
    flat = column.combine_chunks()
    values: NDArray[np.float32] = flat.flatten().to_numpy()
    return values.reshape(len(flat), -1)
