"""The daily jobs on a small lake: what a day leaves behind, and what it must not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.fixtures.lakes import UNLABELLED, day, make_events, make_lake, of_day, plays, tokens_of
from tokenlake._lake import Lake
from tokenlake.errors import OrderError
from tokenlake.features.counts import Counts
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.pipeline import jobs
from tokenlake.times import DAY_US, day_start


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("full"))
    lake.ingest(make_events())
    lake.backfill()
    return lake


def same_predictions(lake: Lake, version: str, last: object) -> pa.Table:
    rows = lake.predictions.read(version=version).filter(pc.field("ds") <= pa.scalar(last))
    return rows.sort_by([("event_id", "ascending"), ("label", "ascending")])


def test_every_event_has_one_token_of_each_version(full: Lake) -> None:
    for version in ("iat", "plain"):
        rows = tokens_of(full, full.resolve(version))
        assert rows["event_id"].to_pylist() == list(range(full.events.count()))
        assert set(map(len, rows["token"].to_pylist())) == {8}


def test_plan_trains_on_earlier_days_only_but_for_the_bootstrap_chunk(full: Lake) -> None:
    plans = full.catalog.plans(full.resolve("iat"))
    assert [p.bootstrap for p in plans] == [True] * 3 + [False] * 5
    assert all(p.train_to < p.day for p in plans if not p.bootstrap)
    assert [p.checkpoint for p in plans] == [day(2).isoformat()] * 6 + [day(5).isoformat()] * 2
    # The second chunk finds everything before it trained on by the bootstrap checkpoint already.


def test_deleting_the_future_changes_nothing(full: Lake, tmp_path: Path) -> None:
    """The end-to-end leak test: a lake that never saw the last days has the same tokens and predictions."""
    past = make_lake(tmp_path)
    events = make_events()
    past.ingest(events.filter(pc.less(events["timestamp"], pa.scalar(day_start(day(7)), pa.timestamp("us", "UTC")))))
    past.backfill()
    for version in map(full.resolve, ("iat", "plain")):
        assert tokens_of(past, version).equals(tokens_of(full, version, through=day(6)))
        assert same_predictions(past, version, day(6)).equals(same_predictions(full, version, day(6)))


def test_day_by_day_without_backfill_keeps_order_and_streams(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.ingest(make_events(days=4))
    with pytest.raises(OrderError, match="3 earlier days"):
        lake.run(day(3))
    for i in range(4):
        lake.run(day(i))
    plans = lake.catalog.plans(lake.resolve("iat"))
    assert [p.bootstrap for p in plans] == [True, False, False, False]
    assert [p.checkpoint for p in plans] == [day(i).isoformat() for i in (0, 0, 1, 2)]


@pytest.mark.parametrize("version", ["iat", "plain"])
def test_running_a_day_again_writes_the_same(full: Lake, version: str) -> None:
    version = full.resolve(version)
    before = tokens_of(full, version), same_predictions(full, version, day(7))
    store = full.tokens(version)
    users = list(range(12))
    fetched = store.fetch(users, before=day_start(day(8)), length=50).values.copy()
    for job in jobs.TOKEN_JOBS:
        job(full, day(4), version)
    assert tokens_of(full, version).equals(before[0])
    assert same_predictions(full, version, day(7)).equals(before[1])
    np.testing.assert_array_equal(
        full.tokens(version).fetch(users, before=day_start(day(8)), length=50).values, fetched
    )


def test_a_done_day_is_left_alone(full: Lake) -> None:
    commit = full.instance_tokens.commit_version()
    report = full.run(day(5))
    assert {d for _, d in report.skipped} == {day(5)}
    assert full.backfill().results == []
    assert full.instance_tokens.commit_version() == commit


def test_a_day_without_events_is_skipped_and_publishes_nothing(full: Lake) -> None:
    report = full.run(day(30))
    assert [r.status for r in report.results] == ["skipped"]
    version = full.resolve()
    assert [job(full, day(30), version).status for job in jobs.TOKEN_JOBS] == ["skipped"] * 3
    assert day(30) not in full.catalog.done(version, "publish")


def test_late_events_touch_their_own_day_only(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.ingest(make_events())
    lake.backfill()
    version = lake.resolve("iat")
    before = tokens_of(lake, version)
    late = of_day(make_events(seed=7), 4).slice(0, 5)
    assert lake.ingest(late).days == (day(4),)
    assert {r.day for r in lake.catalog.restatements()} == {day(4)}
    lake.backfill()
    assert not lake.catalog.restatements()
    after = tokens_of(lake, version)
    assert after.num_rows == before.num_rows + 5
    elsewhere = pc.field("ds") != pa.scalar(day(4))
    assert after.filter(elsewhere).equals(before.filter(elsewhere))
    assert lake.tokens(version).fetch_at(late["user_id"], late["timestamp"]).missing.sum() == 0
    # What came late counts in every plan drawn from then on.
    recounted = Counts.empty(lake.config)
    for earlier in lake.events.days():
        recounted.advance(earlier, lake.events.read(day=earlier))
    asked = of_day(make_events(days=9), 8)
    none = lake.events.read(day=day(8))
    rolled = lake.shared(DayFeatureCache).counts_of(asked, none.slice(0, 0), day(8), lake.watermark())
    np.testing.assert_array_equal(rolled, recounted.features(none, asked))


@pytest.mark.parametrize("version", ["iat", "plain"])
def test_encode_equals_the_nightly_job(full: Lake, version: str) -> None:
    version = full.resolve(version)
    events = of_day(make_events(), 6)
    expected = tokens_of(full, version).filter(pc.field("ds") == pa.scalar(day(6)))["token"].to_pylist()
    ulp = np.spacing(np.abs(np.float16(expected)).astype(np.float16)).astype(np.float32)
    whole = full.encode(events, version=version)
    single = np.concatenate([full.encode(events.slice(i, 1), version=version) for i in range(8)])
    assert (np.abs(whole - np.float32(expected)) <= ulp).all()
    assert (np.abs(single - np.float32(expected)[:8]) <= ulp[:8]).all()


def test_encode_of_new_events_equals_what_the_night_will_write(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    events = make_events()
    noon = pa.scalar(day_start(day(7)) + DAY_US // 2, pa.timestamp("us", "UTC"))
    lake.ingest(events.filter(pc.less(events["timestamp"], noon)))
    lake.backfill(last=day(6))
    jobs.train(lake, day(7), lake.resolve())
    afternoon = events.filter(pc.greater_equal(events["timestamp"], noon))
    now = lake.encode(afternoon)
    lake.ingest(afternoon)
    lake.run(day(7))
    written = tokens_of(lake, lake.resolve()).filter(pc.field("timestamp") >= noon)
    ulp = np.spacing(np.abs(np.float16(now)))
    assert (np.abs(np.float32(written["token"].to_pylist()) - now) <= ulp).all()


def test_an_events_own_label_changes_no_token_of_its_day_before_it_is_known(full: Lake, tmp_path: Path) -> None:
    """Flip all labels of the last day: tokens of rows before anything became known stay; the labels are no inputs."""
    flipped = make_lake(tmp_path)
    events = make_events()
    last = pc.equal(pc.cast(events["timestamp"], pa.date32()), pa.scalar(day(7)))
    clicked = pc.if_else(last, pc.subtract(pa.scalar(1, pa.int8()), events["clicked"]), events["clicked"])
    flipped.ingest(events.set_column(events.column_names.index("clicked"), "clicked", clicked))
    flipped.backfill()
    version = full.resolve("plain")
    first_of_day = pc.min(events.filter(last)["timestamp"])
    a, b = (
        tokens_of(lake, version).filter((pc.field("ds") < pa.scalar(day(7))) | (pc.field("timestamp") == first_of_day))
        for lake in (full, flipped)
    )
    assert a.select(["event_id", "token"]).equals(b.select(["event_id", "token"]))


def test_a_log_without_labels_trains_against_sampled_negatives(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, UNLABELLED)
    lake.ingest(plays())
    lake.backfill()
    version = lake.resolve()
    assert lake.instance_tokens.read(version=version).num_rows == lake.events.count()
    scored = lake.predictions.read(version=version)
    assert set(scored["label"].to_pylist()) == {"observed"}
    targets = scored["target"].to_numpy()
    assert 0 < targets.sum() < len(targets)
    before = same_predictions(lake, version, day(7))
    for job in jobs.TOKEN_JOBS:
        job(lake, day(5), version)
    keys = ["user_id", "timestamp", "target", "value"]
    order = [(k, "ascending") for k in keys]
    assert (
        same_predictions(lake, version, day(7)).select(keys).sort_by(order).equals(before.select(keys).sort_by(order))
    )


def test_one_user_with_one_event(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.ingest(make_events().slice(0, 1))
    lake.backfill()
    assert tokens_of(lake, lake.resolve()).num_rows == 1
