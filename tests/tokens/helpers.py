"""What the store's tests share: rows as arguments, and batches compared with rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.fixtures.patience import HANG_S
from tests.tokens.oracle import Row
from tokenlake.tokens import manifest, wal_redis
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.store import TokenStore

ROOT = Path(__file__).parents[2]
DIM = 3
#: Where `make` puts tails; the fixture `place` says.
TAIL: str | None = None


def make(path: Path, dtype: str = "float16") -> TokenStore:
    return TokenStore.create(
        path, dim=DIM, dtype=dtype, side={"event": "int32", "clicked": "int8"}, known_at=["clicked"], tail=TAIL
    )


def token(event: int) -> list[float]:
    return [event % 2048, -1.0, 0.5]


def arguments(rows: list[Row]) -> dict[str, object]:
    return {
        "users": [r.user for r in rows],
        "timestamps": np.array([r.ts for r in rows], np.int64),
        "tokens": np.array([token(r.event) for r in rows], np.float32).reshape(-1, DIM),
        "side": {"event": [r.event for r in rows], "clicked": [r.clicked for r in rows]},
        "known_at": {"clicked": np.array([r.known_at for r in rows], np.int64)},
    }


def same(batch: TokenBatch, expected: list[list[Row]], moments: list[int]) -> None:
    """The batch holds just these rows, with the labels known at each query's moment."""
    assert batch.offsets.tolist() == [0, *np.cumsum([len(rows) for rows in expected]).tolist()]
    flat = [(r, moment) for rows, moment in zip(expected, moments, strict=True) for r in rows]
    assert batch.side["event"].tolist() == [r.event for r, _ in flat]
    assert batch.timestamps.tolist() == [r.ts for r, _ in flat]
    assert batch.known["clicked"].tolist() == [r.known_at < moment for r, moment in flat]
    assert batch.side["clicked"].tolist() == [r.clicked if r.known_at < moment else 0 for r, moment in flat]
    values = np.array([token(r.event) for r, _ in flat]).reshape(-1, DIM)
    if batch.scales is None:
        assert (batch.values == values).all()
    else:
        assert (np.abs(batch.floats() - values) <= batch.scales[:, None] / 2).all()


def redis_prefix(store: TokenStore) -> str:
    """What the keys begin with that a store with its tail in Redis has there."""
    tail = manifest.load(store.path).tail
    assert tail is not None
    return wal_redis.prefix(tail.store)


def points(module: str, *given: object) -> int:
    """At how many points a module's `main` killed what it tests."""
    command = [sys.executable, "-m", module, *map(str, given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
