"""The order of rows and their split over ranks, computed from a position, so that no permutation is stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_STEP = 0x9E3779B97F4A7C15


def shuffled(positions: NDArray[np.int64], rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows at these positions of an epoch's order.

    A Feistel network over the smallest even number of bits that holds `rows`, walked until it falls below `rows` (Black
    and Rogaway, Ciphers with arbitrary finite domains, 2002): a permutation that needs no array of all rows, equal on
    every machine.

    Args:
        positions: (n,) int64, each in [0, rows).
        rows: number of rows.
        seed, epoch: each pair gives another order.

    Returns:
        (n,) int64, each in [0, rows).
    """
    half = np.uint64(max(1, ((rows - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)
    found = positions.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        left, right = found[outside] >> half, found[outside] & low
        for key in keys:
            mixed = (right ^ key) * _MIX
            mixed ^= mixed >> np.uint64(33)
            left, right = right, left ^ ((mixed * np.uint64(_STEP)) >> (np.uint64(64) - half))
        found[outside] = (left << half) | right
        outside = outside[found[outside] >= rows]
    return found.astype(np.int64)


@dataclass(frozen=True)
class Order:
    """One epoch as batches that the ranks take in turn.

    Attributes:
        rows: rows of an epoch.
        batch_size: rows of a batch; the last one may have fewer.
        seed: of the shuffle; None: no shuffle.
        drop_last: leave out a short last batch, and last batches that would not give one to every rank.
    """

    rows: int
    batch_size: int
    seed: int | None
    drop_last: bool

    def stop(self, start: int, ranks: int) -> int:
        """The end (exclusive) of the batches of an epoch that continues at batch `start`."""
        if not self.drop_last:
            return -(-self.rows // self.batch_size)
        full = self.rows // self.batch_size
        return start + max(0, full - start) // ranks * ranks

    def take(self, batch: int, epoch: int) -> NDArray[np.int64]:
        """The rows of a batch."""
        start = batch * self.batch_size
        positions = np.arange(start, min(start + self.batch_size, self.rows), dtype=np.int64)
        return positions if self.seed is None else shuffled(positions, self.rows, self.seed, epoch)
