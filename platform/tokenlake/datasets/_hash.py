"""Stable arithmetic hashing: the same numbers on every machine, with any library version and thread count."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix(keys: NDArray[np.int64] | NDArray[np.uint64], salt: int = 0) -> NDArray[np.uint64]:
    """SplitMix64's finalizer: every bit of a key affects every bit of its hash.

    Args:
        keys: integers of any shape.
        salt: another salt gives an independent hash.

    Returns:
        uint64 of the same shape.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        x = keys.astype(np.uint64) + _GOLDEN * np.uint64(salt + 1)
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        return x ^ (x >> np.uint64(31))


def below(hashes: NDArray[np.uint64], bound: NDArray[np.int64]) -> NDArray[np.int64]:
    """Map hashes to int64 in [0, bound); a bound of 0 gives 0."""
    return (hashes % np.maximum(bound, 1).astype(np.uint64)).astype(np.int64)
