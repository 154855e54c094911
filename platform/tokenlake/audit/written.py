"""Training sets as files: rows with their sequences as flat lists, and a description in the schema's metadata.

The lists are those of Feast's token views: `tokens` (n * dim floats, oldest first), `timestamps` (n microseconds UTC), and
for each side column a list of n; for each label also `<label>_known` (`list_columns`). Their names begin with a prefix.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.tokens.batch import TokenBatch, side_arrays

KEY = b"tokenlake.training"
PREFIX = "history_"
#: Columns of every training set, without the prefix.
OWN = ("tokens", "timestamps")


def with_sequences(rows: pa.Table, batch: TokenBatch, prefix: str) -> pa.Table:
    """Add the lists of the sequences to the rows.

    Raises:
        SchemaError: the rows already have a column of such a name.
    """
    width = batch.values.shape[1]
    columns = {"tokens": _lists(batch.floats().ravel(), batch.offsets * width)}
    columns["timestamps"] = _lists(batch.timestamps, batch.offsets)
    columns |= {name: _lists(column, batch.offsets) for name, column in side_arrays(batch, OWN).items()}
    if taken := [prefix + name for name in columns if prefix + name in rows.column_names]:
        raise SchemaError(f"the rows have columns {taken} already; choose another prefix")
    for name, column in columns.items():
        rows = rows.append_column(prefix + name, column)
    return rows


def with_description(schema: pa.Schema, description: dict[str, Any]) -> pa.Schema:
    """Add a description to the schema's metadata; see `read_description`."""
    return schema.with_metadata({**(schema.metadata or {}), KEY: json.dumps(description).encode()})


def read_description(schema: pa.Schema) -> dict[str, Any]:
    """Read the description of how a training set was written; empty if there is none."""
    text = (schema.metadata or {}).get(KEY)
    return dict(json.loads(text)) if text else {}


def _lists(values: NDArray[Any], offsets: NDArray[np.int64]) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
