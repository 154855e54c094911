"""What a fetch returns: jagged rows, `values` and `offsets`, as NumPy arrays or as tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.names import apart
from tokenlake.storage import memory
from tokenlake.storage.native_ops import widen
from tokenlake.tokens.schema import StoreSchema

if TYPE_CHECKING:
    import torch


def list_columns(
    side: Iterable[str], known: Iterable[str], reserved: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Names of the columns of a table that has a batch's queries as rows, and lists of what their tokens have beside them.

    They are `<name>` and `<label>_known`, with underscores behind where that is a column already.

    Args:
        side: names of the side columns.
        known: those of them that are labels.
        reserved: names of the other columns of the table.

    Returns:
        Side name -> the column of its values; label -> the column that tells whether it was known.
    """
    side, known = list(side), list(known)
    names = apart([*side, *(f"{label}_known" for label in known)], reserved)
    return dict(zip(side, names, strict=False)), dict(zip(known, names[len(side) :], strict=True))


@dataclass(eq=False)
class TokenBatch:
    """The rows of n queries, one query after the other, each oldest first.

    Query i has the rows `offsets[i]` to `offsets[i + 1]`.

    Attributes:
        values: (total, dim) tokens, in the store's dtype.
        offsets: (n + 1,) int64.
        timestamps: (total,) int64 microseconds UTC.
        side: name -> (total,); a label that was not known at the query's time is 0.
        known: label -> (total,) bool: whether it was known; the names are the store's `known_at`.
        scales: (total,) float32 of an int8 store: a token is `values * scales`; else None.
        missing: (n,) bool of a `fetch_at`: no row has that key; else None.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    side: dict[str, NDArray[Any]] = field(default_factory=dict)
    known: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    scales: NDArray[np.float32] | None = None
    missing: NDArray[np.bool_] | None = None
    _buffers: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        total, dim = self.values.shape
        side = f", side={list(self.side)}" if self.side else ""
        return f"TokenBatch({len(self)} queries, {total} rows of {dim} x {self.values.dtype}{side})"

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) rows of each query."""
        return np.diff(self.offsets)

    def floats(self) -> NDArray[np.float32]:
        """(total, dim) float32 tokens, whatever the store's dtype."""
        plain = widen(self.values) if self.values.dtype == np.float16 else self.values.astype(np.float32)
        return plain if self.scales is None else plain * self.scales[:, None]

    def padded(self, length: int) -> NDArray[Any]:
        """Dense tokens, (n, length, dim): the last `length` rows of each query, oldest first, then zeros.

        `np.minimum(batch.lengths, length)` tells the rows from the padding. An int8 store gives float32.

        Args:
            length: rows of each query, at least 1.

        Returns:
            A new array in the store's dtype; float32 of an int8 store.

        Raises:
            SchemaError: a length below 1.
        """
        if length < 1:
            raise SchemaError(f"length={length}; expected at least 1")
        values = self.values if self.scales is None else self.floats()
        sizes = np.minimum(self.lengths, length)
        out = np.zeros((len(self), length, values.shape[1]), values.dtype)
        place = np.arange(length) < sizes[:, None]
        out[place] = values[(self.offsets[1:, None] - sizes[:, None] + np.arange(length))[place]]
        return out

    def torch(self, device: str | torch.device | None = None) -> TensorBatch:
        """The same rows as tensors; on the CPU they share this batch's memory.

        Args:
            device: as torch names it; None is the CPU.

        Returns:
            Tensors of the same names as the batch's attributes.
        """
        import torch

        def tensor(array: NDArray[Any] | None) -> Any:
            return None if array is None else torch.from_numpy(array).to(device)

        return TensorBatch(
            values=tensor(self.values),
            offsets=tensor(self.offsets),
            timestamps=tensor(self.timestamps),
            side={name: tensor(column) for name, column in self.side.items()},
            known={name: tensor(column) for name, column in self.known.items()},
            scales=tensor(self.scales),
            missing=tensor(self.missing),
        )

    @classmethod
    def empty(cls, schema: StoreSchema) -> TokenBatch:
        """A batch without queries.

        Args:
            schema: of the store whose dtype and width it has.

        Returns:
            0 queries, 0 rows.
        """
        columns = schema.empty(0)
        return cls(columns["token"], np.zeros(1, np.int64), columns["timestamp"])

    def reserve(self, schema: StoreSchema, offsets: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Make room for rows in the buffers at hand, or in new ones where they don't suffice.

        Args:
            schema: of the store.
            offsets: int64 (n + 1,), rows of each query.

        Returns:
            The columns to fill, by their names in the store; the batch's attributes are views of them.
        """
        total = int(offsets[-1])

        def room(name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
            buffer = self._buffers.get(name)
            shape = schema.shape(name, total)
            if buffer is None or len(buffer) < total or buffer.dtype != dtype or buffer.shape[1:] != shape[1:]:
                buffer = self._buffers[name] = memory.empty(shape, dtype)
            return buffer[:total]

        names = ["timestamp", "token", *(["scale"] if schema.dtype == "int8" else [])]
        names += schema.side_columns.values()
        columns = {name: room(name, schema.columns[name]) for name in names}
        self.values, self.timestamps, self.offsets = columns["token"], columns["timestamp"], offsets
        self.side = {name: columns[column] for name, column in schema.side_columns.items()}
        # No batch has the columns of the instants themselves, so their names are free.
        self.known = {label: room(column, np.dtype(np.bool_)) for label, column in schema.known_columns.items()}
        self.scales = columns.get("scale")
        self.missing = None
        return columns


@dataclass(eq=False)
class TensorBatch:
    """A `TokenBatch` of tensors, with the same attributes."""

    values: torch.Tensor
    offsets: torch.Tensor
    timestamps: torch.Tensor
    side: dict[str, torch.Tensor]
    known: dict[str, torch.Tensor]
    scales: torch.Tensor | None = None
    missing: torch.Tensor | None = None

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.offsets) - 1


def side_arrays(batch: TokenBatch, reserved: Collection[str]) -> dict[str, NDArray[Any]]:
    """What a batch's tokens have beside them, (total,) each, by the names of `list_columns`."""
    side, known = list_columns(batch.side, batch.known, reserved)
    return {side[name]: column for name, column in batch.side.items()} | {
        known[label]: column for label, column in batch.known.items()
    }
