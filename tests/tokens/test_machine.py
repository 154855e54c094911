"""Any sequence of writes, appends, compactions and readers, against the oracle."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.fixtures.store_oracle import DAY, Oracle, Row
from tests.fixtures.stores import arguments, make, same
from tokenlake.times import NEVER, day_of
from tokenlake.tokens import segment, view
from tokenlake.tokens.store import TokenStore

DAYS = st.integers(-2, 11)
HOURS = st.integers(0, 3)
USERS = st.integers(0, 4)
DELAYS = st.sampled_from([0, 1, 2, 5, 30, None])
#: hours into the day, user, clicked, days until the label is known
ROW = st.tuples(HOURS, USERS, st.integers(-1, 1), DELAYS)


class Machine(RuleBasedStateMachine):
    readers: Bundle[tuple[TokenStore, list[Oracle]]] = Bundle("readers")

    @initialize(
        dtype=st.sampled_from(["float32", "float16", "int8"]),
        strings=st.booleans(),
        compiled=st.booleans(),
        file_rows=st.sampled_from([2, 1 << 20]),
    )
    def create(self, dtype: str, strings: bool, compiled: bool, file_rows: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(segment, "SEGMENT_ROWS", file_rows)  # few rows a file: many buckets of users
        if not compiled:
            self.patch.setattr(view, "library", lambda: None)
        self.folder = Path(tempfile.mkdtemp())
        self.store = make(self.folder / "store", dtype)
        self.oracle = Oracle()
        self.strings = strings
        self.events = 0
        self.open: list[tuple[TokenStore, list[Oracle]]] = []

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.patch.undo()
            shutil.rmtree(self.folder)

    def user(self, number: int) -> int | str:
        return f"user {number}" if self.strings else number - 1

    def row(self, day: int, hour: int, user: int, clicked: int, delay: int | None) -> Row:
        self.events += 1
        ts = day * DAY + hour * DAY // 4
        return Row(self.user(user), ts, self.events, clicked, NEVER if delay is None else ts + delay * DAY // 4)

    @rule(day=DAYS, rows=st.lists(ROW, max_size=8))
    def write_day(self, day: int, rows: list[tuple[int, int, int, int | None]]) -> None:
        made = [self.row(day, *row) for row in rows]
        self.store.write_day(day_of(day * DAY), **arguments(made))
        self.oracle.write_day(day, made)

    @rule(rows=st.lists(st.tuples(DAYS, ROW), max_size=5))
    def append(self, rows: list[tuple[int, tuple[int, int, int, int | None]]]) -> None:
        made = [self.row(day, *row) for day, row in rows]
        kept = self.oracle.append(made)
        assert self.store.append(**arguments(made)) == len(kept)
        for reader, (oracle,) in self.open:
            oracle.tail += kept
            reader.status()  # a reader that looks now and then

    @rule()
    def compact(self) -> None:
        self.store.compact()
        assert self.store.status().slices <= 1

    @rule(days=st.none() | st.integers(1, 9), rows=st.none() | st.integers(1, 6))
    def retain(self, days: int | None, rows: int | None) -> None:
        self.store.compact(keep_days=days, keep_rows=rows)
        self.oracle.retain(days, rows)
        assert self.store.status().slices <= 1

    @rule()
    def reopen(self) -> None:
        self.store = TokenStore.open(self.store.path)

    @rule()
    def refresh(self) -> None:
        assert not self.store.refresh()

    @rule(target=readers)
    def reader(self) -> tuple[TokenStore, list[Oracle]]:
        pair = TokenStore.open(self.store.path), [self.oracle.copy()]
        self.open.append(pair)
        return pair

    @rule(pair=readers)
    def refresh_reader(self, pair: tuple[TokenStore, list[Oracle]]) -> None:
        pair[0].refresh()
        pair[1][:] = [self.oracle.copy()]

    @rule(
        pair=readers,
        queries=st.lists(st.tuples(USERS, DAYS, HOURS), max_size=6),
        length=st.integers(1, 9),
        available=st.sampled_from(["realtime", "daily"]),
    )
    def fetch_reader(self, pair, queries, length, available) -> None:  # type: ignore[no-untyped-def]  # drawn above
        self.compare(pair[0], pair[1][0], queries, length, available)

    @rule(
        queries=st.lists(st.tuples(USERS, DAYS, HOURS), max_size=6),
        length=st.integers(1, 9),
        available=st.sampled_from(["realtime", "daily"]),
    )
    def fetch(self, queries, length, available) -> None:  # type: ignore[no-untyped-def]  # drawn above
        self.compare(self.store, self.oracle, queries, length, available)

    def compare(self, store: TokenStore, oracle: Oracle, queries, length: int, available: str) -> None:  # type: ignore[no-untyped-def]  # drawn above
        users = [self.user(u) for u, _, _ in queries]
        times = [d * DAY + h * DAY // 4 for _, d, h in queries]
        batch = store.fetch(users, before=np.array(times, np.int64), length=length, available=available)
        same(batch, [oracle.fetch(u, t, length, available) for u, t in zip(users, times, strict=True)], times)
        exact = store.fetch_at(users, np.array(times, np.int64), as_of=DAY)
        rows = [oracle.fetch_at(u, t) for u, t in zip(users, times, strict=True)]
        same(exact, rows, [DAY] * len(users))
        assert exact.missing is not None
        assert exact.missing.tolist() == [not r for r in rows]

    @invariant()
    def counted(self) -> None:
        if hasattr(self, "oracle"):
            status = self.store.status()
            assert status.rows == sum(len(rows) for rows in self.oracle.days.values())
            assert status.tail_rows == len(self.oracle.tail)
            assert status.unmatched == self.oracle.unmatched()
            assert len(status.days) == len(self.oracle.days)

    @rule()
    def verify(self) -> None:
        self.store.verify()


SETTINGS = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("place")
def test_any_sequence() -> None:
    run_state_machine_as_test(Machine, settings=SETTINGS)
