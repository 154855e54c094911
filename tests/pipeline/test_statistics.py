"""User statistics against counts made event by event, and when they are counted again."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from tests.fixtures.lakes import CONFIG, UNLABELLED, day, make_events, make_lake, of_day, plays
from tokenlake._lake import Lake
from tokenlake.pipeline import jobs
from tokenlake.pipeline.statistics import stale_days
from tokenlake.times import available_at

BLOCK = "embeddings: {retention_days: 3, dim: 8, width: 16, queries: 2, history: 6, batch: 16}\n"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = make_lake(tmp_path, CONFIG + BLOCK)
    lake.ingest(make_events())
    return lake


def micros(time: dt.datetime) -> int:
    return int((time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(microseconds=1))


def by_hand(lake: Lake, at: dt.date, window: int = 3) -> dict[int, dict[str, object]]:
    """What a reader at the day's end knows, user by user and event by event."""
    found: dict[int, dict[str, object]] = {}
    events = [e for e in lake.events.read().to_pylist() if at - dt.timedelta(days=window) < e["ds"] <= at]
    for user in {e["user_id"] for e in events}:
        own = [e for e in events if e["user_id"] == user]
        row: dict[str, object] = {
            "user_id": user,
            "events": len(own),
            "active_days": len({e["ds"] for e in own}),
            "last_event_at": max(e["timestamp"] for e in own),
        }
        for label in lake.config.events.labels:
            known = [
                e
                for e in own
                if e[label] is not None
                and e[f"{label}_known_at"] is not None
                and max(micros(e[f"{label}_known_at"]), micros(e["timestamp"])) < available_at(at)
            ]
            count = sum(e[label] for e in known)
            row |= {f"{label}_known": len(known), f"{label}_count": count}
            row[f"{label}_rate"] = count / len(known) if known else None
        row |= {"ds": at, "available_at": dt.datetime.combine(at + dt.timedelta(days=1), dt.time(), dt.UTC)}
        found[user] = row
    return found


def test_they_equal_those_counted_by_hand(lake: Lake) -> None:
    for i in range(8):
        assert jobs.statistics(lake, day(i)).status == "done"
        rows = lake.user_statistics.read(day=day(i)).to_pylist()
        assert {row["user_id"]: row for row in rows} == by_hand(lake, day(i))
        assert len(rows) == len({row["user_id"] for row in rows})
    last = lake.user_statistics.read(day=day(7)).to_pylist()
    assert any(row["bought_known"] < row["events"] for row in last), "some purchases may yet come"


def test_again_writes_the_same_and_an_empty_day_is_skipped(lake: Lake) -> None:
    jobs.statistics(lake, day(3))
    before = lake.user_statistics.read()
    jobs.statistics(lake, day(3))
    assert lake.user_statistics.read().equals(before)
    assert jobs.statistics(lake, day(40)).status == "skipped"
    assert lake.user_statistics.days() == [day(3)]


def test_late_events_make_the_days_stale_that_look_back_on_them(lake: Lake) -> None:
    days = lake.events.days()
    assert stale_days(lake, days) == days
    for each in days:
        jobs.statistics(lake, each)
    assert stale_days(lake, days) == []
    lake.ingest(of_day(make_events(seed=7, users=30), 4).slice(0, 5))
    assert stale_days(lake, days) == [day(4), day(5), day(6)]
    jobs.statistics(lake, day(5))
    assert stale_days(lake, days) == [day(4), day(6)]
    rows = lake.user_statistics.read(day=day(5)).to_pylist()
    assert {row["user_id"]: row for row in rows} == by_hand(lake, day(5))


def test_another_window_makes_all_of_them_stale(lake: Lake) -> None:
    jobs.statistics(lake, day(5))
    assert stale_days(lake, [day(5)]) == []
    wider = make_lake(lake.root, CONFIG + BLOCK.replace("retention_days: 3", "retention_days: 4"))
    assert stale_days(wider, [day(5)]) == [day(5)]


def test_a_log_without_labels_and_with_names_for_users(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, UNLABELLED)
    events = plays(days=2)
    lake.ingest(events.set_column(0, "user_id", events["user_id"].cast(pa.string())))
    jobs.statistics(lake, day(1))
    rows = lake.user_statistics.read().to_pylist()
    assert {row["user_id"]: row for row in rows} == by_hand(lake, day(1), 90)
    assert lake.sql("SELECT sum(events) FROM user_statistics").fetchall() == [(80,)]
