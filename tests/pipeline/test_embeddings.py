"""The embeddings' daily jobs on a small lake: histories by an oracle, and what a day must not see."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.fixtures.embedded import BLOCK, SMALL, vectors
from tests.fixtures.lakes import CONFIG, UNLABELLED, day, make_events, make_lake, of_day, plays
from tokenlake._lake import Lake
from tokenlake.catalog import Plan
from tokenlake.config import Filter
from tokenlake.errors import ConfigError, OrderError
from tokenlake.features.activity import EventDayCache, EventLog, Histories
from tokenlake.features.versions import finished
from tokenlake.pipeline import embedding, jobs
from tokenlake.pipeline.backfill import backfill, run
from tokenlake.times import DAY_US, day_start


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("full"), SMALL)
    lake.ingest(make_events())
    backfill(lake, version="alure")
    return lake


def by_hand(log: EventLog, filters: list[Filter], user: int, now: int, length: int, reach: dt.timedelta) -> list[int]:
    found = []
    for row, event in enumerate(log.events.to_pylist()):
        when = []
        for f in filters:
            if f.label and event[f.label] == 1:
                known = event[f"{f.label}_known_at"]
                when.append(max(int(known.timestamp() * 1e6), int(event["timestamp"].timestamp() * 1e6)))
            if f.feature and event[f.feature] in f.among:
                when.append(int(event["timestamp"].timestamp() * 1e6))
        if not filters:
            when = [int(event["timestamp"].timestamp() * 1e6)]
        since = now - int(reach.total_seconds() * 1e6)
        if event["user_id"] == user and when and since <= min(when) < now:
            found.append((min(when), row))
    return sorted(row for _, row in sorted(found)[-length:])


@pytest.mark.parametrize(
    "filters", [[], [Filter(label="bought")], [Filter(feature="genre", among=("g1",)), Filter(label="clicked")]]
)
def test_histories_equal_those_found_by_hand(full: Lake, filters: list[Filter]) -> None:
    log = full.shared(EventDayCache).read(day(0), day(7), None)
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, len(log.users), 60)
    now = rng.choice(log.timestamps, 60) + rng.integers(0, 2, 60)
    reach = dt.timedelta(days=3)
    rows, offsets = Histories(log, log.select(filters)).before(codes, now, 6, reach)
    for i, (code, t) in enumerate(zip(codes, now, strict=True)):
        user = log.users[int(code)].as_py() if code >= 0 else None
        expected = by_hand(log, filters, user, int(t), 6, reach)
        assert rows[offsets[i] : offsets[i + 1]].tolist() == expected


def test_questions_ask_for_a_users_next_positives_of_a_day(full: Lake) -> None:
    log = full.shared(EventDayCache).read(day(0), day(7), None)
    users, now, positives, offsets = embedding.training_queries(log, None, day_start(day(8)), 3)
    clicked = [i for i, e in enumerate(log.events.to_pylist()) if e["clicked"] == 1]
    assert positives.tolist() == clicked
    assert offsets[-1] == len(clicked)
    for i in range(len(users)):
        asked = positives[offsets[i] : offsets[i + 1]]
        assert 1 <= len(asked) <= 3
        assert set(log.codes[asked]) == {users[i]}
        assert now[i] == log.timestamps[asked[0]]
        assert len({t // DAY_US for t in log.timestamps[asked]}) == 1


def test_everyone_active_lately_is_embedded_each_day_by_the_days_checkpoint(full: Lake) -> None:
    events = full.events.read().to_pylist()
    plans = {p.day: p for p in full.catalog.plans(full.config.embedding_version)}
    for of in ("user", "item"):
        rows = vectors(full, of).to_pylist()
        for i in range(8):
            days = {day(i - k) for k in range(5)}
            expected = {e[f"{of}_id"] for e in events if e["ds"] in days}
            got = [r for r in rows if r["ds"] == day(i)]
            assert {r[f"{of}_id"] for r in got} == expected
            assert len(got) == len(expected)
            assert {r["checkpoint"] for r in got} == {plans[day(i)].checkpoint}
            assert {r["available_at"] for r in got} == {dt.datetime.combine(day(i + 1), dt.time(), dt.UTC)}
        norms = np.linalg.norm(np.array([r["embedding"] for r in rows]), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)
    assert all(p.train_to is not None and p.train_to < p.day for p in plans.values() if not p.bootstrap)
    assert [p.bootstrap for p in plans.values()] == [True] * 3 + [False] * 5


def test_deleting_the_future_changes_nothing(full: Lake, tmp_path: Path) -> None:
    past = make_lake(tmp_path, SMALL)
    events = make_events()
    past.ingest(events.filter(pc.less(events["timestamp"], pa.scalar(day_start(day(7)), pa.timestamp("us", "UTC")))))
    backfill(past, version="alure")
    for of in ("user", "item"):
        # The checkpoint's name tells the plan's chunk, which the lake's end may shorten.
        kept = [f"{of}_id", "embedding", "ds"]
        assert vectors(past, of).select(kept).equals(vectors(full, of, through=day(6)).select(kept))


def test_running_a_day_again_writes_the_same(full: Lake) -> None:
    before = vectors(full), vectors(full, "item")
    for job in jobs.EMBEDDING_JOBS:
        job(full, day(4), full.config.embedding_version)
    assert vectors(full).equals(before[0])
    assert vectors(full, "item").equals(before[1])


def test_a_job_that_died_half_way_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Lake
) -> None:
    lake = make_lake(tmp_path, SMALL)
    lake.ingest(make_events())
    write = embedding.write

    def dies(table: object, ids: pa.Array, matrix: object, plan: Plan) -> None:
        if plan.day == day(4) and table is lake.item_embeddings:
            raise KeyboardInterrupt
        write(table, ids, matrix, plan)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(embedding, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        backfill(lake, version="alure")
    monkeypatch.undo()
    assert max(lake.catalog.done(lake.config.embedding_version, jobs.EMBED)) == day(3)
    report = backfill(lake, version="alure")
    assert len(report.skipped) == 4
    assert vectors(lake).drop_columns(["version"]).equals(vectors(full).drop_columns(["version"]))


def test_order_and_days_without_events(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, SMALL)
    lake.ingest(make_events(days=3))
    version = lake.config.embedding_version
    with pytest.raises(OrderError, match="2 earlier days"):
        jobs.train_embeddings(lake, day(2), version)
    for i in range(3):
        for job in jobs.EMBEDDING_JOBS:
            assert job(lake, day(i), version).status == "done"
    assert [job(lake, day(30), version).status for job in jobs.EMBEDDING_JOBS] == ["skipped"] * 2
    assert lake.user_embeddings.days() == [day(0), day(1), day(2)]


def test_late_events_mark_their_day_alone(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, SMALL)
    lake.ingest(make_events())
    lake.run(day(0))  # every lineage
    lake.backfill()
    before = vectors(lake)
    lake.ingest(of_day(make_events(seed=7, users=30), 4).slice(0, 5))
    assert {(r.day, r.version) for r in lake.catalog.restatements()} >= {(day(4), lake.config.embedding_version)}
    lake.backfill()
    assert not lake.catalog.restatements()
    elsewhere = pc.field("ds") != pa.scalar(day(4))
    assert vectors(lake).filter(elsewhere).equals(before.filter(elsewhere))
    assert vectors(lake).num_rows > before.num_rows


def test_a_log_without_labels_and_a_user_with_one_event(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, UNLABELLED + "embeddings: {dim: 8, width: 16, history: 6}\n")
    lake.ingest(plays(days=3))
    single = plays(days=1).slice(0, 1).set_column(0, "user_id", pa.array([99]))
    lake.ingest(single)
    backfill(lake, version="alure")
    assert 99 in vectors(lake)["user_id"].to_pylist()
    assert len(set(vectors(lake)["ds"].to_pylist())) == 3


def test_a_lake_of_one_event(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, SMALL)
    lake.ingest(make_events().slice(0, 1))
    backfill(lake, version="alure")
    assert vectors(lake).num_rows == vectors(lake, "item").num_rows == 1


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("sources: {a: {label: sold}}", "no label 'sold'"),
        ("sources: {a: {feature: price, is: x}}", "no categorical feature 'price'"),
        ("sources: {a: {feature: genre}}", "a filter is"),
        ("sources: {}", "at least 1"),
        ("heads: 3", "must divide"),
        ("retention_day: 3", "did you mean 'retention_days'"),
    ],
)
def test_config_says_what_is_wrong(tmp_path: Path, block: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_lake(tmp_path, CONFIG + f"\nembeddings:\n  {block}\n")


def test_no_block_no_embeddings(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    with pytest.raises(ConfigError, match="no `embeddings` block"):
        backfill(lake, version="alure")


def test_days_on_which_nobody_did_what_the_sources_read(tmp_path: Path) -> None:
    """Such a day is done without a vector, holds no later day up, and has no index; a run again leaves it alone."""
    block = BLOCK.replace("{all: all, bought: {label: bought}, g1: [{feature: genre, is: g1}, {label: clicked}]}", "%s")
    lake = make_lake(tmp_path, CONFIG + block % "{bought: {label: bought}}")
    events = make_events(days=5, per_day=25)
    early = pc.less(events["timestamp"], pa.scalar(day_start(day(2)), pa.timestamp("us", "UTC")))
    never = {"bought": pa.scalar(0, pa.int8()), "bought_at": pa.scalar(None, events["bought_at"].type)}
    for name, value in never.items():
        place = events.schema.get_field_index(name)
        events = events.set_column(place, name, pc.if_else(early, value, events[name]))
    lake.ingest(events)
    version = lake.config.embedding_version
    for i in range(5):
        run(lake, day(i))
    assert lake.user_embeddings.days(version) == [day(2), day(3), day(4)]
    assert finished(lake, version) == {day(i) for i in range(5)}
    assert [r.day for r in lake.catalog.runs(job="graph", version=version, status="skipped")] == [day(0), day(1)]
    assert len(lake.index("users")) == len(lake.user_embeddings.read(day=day(4), version=version))
    assert all((version, day(i)) in backfill(lake, version="alure").skipped for i in range(5))
