"""Plans: what trains when, on a real catalog and made-up days."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.lakes import day, make_events, make_lake, of_day
from tokenlake.catalog import Catalog, Plan
from tokenlake.config import Config
from tokenlake.errors import OrderError
from tokenlake.pipeline.plan import plan, plan_chunks, require_order

_FRESH = itertools.count()


class Days:
    """What planning asks of a lake: which days have events, how new they are, and a catalog, here shared by all.

    Every one of them plans a version of its own.
    """

    def __init__(self, catalog: Catalog, *days: int) -> None:
        self.catalog = catalog
        self.version = f"v-{next(_FRESH)}"
        self.events = self
        self.root = Path("lake")
        self.config = Config()
        self._there: set[dt.date] = set()
        self._ingests = 0
        self.arrive(*days)

    def arrive(self, *days: int) -> None:
        self._there |= {day(i) for i in days}
        self._ingests += 1

    def days(self) -> list[dt.date]:
        return sorted(self._there)

    def watermark(self) -> int:
        return self._ingests

    def published(self, version: str) -> set[dt.date]:
        return self.catalog.done(version, "publish")

    # What the jobs do, as far as plans go.

    def publish(self, of: dt.date) -> None:
        with self.catalog.run("publish", of, self.version):
            pass

    def run(self, i: int, learn_days: int = 1) -> Plan:
        """The jobs of one day."""
        require_order(self, self.version, day(i))  # type: ignore[arg-type]  # it asks no more of a lake
        drawn = plan(self, self.version, day(i), learn_days=learn_days)  # type: ignore[arg-type]
        self.publish(day(i))
        return drawn

    def backfill(self, first: int = 0, last: int = 99, chunk_days: int = 3, learn_days: int | None = None) -> None:
        """The jobs of a range."""
        days = [d for d in self.days() if day(first) <= d <= day(last)]
        for chunk in plan_chunks(self, self.version, days, chunk_days, learn_days=learn_days):  # type: ignore[arg-type]
            for one in chunk:
                require_order(self, self.version, one.day)  # type: ignore[arg-type]
                self.publish(one.day)

    @property
    def plans(self) -> list[Plan]:
        return self.catalog.plans(self.version)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(tmp_path_factory.mktemp("plans") / "catalog.sqlite")


def told(plans: Sequence[Plan]) -> list[tuple[int, int, int, bool]]:
    """Day, first and last day trained on, bootstrap; as numbers."""

    def number(of: dt.date | None) -> int:
        return -1 if of is None else (of - day(0)).days

    return [(number(p.day), number(p.train_from), number(p.train_to), p.bootstrap) for p in plans]


def test_the_first_chunk_is_its_own_teacher(catalog: Catalog) -> None:
    days = Days(catalog, 0, 1, 2)
    days.backfill()
    assert told(days.plans) == [(0, 0, 2, True), (1, 0, 2, True), (2, 0, 2, True)]
    assert {(p.checkpoint, p.parent) for p in days.plans} == {(day(2).isoformat(), None)}


def test_each_chunk_trains_on_what_the_one_before_encoded(catalog: Catalog) -> None:
    days = Days(catalog, *range(10))
    days.backfill()
    assert told(days.plans) == [
        *((i, 0, 2, True) for i in (0, 1, 2)),
        *((i, 0, 2, False) for i in (3, 4, 5)),  # there is nothing new to learn from yet
        *((i, 3, 5, False) for i in (6, 7, 8)),
        (9, 6, 8, False),
    ]
    assert [p.parent for p in days.plans][-4:] == [day(2).isoformat()] * 3 + [day(5).isoformat()]


def test_chunks_are_calendar_days(catalog: Catalog) -> None:
    days = Days(catalog, 0, 1, 2, 7, 20, 21)
    days.backfill()
    assert told(days.plans) == [
        *((i, 0, 2, True) for i in (0, 1, 2)),
        (7, 0, 2, False),
        (20, 3, 19, False),
        (21, 3, 19, False),
    ]


def test_day_by_day_after_a_backfill(catalog: Catalog) -> None:
    days = Days(catalog, *range(4))
    days.backfill(0, 2)
    assert told([days.run(3)]) == [(3, 0, 2, False)]
    days.arrive(4, 5)
    assert told([days.run(4), days.run(5)]) == [(4, 3, 3, False), (5, 4, 4, False)]


def test_day_by_day_from_the_start(catalog: Catalog) -> None:
    days = Days(catalog, *range(4))
    assert told([days.run(i) for i in range(4)]) == [
        (0, 0, 0, True),
        (1, 0, 0, False),
        (2, 1, 1, False),
        (3, 2, 2, False),
    ]


def test_a_training_comes_when_its_days_are_full(catalog: Catalog) -> None:
    days = Days(catalog, *range(20))
    days.backfill(chunk_days=3, learn_days=7)
    assert told(days.plans) == [
        *((i, 0, 2, True) for i in (0, 1, 2)),
        *((i, 0, 2, False) for i in range(3, 10)),  # the seventh day since is not over before the tenth
        *((i, 3, 9, False) for i in range(10, 17)),
        *((i, 10, 16, False) for i in (17, 18, 19)),
    ]


def test_a_training_after_days_without_events_takes_them_in(catalog: Catalog) -> None:
    days = Days(catalog, 0, 1, 12, 13, 14)
    days.backfill(chunk_days=1, learn_days=7)
    assert told(days.plans) == [
        (0, 0, 0, True),
        (1, 0, 0, False),
        (12, 1, 11, False),
        *((i, 1, 11, False) for i in (13, 14)),
    ]
    alone = Days(catalog, 0, 12, 13)
    alone.backfill(chunk_days=1, learn_days=7)
    assert told(alone.plans) == [(0, 0, 0, True), (12, 0, 0, False), (13, 1, 12, False)]


def trained_by(days: Sequence[int], bootstrap: int, learn_days: int) -> list[tuple[int, int]]:
    """Each day after the first chunk, and the last day that its checkpoint has seen; day by day, as the contract says."""
    seen, out = bootstrap, []
    for i in days:
        if i > bootstrap:
            if i - 1 - seen >= learn_days and any(seen < k < i for k in days):
                seen = i - 1
            out.append((i, seen))
    return out


@settings(max_examples=40)
@given(
    days=st.frozensets(st.integers(0, 25), min_size=1, max_size=12).map(sorted),
    learn_days=st.sampled_from([1, 2, 7]),
    chunk_days=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 25), max_size=3).map(sorted),
    one_by_one=st.booleans(),
)
def test_however_the_days_are_run_models_learn_the_same(
    catalog: Catalog, days: list[int], learn_days: int, chunk_days: int, cuts: list[int], one_by_one: bool
) -> None:
    """By one back-fill, by several, or day by day after the first chunk."""
    fake = Days(catalog, *days)
    first = min(days) + chunk_days - 1
    fake.backfill(last=first, chunk_days=chunk_days, learn_days=learn_days)
    for cut in cuts:
        fake.backfill(last=max(cut, first), chunk_days=chunk_days, learn_days=learn_days)
    for i in days if one_by_one else ():
        fake.run(i, learn_days)
    fake.backfill(chunk_days=chunk_days, learn_days=learn_days)
    bootstrap = max(i for i in days if i <= first)
    assert [(i, to) for i, _, to, boot in told(fake.plans) if not boot] == trained_by(days, fake_end(fake), learn_days)
    assert all(boot == (i <= bootstrap) for i, _, _, boot in told(fake.plans))
    check(fake.plans)


def fake_end(days: Days) -> int:
    """The last day of the first chunk."""
    return max(to for _, _, to, boot in told(days.plans) if boot)


def test_a_plan_stands(catalog: Catalog) -> None:
    days = Days(catalog, *range(4))
    days.backfill(chunk_days=2)
    before = days.plans
    days.arrive(1, 6)
    days.backfill(chunk_days=5)
    assert days.plans[: len(before)] == before
    assert days.run(2) == before[2]


def test_a_day_that_came_late_trains_nothing(catalog: Catalog) -> None:
    days = Days(catalog, 0, 1, 4, 8)
    days.backfill(chunk_days=1)
    before = {p.day: p for p in days.plans}
    days.arrive(6, 3)
    days.backfill(chunk_days=3)
    late = {p.day: p for p in days.plans if p.day not in before}
    assert late.keys() == {day(3), day(6)}
    for came, teacher in ((3, 1), (6, 4)):
        one, other = late[day(came)], before[day(teacher)]
        assert (one.checkpoint, one.train_to, one.bootstrap) == (other.checkpoint, other.train_to, False)
        assert one.watermark > other.watermark
    days.arrive(9)
    # What came late is trained on never: the windows have passed.
    assert told([days.run(9)]) == [(9, 8, 8, False)]


def test_a_day_before_all_others_is_bootstrap(catalog: Catalog) -> None:
    days = Days(catalog, 5, 6, 7, 8)
    days.backfill()
    days.arrive(2)
    first = days.run(2)
    assert told([first]) == [(2, 5, 7, True)]
    assert first.checkpoint == day(7).isoformat()


def test_a_day_late_inside_the_bootstrap_chunk_is_bootstrap(catalog: Catalog) -> None:
    days = Days(catalog, 0, 2, 3)
    days.backfill()
    days.arrive(1)
    assert told([days.run(1)]) == [(1, 0, 2, True)]


def test_order(catalog: Catalog) -> None:
    days = Days(catalog, 0, 1, 5)
    with pytest.raises(OrderError, match=f"must wait: {day(0)} with events"):
        days.run(1)
    with pytest.raises(OrderError, match=f"2 earlier days, {day(0)} to {day(1)}, with events"):
        days.run(5)
    assert days.plans == []


def test_a_backfill_that_begins_too_late_plans_nothing(catalog: Catalog) -> None:
    """Its plans would stand, and the days before it could never be trained on."""
    days = Days(catalog, *range(6))
    with pytest.raises(OrderError):
        days.backfill(3, 5)
    assert days.plans == []
    days.backfill()
    assert [p.bootstrap for p in days.plans] == [True] * 3 + [False] * 3


def test_a_real_lake_with_an_empty_day(tmp_path: Path) -> None:
    lake, events = make_lake(tmp_path), make_events(days=4, per_day=5)
    version = lake.resolve("plain")
    for i in (0, 2, 3):
        lake.ingest(of_day(events, i))
    chunks = plan_chunks(lake, version, lake.events.days(), 3)
    assert told(next(chunks)) == [(0, 0, 2, True), (2, 0, 2, True)]
    with pytest.raises(OrderError, match="2 earlier days"):
        next(chunks)
    assert all(p.watermark == lake.watermark() for p in lake.catalog.plans(version))
    assert lake.catalog.plan(version, day(1)) is None


Step = tuple[str, Any]
_DAY = st.integers(0, 14)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.frozensets(_DAY, min_size=1, max_size=5)),
        st.tuples(st.just("backfill"), st.tuples(_DAY, _DAY, st.integers(1, 5))),
        st.tuples(st.just("run"), _DAY),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(steps=STEPS)
def test_whatever_comes_in_whatever_order(catalog: Catalog, steps: list[Step]) -> None:
    days = Days(catalog)
    before: dict[dt.date, Plan] = {}
    for name, what in [("arrive", {3, 4}), *steps]:
        try:
            if name == "arrive":
                days.arrive(*what)
            elif name == "backfill":
                days.backfill(*what)
            elif day(what) in days.days():
                days.run(what)
        except OrderError:
            assert name != "arrive"
        after = {p.day: p for p in days.plans}
        assert before.items() <= after.items()  # plans never change
        before = after
        check(days.plans)
    days.backfill()
    assert {p.day for p in days.plans} == set(days.days())
    check(days.plans)


def check(plans: list[Plan]) -> None:
    """Streaming order: nothing is encoded by what was trained on it, and no day is trained on twice."""
    if not plans:
        return
    windows = sorted({(p.train_from, p.train_to, p.checkpoint, p.parent) for p in plans})
    for p in plans:
        assert p.bootstrap == (p.train_to >= p.day)
        assert p.chunk_start <= p.day <= p.chunk_end
    first = [window for window in windows if window[3] is None]
    assert len(first) == 1
    assert {p.checkpoint for p in plans if p.bootstrap} == {first[0][2]}
    for (_, end, checkpoint, _), (start, _, _, parent) in itertools.pairwise(windows):
        assert start == end + dt.timedelta(days=1)
        assert parent == checkpoint
