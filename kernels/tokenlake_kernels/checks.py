"""Argument checks of the ops: shapes, dtypes, devices, and the values of offsets where reading them is free.

Shapes, dtypes and devices are checked in the public functions (at no cost under `torch.compile`). Offset values are
checked inside the ops: always on the CPU; on a GPU, where reading them waits for the device, with `TOKENLAKE_CHECKS=1`.
"""

import os

import numpy as np
import torch
from torch import Tensor

from .errors import ArgumentError, DeviceError, DtypeError, OffsetsError, ShapeError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTS = (torch.int32, torch.int64)


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(d).removeprefix("torch.") for d in dtypes)


def dtype(name: str, x: Tensor, allowed: tuple[torch.dtype, ...] = FLOATS) -> None:
    """Check that a tensor's dtype is in `allowed`."""
    if x.dtype not in allowed:
        raise DtypeError(f"{name} is {str(x.dtype).removeprefix('torch.')}; expected one of {_names(allowed)}")


def rank(name: str, x: Tensor, dims: tuple[str, ...]) -> None:
    """Check that a tensor has exactly the named dimensions."""
    if x.dim() != len(dims):
        raise ShapeError(f"{name} has shape {tuple(x.shape)}; expected ({', '.join(dims)})")


def size(name: str, x: Tensor, axis: int, expected: int, meaning: str) -> None:
    """Check that a tensor's axis has the expected size."""
    if x.shape[axis] != expected:
        raise ShapeError(f"{name} has shape {tuple(x.shape)}; expected {expected} ({meaning}) in dimension {axis}")


def same_dtype(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Check that two tensors have the same dtype."""
    if x.dtype != other.dtype:
        raise DtypeError(f"{name} is {x.dtype} but {other_name} is {other.dtype}; convert one of them")


def devices(**tensors: Tensor | None) -> None:
    """Check that all tensors are on the same device."""
    first_name, first = "", None
    for name, x in tensors.items():
        if x is None:
            continue
        if first is None:
            first_name, first = name, x
        elif x.device != first.device:
            raise DeviceError(f"{name} is on {x.device} but {first_name} is on {first.device}; move one of them")


def offsets_form(name: str, offsets: Tensor) -> None:
    """Check that offsets are `(batch + 1,)` integers."""
    dtype(name, offsets, INTS)
    rank(name, offsets, ("batch + 1",))
    if offsets.shape[0] < 1:
        raise ShapeError(f"{name} is empty; expected (batch + 1,): a batch of no rows has the one offset 0")


def at_least(name: str, value: float | int, least: int) -> None:
    """Check that a number is at least `least`."""
    if value < least:
        raise ArgumentError(f"{name} is {value}; expected at least {least}")


def reads_values(x: Tensor) -> bool:
    """Whether offset values on this tensor's device are checked."""
    return x.device.type == "cpu" or os.environ.get("TOKENLAKE_CHECKS") == "1"


def offsets_values(name: str, offsets: Tensor, total: int | None, max_len: int = -1) -> None:
    """Check that offsets start at 0, do not decrease, end at `total`, and hold no row longer than `max_len`.

    `total=None` does not check the end, `max_len=-1` does not check the lengths.
    """
    if not reads_values(offsets):
        return
    values = offsets.detach().cpu().numpy()
    if values[0] != 0:
        raise OffsetsError(f"{name}[0] is {values[0]}; expected 0")
    lengths = np.diff(values)
    if lengths.size and lengths.min() < 0:
        at = int(np.argmax(lengths < 0))
        raise OffsetsError(
            f"{name}[{at + 1}] is {values[at + 1]}, below {name}[{at}] = {values[at]}; they must not decrease"
        )
    if total is not None and values[-1] != total:
        over = int(np.argmax(values > total)) if values[-1] > total else len(values) - 1
        raise OffsetsError(f"{name}[{over}] is {values[over]}; expected {name} to end at {total}, the number of values")
    if max_len >= 0 and lengths.size and lengths.max() > max_len:
        at = int(np.argmax(lengths > max_len))
        raise OffsetsError(f"row {at} of {name} holds {lengths[at]} values; max_len is {max_len}")


def row_counts(name: str, counts: Tensor, offsets: Tensor) -> None:
    """Check that per-row counts are not negative and do not exceed the length of their row."""
    if not reads_values(offsets):
        return
    values = counts.detach().cpu().numpy()
    lengths = np.diff(offsets.detach().cpu().numpy())
    bad = (values < 0) | (values > lengths)
    if bad.any():
        at = int(np.argmax(bad))
        raise OffsetsError(f"{name}[{at}] is {values[at]}; row {at} holds {lengths[at]} values")


def places_in_rows(name: str, values: Tensor, q_offsets: Tensor, offsets: Tensor, *, last: int) -> None:
    """Check that per-query positions are in `0 .. length of the query's row + last`."""
    if not reads_values(offsets):
        return
    places = values.detach().cpu().numpy()
    lengths, counts = (np.diff(x.detach().cpu().numpy()) for x in (offsets, q_offsets))
    most = np.repeat(lengths, counts) + last
    bad = (places < 0) | (places > most)
    if bad.any():
        at = int(np.argmax(bad))
        raise OffsetsError(f"{name}[{at}] is {places[at]}; its row takes 0 to {most[at]}")
