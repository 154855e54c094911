"""C sources, such as `native.c`: compiled once per machine by the C compiler at hand, and called through ctypes.

Without a compiler NumPy does the same work, slower, and a warning says so once.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-O3", "-shared", "-fPIC", "-pthread")
#: Threads of one call; the store's loops are bound by memory, which few threads saturate.
THREADS = max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


@cache
def library() -> ctypes.CDLL | None:
    """The store's loops, or None where they cannot be compiled."""
    made = load(_SOURCE)
    return None if made is None else _declare(made)


def load(source: Path) -> ctypes.CDLL | None:
    """A source file's functions, still undeclared, or None where it cannot be compiled."""
    try:
        return ctypes.CDLL(str(_built(source)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home folder
        output = getattr(error, "stderr", None)
        reason = output.decode(errors="replace").strip().splitlines()[-1] if output else str(error)
        warnings.warn(
            f"NumPy does the work of {source.name}, several times slower: it could not be compiled ({reason}); "
            f"install a C compiler, or set CC to one",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def _built(path: Path) -> Path:
    """The shared object of a source, compiled if nobody did; several processes may do so at once."""
    compiler = next(
        (found for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (found := shutil.which(name))), None
    )
    source = path.read_bytes()
    key = hashlib.sha256(source + repr((_FLAGS, platform.machine(), platform.libc_ver())).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenlake"
    target = folder / f"{path.stem}-{key}.so"
    if target.exists():
        return target
    if compiler is None:
        raise OSError("no C compiler found")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / target.name
        subprocess.run([compiler, *_FLAGS, "-o", str(made), str(path)], check=True, capture_output=True, timeout=120)  # noqa: S603 (our own source, by the user's own compiler)
        made.replace(target)  # whoever comes second replaces it by the same
    return target


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
    lib.tl_finite.argtypes = [pointer, size, size]
    lib.tl_widen.argtypes = [pointer, pointer, size]
    lib.tl_widen.restype = None
    return lib


def address(array: NDArray[Any]) -> int:
    """Where an array's data lies."""
    buffer: Any = array  # which NumPy's types do not say
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    except (TypeError, ValueError):  # not to be written, or not in one piece, or empty: NumPy takes twice the time
        place: int = array.__array_interface__["data"][0]
        return place
