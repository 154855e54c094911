"""The HSTU ranker over a lake's tokens: what it may know when it predicts, and how it is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from tests.fixtures.lakes import UNLABELLED, day, make_events, make_lake, plays
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import NotFoundError
from tokenlake.evaluation.ranker import (
    RANKER,
    RUNNING,
    RankerOptions,
    _batches,
    is_trained,
    ranker_report,
    ranker_version,
    train_ranker,
)
from tokenlake.times import DAY_US, day_start

OPTIONS = RankerOptions(history=16, dim=16, batch=16, learning_rate=5e-3)
KEYS = [("label", "ascending"), ("model", "ascending"), ("event_id", "ascending"), ("timestamp", "ascending")]
#: In the middle of the day after the first chunk that is scored.
CUT = day_start(day(6)) + DAY_US // 2


def trained(lake: Lake, options: RankerOptions = OPTIONS) -> pa.Table:
    version = lake.resolve()
    train_ranker(lake, version, options)
    return lake.predictions.read(version=ranker_version(lake, version, options)).sort_by(KEYS)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("ranked"))
    lake.ingest(make_events())
    lake.backfill()
    return lake


@pytest.fixture(scope="module")
def predicted(lake: Lake) -> pa.Table:
    return trained(lake)


def test_every_labelled_row_after_the_bootstrap_chunk_is_predicted_once(lake: Lake, predicted: pa.Table) -> None:
    events = lake.events.read(between=(day(3), day(7)))
    for model in (RANKER, RUNNING):
        for label in ("clicked", "bought"):
            rows = predicted.filter((pc.field("model") == model) & (pc.field("label") == label))
            known = events.filter(events[label].is_valid())
            assert sorted(rows["event_id"].to_pylist()) == sorted(known["event_id"].to_pylist())
            assert pc.min(rows["value"]).as_py() > 0
            assert pc.max(rows["value"]).as_py() < 1


def test_deleting_the_future_changes_no_prediction_before_it(predicted: pa.Table, tmp_path: Path) -> None:
    """Events at or after the cut are gone, and so is all that was known of earlier events' labels only after it."""
    events = make_events()
    times = events["timestamp"].cast(pa.int64()).to_numpy()
    bought_at = events["bought_at"].cast(pa.int64()).fill_null(0).to_numpy()
    cut = events.set_column(
        events.schema.get_field_index("bought"), "bought", pa.array(events["bought"].to_numpy() * (bought_at < CUT))
    )
    cut = cut.set_column(
        events.schema.get_field_index("bought_at"),
        events.schema.field("bought_at"),
        pa.array(bought_at, pa.timestamp("us", "UTC"), mask=(bought_at == 0) | (bought_at >= CUT)),
    )
    lake = make_lake(tmp_path / "cut")
    lake.ingest(cut.filter(pa.array(times < CUT)))
    lake.backfill()
    ours = trained(lake)
    before = predicted.filter(pc.less(predicted["timestamp"].cast(pa.int64()), CUT))
    assert ours["event_id"].equals(before["event_id"])
    assert before.num_rows > 300
    assert np.allclose(ours["value"].to_numpy(), before["value"].to_numpy(), atol=1e-5)


def test_the_running_base_rate_knows_no_more_than_was_known(lake: Lake, predicted: pa.Table) -> None:
    """Counted again, event by event: the labels known before the batch that an event was predicted in."""
    events = lake.events.read(between=(day(3), day(7)))
    rows = predicted.filter((pc.field("model") == RUNNING) & (pc.field("label") == "bought"))
    known_at = events["bought_known_at"].cast(pa.int64()).fill_null(np.iinfo(np.int64).max).to_numpy()
    positive = events["bought"].to_numpy(zero_copy_only=False)
    times = {row["event_id"]: row["timestamp"] for row in rows.to_pylist()}
    for event, value in zip(rows["event_id"].to_pylist(), rows["value"].to_pylist(), strict=True):
        moment = int(times[event].timestamp() * 1_000_000)
        most = known_at < moment
        shares = {
            (0.5 + positive[known_at < bound].sum()) / (1 + (known_at < bound).sum())
            for bound in np.unique(np.append(known_at[most], moment))
        }
        assert any(np.isclose(value, share, atol=1e-6) for share in shares)


def test_batches_follow_time_and_divide_no_instant() -> None:
    times = np.array([5, 1, 1, 1, 3, 9, 3, 9, 9])
    parts = _batches(times, 2)
    assert [times[part].tolist() for part in parts] == [[1, 1, 1], [3, 3], [5], [9, 9, 9]]
    assert sorted(np.concatenate(parts).tolist()) == list(range(9))
    assert _batches(times[:0], 2) == []
    assert [len(part) for part in _batches(times, 100)] == [9]


def test_the_report(lake: Lake, predicted: pa.Table) -> None:
    version = lake.resolve()
    assert is_trained(lake, version, OPTIONS)
    report = ranker_report(lake, version, OPTIONS, resamples=5)
    assert (report.first, report.last) == (day(3), day(7))
    for label in ("clicked", "bought"):
        ne = {score.model: score.ne.value for score in report.scores if score.label == label and score.ne}
        assert ne["base rate"] == pytest.approx(1.0)
        assert set(ne) == {"base rate", RUNNING, "user-order (source)", RANKER}
    other = RankerOptions(history=8)
    assert not is_trained(lake, version, other)
    with pytest.raises(NotFoundError, match="--part ranker"):
        ranker_report(lake, version, other)


def test_it_beats_the_base_rate_where_there_is_something_to_learn(tmp_path: Path) -> None:
    events = make_events(days=7, per_day=120, seed=3)
    rng = np.random.default_rng(0)
    likely = np.where(pc.equal(events["genre"], "g0").to_numpy(zero_copy_only=False), 0.95, 0.05)
    clicked = pa.array((rng.random(len(events)) < likely).astype(np.int8))
    lake = make_lake(tmp_path / "planted")
    lake.ingest(events.set_column(events.schema.get_field_index("clicked"), "clicked", clicked))
    lake.backfill()
    options = RankerOptions(history=8, dim=16, layers=1, batch=16, learning_rate=1e-2)
    train_ranker(lake, lake.resolve(), options)
    report = ranker_report(lake, lake.resolve(), options, resamples=20)
    ne = {score.model: score.ne for score in report.scores if score.label == "clicked"}
    assert ne[RANKER].high < 0.9 < ne[RUNNING].low


def test_the_command(tmp_path: Path) -> None:
    """On a log without labels: sampled negatives are candidates too."""
    lake = make_lake(tmp_path / "plays", UNLABELLED)
    lake.ingest(plays(5))
    with pytest.raises(NotFoundError, match="no published day after the bootstrap"):
        train_ranker(lake, lake.resolve())
    lake.backfill()
    result = CliRunner().invoke(app, ["evaluate", str(lake.root), "--part", "ranker", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert {row["model"] for row in report["ranker"]["rows"]} >= {RANKER, RUNNING}
    again = CliRunner().invoke(app, ["evaluate", str(lake.root), "--part", "ranker"], catch_exceptions=False)
    assert "hstu ranker" in again.output
