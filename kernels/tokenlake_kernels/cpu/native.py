"""The compiled CPU kernels: the C++ in `csrc/`, built by `native_build`.

Environment:
    TOKENLAKE_CPU=torch  use the pure-PyTorch kernels instead. TOKENLAKE_NATIVE=0 switches off all compiled code.
"""

import ctypes
import functools
import os
from pathlib import Path

from ..native_build import load

SOURCE = Path(__file__).parent / "csrc"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None if the pure-PyTorch kernels must be used."""
    return None if os.environ.get("TOKENLAKE_CPU") == "torch" else load(SOURCE, "PyTorch")
