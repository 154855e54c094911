"""A training batch: the columns of labelled rows, and their jagged token sequences."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeAlias

import torch


class Jagged(NamedTuple):
    """Lists of numbers, one for each row.

    Attributes:
        values: (total,) numbers of all rows.
        offsets: (rows + 1,) int64: row i has the values from `offsets[i]` to `offsets[i + 1]`.
    """

    values: torch.Tensor
    offsets: torch.Tensor


#: Numbers, bools and times (int64 microseconds) are tensors, lists of numbers are jagged tensors, strings stay strings.
Column: TypeAlias = torch.Tensor | Jagged | list[str | None]


@dataclass(eq=False)
class SequenceBatch:
    """Rows with the tokens that their users had before each row's time, as tensors.

    Row i has the tokens `offsets[i]` to `offsets[i + 1]`, oldest first.

    Attributes:
        values: (total, dim) tokens, in the store's dtype.
        offsets: (rows + 1,) int64.
        timestamps: (total,) int64 microseconds UTC of the tokens.
        side: name -> (total,); a label that was not known at the row's time is 0.
        known: label -> (total,) bool: whether the label was known.
        before: (rows,) int64 microseconds UTC: the rows' times; every token is strictly before.
        columns: name -> the rows' own columns; null is 0 (strings: None).
        valid: name -> (rows,) bool for columns with nulls in this batch: False for a null. Targets that were not known
            by the dataset's `as_of` are nulls.
        scales: (total,) float32 of an int8 store: a token is `values * scales`; else None.
        epoch: number of the epoch.
        index: number of the batch in the epoch, over all ranks.
        state: for `SequenceDataset.load_state_dict`, to continue after this batch.
    """

    values: torch.Tensor
    offsets: torch.Tensor
    timestamps: torch.Tensor
    side: dict[str, torch.Tensor]
    known: dict[str, torch.Tensor]
    before: torch.Tensor
    columns: dict[str, Column]
    valid: dict[str, torch.Tensor]
    scales: torch.Tensor | None
    epoch: int
    index: int
    state: dict[str, Any] = field(repr=False)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.before)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> SequenceBatch:
        """The same batch on a device.

        Args:
            device: as torch names it.
            non_blocking: don't wait for copies out of pinned memory.

        Returns:
            A new batch; tensors that are there already are shared.
        """
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SequenceBatch:
        """The same batch in pinned memory; called by a `DataLoader` with `pin_memory=True`."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> SequenceBatch:
        return replace(self, **{f.name: _change(getattr(self, f.name), change) for f in fields(self)})


def _change(value: Any, change: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Jagged):
        return Jagged(change(value.values), change(value.offsets))
    if isinstance(value, dict):
        return {name: _change(item, change) for name, item in value.items()}
    return value
