"""docs/store.md is enough to read a store: a reader made of nothing but it."""

from __future__ import annotations

import datetime as dt
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from tests.fixtures.store_oracle import DAY, Oracle, Row
from tests.fixtures.stores import DIM, arguments, make
from tokenlake.times import day_of
from tokenlake.tokens import segment

MASK = (1 << 64) - 1


def mix(user: int) -> int:
    h = user & MASK
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD & MASK
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ h >> 33


def micros(instant: dt.datetime) -> int:
    return round(instant.timestamp() * 1_000_000)


def last_rows(folder: Path, user: int, before: int, length: int) -> list[int]:
    """The `event` column of a user's last rows, of the days alone."""
    head, text = (folder / "manifest").read_bytes().split(b"\n", 1)
    assert xxhash.xxh3_64_hexdigest(text).encode() == head
    manifest = json.loads(text)
    found: list[int] = []
    for first, last, name in reversed(manifest["slices"]):
        there = manifest["parts"][name]
        file = there["segments"][mix(user) >> (64 - there["bits"]) if there["bits"] else 0]
        if file is None:
            continue
        batch = pa.ipc.open_file(pa.memory_map(str(folder / "segments" / file["name"]))).get_batch(0)
        start, stop = (np.datetime64(d, "us").astype(int) for d in (first, last))
        for record in batch.filter(pa.compute.equal(batch["user"], user)).to_pylist():
            rows = [r for r in record["rows"] if start <= micros(r["timestamp"]) < min(stop + DAY, before)]
            found = [r["event"] for r in rows] + found
    return found[-length:]


def test_a_reader_made_from_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_ROWS", 20)
    store, oracle = make(tmp_path / "s"), Oracle()
    rng = np.random.default_rng(0)
    for day in (0, 1, 2, 3, 4, 1):
        rows = [Row(int(u), day * DAY + i, 100 * day + i, 0, 0) for i, u in enumerate(rng.integers(-3, 5, 40))]
        store.write_day(day_of(day * DAY), **arguments(rows))
        oracle.write_day(day, rows)
    for user in range(-4, 6):
        for before in (0, DAY + 20, 3 * DAY, 9 * DAY):
            expected = [r.event for r in oracle.fetch(user, before, 12)]
            assert last_rows(store.path, user, before, 12) == expected


def test_the_sums_are_as_told(tmp_path: Path) -> None:
    store = make(tmp_path / "s", "int8")
    store.write_day("1970-01-01", **arguments([Row(u, i, i, 1, i) for u in range(3) for i in range(1000)]))
    path = next((tmp_path / "s" / "segments").iterdir())
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    meta = json.loads(batch.schema.metadata[b"tokenlake"])
    rows, size = batch["rows"].values, meta["block_rows"]
    sums = struct.unpack(f">{-(-3000 // size)}Q", bytes.fromhex(meta["sums"]))
    for block, expected in enumerate(sums):
        digest = xxhash.xxh3_64()
        for name, width in (
            ("timestamp", 8),
            ("token", DIM),
            ("scale", 4),
            ("event", 4),
            ("clicked", 1),
            ("clicked_known_at", 8),
        ):
            data = rows.field(name).buffers()[-1].to_pybytes()[: 3000 * width]
            digest.update(data[block * size * width : (block + 1) * size * width])
        assert digest.intdigest() == expected
