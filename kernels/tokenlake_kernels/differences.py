"""Time differences between all pairs of each jagged row."""

import torch
from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .cpu.native import library
from .errors import OffsetsError
from .registry import define


def _differences_cpu(timestamps: Tensor, offsets: Tensor, total: int) -> Tensor:
    checks.offsets_values("offsets", offsets, timestamps.shape[0])
    found = int(offsets.long().diff().square().sum())
    if found != total:
        raise OffsetsError(f"total is {total}; the rows of offsets have {found} pairs")
    run = eager.time_differences if library() is None else compiled.time_differences
    return run(timestamps, offsets, total)


def _differences_cuda(timestamps: Tensor, offsets: Tensor, total: int) -> Tensor:
    from .gpu import interaction as gpu

    checks.offsets_values("offsets", offsets, timestamps.shape[0])
    return gpu.time_differences(timestamps, offsets, total)


_differences = define(
    "time_differences",
    "(Tensor timestamps, Tensor offsets, SymInt total) -> Tensor",
    cpu=_differences_cpu,
    cuda=_differences_cuda,
    fake=lambda timestamps, offsets, total: timestamps.new_empty(total),
)


def jagged_time_differences(timestamps: Tensor, offsets: Tensor, total: int | None = None) -> Tensor:
    """`t_i - t_j` for all pairs of every row.

    Args:
        timestamps: `(total,)` int64.
        offsets: `(batch + 1,)` int32 or int64.
        total: The sum of the squared lengths; None reads it, which waits for a GPU and ends a `torch.compile` graph.

    Returns:
        `(pairs,)` int64: the L_b x L_b differences of each row, row-major, row after row.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    checks.dtype("timestamps", timestamps, (torch.int64,))
    checks.rank("timestamps", timestamps, ("total",))
    checks.offsets_form("offsets", offsets)
    checks.devices(timestamps=timestamps, offsets=offsets)
    pairs = int(offsets.long().diff().square().sum()) if total is None else total
    out: Tensor = _differences(timestamps, offsets, pairs)
    return out
