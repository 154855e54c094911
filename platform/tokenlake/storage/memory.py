"""A pool for the memory of large batches: a block is reused once its batch is garbage.

The kernel zeroes each new page before it maps it, which takes as long as filling the page. A trainer replaces one batch
by the next of about the same size, so the next one can use the same memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes of an array below which NumPy allocates it.
LARGE = 1 << 22
#: Most idle bytes in the pool; more are returned to the system.
IDLE = 1 << 28
_LINE = 64

_idle: dict[int, NDArray[np.uint8]] = {}


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """As `np.empty`; large arrays are aligned to a cache line, and their memory returns to the pool when they are freed."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE:
        return np.empty(shape, dtype)
    whole: NDArray[Any] = np.asarray(_Lease(_take(size)))
    return whole[:size].view(dtype).reshape(shape)


class _Lease:
    """Owner of an array's memory; returns the block to the pool when it is freed."""

    __slots__ = ("__array_interface__", "_block", "_idle")

    def __init__(self, block: NDArray[np.uint8]) -> None:
        self.__array_interface__ = block.__array_interface__
        self._block = block
        self._idle = _idle  # the module's name may be gone when the interpreter ends

    def __del__(self, most: int = IDLE) -> None:  # when Python exits, this module's names may be cleared already
        idle = self._idle
        if sum(block.nbytes for block in list(idle.values())) + self._block.nbytes <= most:
            idle[id(self._block)] = self._block


def _take(size: int) -> NDArray[np.uint8]:
    """An idle block that fits without much waste, or a new one. Only single dict calls, so it is thread-safe."""
    for key, block in list(_idle.items()):
        if size <= block.nbytes <= 2 * size and _idle.pop(key, None) is not None:
            return block
    room = size + size // 8  # the next batch may be a little larger
    raw = np.empty(room + _LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % _LINE
    return raw[start : start + room]
