"""Reader processes beside a writer process: no day is ever seen half, and no appended row comes late or twice."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.store_oracle import DAY, Row
from tests.fixtures.stores import arguments, make
from tokenlake.times import NEVER, day_of
from tokenlake.tokens.store import TokenStore

USERS = [f"user {i}" for i in range(6)]
DAYS = 4
ROUNDS = 12
TAIL = "tail"


def write(path: Path, done: multiprocessing.synchronize.Event) -> None:
    """Every round writes each day again, all rows marked with the round, and appends one row."""
    store = TokenStore.open(path)
    for number in range(ROUNDS):
        for day in range(DAYS):
            rows = [Row(u, day * DAY + i, number, 0, 0) for u in USERS for i in range(30)]
            store.write_day(day_of(day * DAY), **arguments(rows))
        row = Row(TAIL, DAYS * DAY + number, number, 0, 0)
        assert store.append(**arguments([row])) == 1
        # What the day takes from the tail, it gives back: the reader sees the row once, from wherever.
        if number % 4 == 3:
            kept = [Row(TAIL, DAYS * DAY + i, i, 0, 0) for i in range(number + 1)]
            store.write_day(day_of(DAYS * DAY), **arguments(kept))
        if number % 5 == 4:
            store.compact()
    done.set()


def read(path: Path, done: multiprocessing.synchronize.Event, refreshing: bool) -> None:
    store = TokenStore.open(path)
    seen = 0
    while True:
        last = done.is_set()
        if refreshing:
            store.refresh()
        batch = store.fetch([*USERS, TAIL], before=NEVER, length=10_000)
        events, times = batch.side["event"], batch.timestamps // DAY
        body = slice(0, batch.offsets[-2])
        for day in range(DAYS):
            assert len(np.unique(events[body][times[body] == day])) <= 1, "a day was seen half"
        own = events[batch.offsets[-2] :]
        assert own.tolist() == list(range(len(own))), own
        assert len(own) >= seen, "a row was lost"
        seen = len(own)
        if last:
            break
    store.refresh()
    assert len(store.fetch(TAIL, before=NEVER).values) == ROUNDS


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_readers_beside_a_writer(tmp_path: Path) -> None:
    path = make(tmp_path / "store").path
    spawn = multiprocessing.get_context("spawn")
    done = spawn.Event()
    jobs = [spawn.Process(target=write, args=(path, done))]
    jobs += [spawn.Process(target=read, args=(path, done, refreshing)) for refreshing in (True, False)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(300)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    TokenStore.open(path).verify()
