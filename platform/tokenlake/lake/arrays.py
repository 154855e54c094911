"""Vectors of a table as a matrix."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def token_matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """View a list<float32> column of equal lengths as a `(rows, dim)` matrix."""
    flat = column.combine_chunks()
    values: NDArray[np.float32] = flat.flatten().to_numpy()
    return values.reshape(len(flat), -1)
