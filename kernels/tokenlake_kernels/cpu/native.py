"""The compiled CPU kernels: the C++ in `csrc/`, built by `native_build`.

Environment:
    TOKENLAKE_CPU=torch  never use them, but the pure-PyTorch path. TOKENLAKE_NATIVE=0 says so of all compiled code.
"""

import ctypes
import functools
import os
from pathlib import Path

from ..native_build import load

SOURCE = Path(__file__).parent / "csrc"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where the pure-PyTorch path must serve."""
    return None if os.environ.get("TOKENLAKE_CPU") == "torch" else load(SOURCE, "PyTorch")
