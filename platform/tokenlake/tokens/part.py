"""Write parts: rows sorted, split by users' hashes into files of bounded size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from tokenlake.storage import disk, loops
from tokenlake.tokens.manifest import Part
from tokenlake.tokens.schema import Rows, StoreSchema
from tokenlake.tokens.segment import write_segment

#: About this many rows, or bytes, go into one file: they bound the memory that writing takes.
SEGMENT_ROWS = 1 << 20
SEGMENT_BYTES = 1 << 28


def bits_for(schema: StoreSchema, rows: int) -> int:
    """How many bits of the hash split so many rows into files of bounded size."""
    files_ = max(rows / SEGMENT_ROWS, rows * schema.row_bytes / SEGMENT_BYTES)
    return min(16, max(0, int(np.ceil(np.log2(max(files_, 1))))))


def write_part(folder: Path, schema: StoreSchema, name: str, rows: Rows) -> Part | None:
    """Sort rows by (mix(user), timestamp, input order) and write them; None for no rows."""
    if not len(rows):
        return None
    order = loops.order(rows.users, rows.timestamps)
    bits = bits_for(schema, len(rows))

    def hash_at(place: int) -> int:
        return int(loops.mix(rows.users[order[place : place + 1]])[0])

    edges = [bucket << (64 - bits) for bucket in range(1, 1 << bits)]
    cuts = [0, *(bisect_left(range(len(order)), edge, key=hash_at) for edge in edges), len(order)]
    return write_buckets(folder, schema, name, bits, (rows.take(order[a:b]) for a, b in pairwise(cuts)))


def write_buckets(folder: Path, schema: StoreSchema, name: str, bits: int, buckets: Iterator[Rows]) -> Part:
    """Write one file for each bucket that has rows, durably."""
    segments = [
        write_segment(folder / f"{name}-{bucket:05d}.arrow", schema, rows) if len(rows) else None
        for bucket, rows in enumerate(buckets)
    ]
    disk.sync_folder(folder)
    return Part(bits, tuple(segments))
