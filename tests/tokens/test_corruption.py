"""Any flipped byte is found by `verify`, and never comes out of a fetch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.store_oracle import DAY, Oracle, Row
from tests.fixtures.stores import arguments, make, same
from tokenlake.errors import CorruptionError
from tokenlake.times import NEVER, day_of
from tokenlake.tokens import view
from tokenlake.tokens.store import TokenStore

USERS = ["a", "b", "c"]


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    store, oracle = make(tmp_path / "store"), Oracle()
    for day in range(2):
        rows = [Row(u, day * DAY + i, 10 * day + i, 1, i) for u in USERS for i in range(30)]
        store.write_day(day_of(day * DAY), **arguments(rows))
        oracle.write_day(day, rows)
    store.append(**arguments(oracle.append([Row("d", 5 * DAY, 99, 1, 0)])))
    return oracle


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["manifest", "segments", "tail", "ids"])
def test_every_flipped_byte_is_found(
    tmp_path: Path, oracle: Oracle, name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(view, "library", lambda: None)
    path = tmp_path / "store" / name
    if path.is_dir():
        path = sorted(path.iterdir())[0]
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(0 if compiled else 3, len(good), 1 if compiled and name != "segments" else 7):
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(CorruptionError, match=path.name):
            TokenStore.open(tmp_path / "store").verify()
        users = [*USERS, "d"]
        try:
            batch = TokenStore.open(tmp_path / "store").fetch(users, before=NEVER, length=20)
        except CorruptionError:
            continue
        same(batch, [oracle.fetch(u, NEVER, 20) for u in users], [NEVER] * 4)
    path.write_bytes(good)
    TokenStore.open(tmp_path / "store").verify()


def test_a_wrong_size_is_found_at_open(tmp_path: Path, oracle: Oracle) -> None:
    segment = sorted((tmp_path / "store" / "segments").iterdir())[0]
    good = segment.read_bytes()
    for bad in (good[:-1], good + b"x", b""):
        segment.write_bytes(bad)
        with pytest.raises(CorruptionError, match=segment.name):
            TokenStore.open(tmp_path / "store")
    segment.unlink()
    with pytest.raises(CorruptionError, match="missing"):
        TokenStore.open(tmp_path / "store")


def test_a_missing_log_is_found_at_open(tmp_path: Path, oracle: Oracle) -> None:
    next((tmp_path / "store" / "tail").iterdir()).unlink()
    with pytest.raises(CorruptionError, match="missing"):
        TokenStore.open(tmp_path / "store")


def test_a_torn_append_is_cut_off(tmp_path: Path, oracle: Oracle) -> None:
    log = next((tmp_path / "store" / "tail").iterdir())
    with log.open("ab") as file:
        file.write(log.read_bytes()[48:70])
    store = TokenStore.open(tmp_path / "store")
    store.verify()
    kept = oracle.append([Row("a", 6 * DAY, 100, 1, 0)])
    store.append(**arguments(kept))
    same(TokenStore.open(tmp_path / "store").fetch("a", before=NEVER), [oracle.fetch("a", NEVER, 256)], [NEVER])
