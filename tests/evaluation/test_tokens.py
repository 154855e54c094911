"""Controls follow the encoders' own path, and the report counts what it should."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from tests.fixtures.lakes import UNLABELLED, day, make_events, make_lake, plays
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import NotFoundError, OrderError, TransientError
from tokenlake.evaluation.controls import Control, controls_of, is_complete, run_control
from tokenlake.evaluation.tokens import TokenReport, report_on, token_report

KEYS = [("ds", "ascending"), ("event_id", "ascending"), ("label", "ascending")]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("evaluated"))
    lake.ingest(make_events())
    lake.backfill()
    return lake


@pytest.fixture(scope="module")
def report(lake: Lake) -> TokenReport:
    for control in controls_of(lake):
        run_control(lake, control, lake.catalog.plans(lake.resolve()))
    return token_report(lake, resamples=20)


def predictions(lake: Lake, version: str) -> pa.Table:
    return lake.predictions.read(version=version, columns=["ds", "event_id", "label", "value", "target"]).sort_by(KEYS)


@pytest.mark.parametrize("name", ["iat", "plain"])
def test_a_control_like_an_encoder_predicts_what_the_encoder_does(lake: Lake, name: str) -> None:
    """Same plans, same days, same store of earlier tokens: the comparison is fair, to the last bit."""
    twin = Control(f"twin-{name}", "compressor", lake.config.tokens.encoders[name])
    run_control(lake, twin, lake.catalog.plans(lake.resolve(name)))
    ours = predictions(lake, lake.resolve(name)).filter(pc.field("ds") > pa.scalar(day(2)))
    assert predictions(lake, twin.version(lake)).equals(ours)


def test_the_report_leaves_the_bootstrap_chunk_out(lake: Lake, report: TokenReport) -> None:
    events = lake.events.read(between=(day(3), day(7)))
    assert report.first == day(3)
    assert report.last == day(7)
    assert report.rows == {label: len(events) - events[label].null_count for label in ("clicked", "bought")}
    assert report.base_rate["clicked"] == pytest.approx(pc.mean(events["clicked"]).as_py())


def test_the_report_has_every_model_with_and_without_counts(report: TokenReport) -> None:
    models = {score.model for score in report.scores}
    assert models == {
        "base rate",
        "user-order (iat)",
        "user-order without counts",
        "temporal-order (plain)",
        "temporal-order without counts",
        "logistic",
        "logistic without counts",
    }


def test_the_base_rate_has_ne_one_and_models_beat_it(report: TokenReport) -> None:
    scores = {s.model: s for s in report.scores if s.label == "clicked"}
    assert scores["base rate"].ne is not None
    assert scores["base rate"].ne.value == pytest.approx(1.0)
    assert scores["base rate"].auc is not None
    assert scores["base rate"].auc.value == 0.5
    assert all(np.isfinite(s.log_loss or 0.0) for s in scores.values())


def test_controls_that_are_complete_are_known_as_such(lake: Lake, report: TokenReport) -> None:
    plans = lake.catalog.plans(lake.resolve())
    assert all(is_complete(lake, control, plans) for control in controls_of(lake))


def test_the_command_prints_what_is_there(lake: Lake, report: TokenReport) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(lake.root), "--no-controls"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "user-order (iat)" in result.output.replace("\n", " ") or "user-order" in result.output


def test_before_any_day_was_encoded_there_is_no_report(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = make_lake(tmp_path_factory.mktemp("empty"))
    with pytest.raises(NotFoundError, match="backfill"):
        token_report(empty)


def test_models_that_scored_different_rows_are_to_wait_for(tmp_path: Path) -> None:
    """It ends when the late events are encoded by all: a scheduler tries again."""
    predictions = pa.table({"event_id": [1, 2], "user_id": [1, 1], "label": ["clicked"] * 2, "value": [0.1, 0.9],
                            "target": pa.array([0, 1], pa.int8()), "timestamp": [1, 2], "ds": [dt.date(2024, 3, 1)] * 2})  # fmt: skip
    tables = {"one": predictions, "other": predictions.slice(1)}
    with pytest.raises(OrderError, match=r"other scored 1 rows of clicked, others 2: .*tokenlake backfill") as caught:
        report_on(make_lake(tmp_path), tables, {"one": "a", "other": "b"}, resamples=2)
    assert isinstance(caught.value, TransientError)


def test_a_log_without_labels_says_that_its_negatives_were_sampled(tmp_path_factory: pytest.TempPathFactory) -> None:
    lake = make_lake(tmp_path_factory.mktemp("plays"), UNLABELLED)
    lake.ingest(plays(days=5))
    lake.backfill()
    report = token_report(lake, resamples=10)
    assert report.sampled
    assert report.base_rate["observed"] == pytest.approx(0.2)
