"""The C loops of the platform (`native.c` and others): compiled once per machine, and called through ctypes.

`tokenlake_kernels.native_build` compiles them. Without a compiler NumPy does the same work, slower, and a warning is
shown.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tokenlake_kernels import native_build

#: Threads of one call; the store's loops are limited by memory bandwidth, which a few threads saturate.
THREADS = max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


@cache
def library() -> ctypes.CDLL | None:
    """The compiled loops of the store; None where they cannot be compiled."""
    made = load(Path(__file__).with_name("native.c"))
    return None if made is None else _declare(made)


def load(source: Path) -> ctypes.CDLL | None:
    """The compiled library of a source file, without declared argument types; None where it cannot be compiled."""
    return native_build.load(source, "NumPy")


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    lib.tl_find.argtypes = [pointer, count]
    lib.tl_gather.argtypes = [pointer, count]
    lib.tl_gather.restype = None
    lib.tl_order.argtypes = [size, pointer, pointer, pointer, count]
    lib.tl_take.argtypes = [pointer, pointer, pointer, size, size, count]
    lib.tl_take.restype = None
    lib.tl_move.argtypes = [pointer, pointer, pointer, pointer, pointer, size, size, count]
    lib.tl_move.restype = None
    lib.tl_behind.argtypes = [pointer, size, pointer, size, size, pointer, count]
    lib.tl_behind.restype = None
    lib.tl_digest.argtypes = [pointer, pointer, size, pointer]
    lib.tl_digest.restype = None
    lib.tl_lower_bound.argtypes = [pointer, pointer, pointer, pointer, size, pointer]
    lib.tl_lower_bound.restype = None
    lib.tl_finite.argtypes = [pointer, size, size]
    lib.tl_widen.argtypes = [pointer, pointer, size]
    lib.tl_widen.restype = None
    return lib


def address(array: NDArray[Any]) -> int:
    """Memory address of an array's data."""
    buffer: Any = array  # NumPy's stubs do not declare the buffer protocol
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    except (TypeError, ValueError):  # read-only, not contiguous, or empty; NumPy's way takes twice the time
        place: int = array.__array_interface__["data"][0]
        return place
