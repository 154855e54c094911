"""What declared counts are worth: LightGBM follows the encoders' days, sees no later label, and is told apart."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from tests.fixtures.lakes import CONFIG, FIRST, UNLABELLED, day, make_events, make_lake, plays
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import ConfigError, NotFoundError
from tokenlake.evaluation import boosting, peers
from tokenlake.evaluation.controls import controls_of, run_control
from tokenlake.evaluation.counts import CountsReport, counts_report
from tokenlake.evaluation.peers import peers_of, run_peer, searches_of
from tokenlake.evaluation.tokens import token_report
from tokenlake_models.metrics import log_loss

COUNTS = """
counts:
  item: {by: item}
  user_genre: {by: [user, genre], of: {label: clicked}, as: [mean, known]}
  user_tags: {by: [user, tags], of: {label: bought}, as: [mean]}
"""
KEYS = [("ds", "ascending"), ("event_id", "ascending"), ("label", "ascending")]
DECLARED = CONFIG.replace("{scheme:", "{counts: all, scheme:") + COUNTS


def made(folder: Path, events: pa.Table, config: str = DECLARED) -> Lake:
    lake = make_lake(folder, config)
    lake.ingest(events)
    lake.backfill()
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return made(tmp_path_factory.mktemp("declared"), make_events(per_day=150))


@pytest.fixture(scope="module")
def report(lake: Lake) -> CountsReport:
    return counts_report(lake, resamples=20)


#: Small logs: leaves of a few rows, and a configuration that learns nothing.
SMALL = {"num_leaves": 7, "learning_rate": 0.1, "rounds": 20, "min_data_in_leaf": 5}
IDLE = {"num_leaves": 2, "learning_rate": 1e-9, "rounds": 1, "min_data_in_leaf": 5}


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """A search of two configurations, and trainings every two days."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "CONFIGURATIONS", (IDLE, SMALL))
        patch.setattr(peers, "RETRAINED_AFTER", 2)
        yield


def of_peer(lake: Lake, version: str) -> pa.Table:
    columns = ["ds", "event_id", "label", "value", "target"]
    return lake.predictions.read(version=version, columns=columns).sort_by(KEYS)


def test_encoders_and_lightgbm_with_and_without_stand_on_the_same_rows(lake: Lake, report: CountsReport) -> None:
    models = {score.model for score in report.scores.scores}
    assert models == {
        "base rate",
        "user-order (iat) with declared counts",
        "temporal-order (plain) with declared counts",
        "user-order with built-in counts",
        "temporal-order with built-in counts",
        "LightGBM with built-in counts",
        "LightGBM with declared counts",
    }
    events = lake.events.read(between=(day(3), day(7)))
    assert report.scores.rows["clicked"] == len(events) - events["clicked"].null_count
    for score in report.scores.scores:
        if score.model != "base rate":
            assert score.auc is not None
            assert score.ne is not None


def test_a_difference_is_that_of_the_scores(report: CountsReport) -> None:
    scores = {(s.model, s.label): s for s in report.scores.scores}
    assert len(report.differences) == 2 * 5
    for d in report.differences:
        one, other = scores[d.model, d.label], scores[d.against, d.label]
        assert d.ne is not None
        assert one.ne is not None
        assert other.ne is not None
        assert d.ne.value == pytest.approx(one.ne.value - other.ne.value)
        assert d.ne.low <= d.ne.value <= d.ne.high


def test_a_second_report_trains_nothing(lake: Lake, report: CountsReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosting.lightgbm, "train", None)
    assert counts_report(lake, resamples=20) == report


@pytest.mark.slow
def test_deleting_the_future_changes_no_prediction_of_lightgbm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of days up to a period's start: neither later events nor labels that become known later are in its model."""
    monkeypatch.setattr(peers, "_searched", lambda *_: [SMALL, SMALL])
    events = make_events(per_day=150)
    whole = made(tmp_path / "whole", events)
    end = pa.scalar(dt.datetime.combine(day(6), dt.time(), dt.UTC), pa.timestamp("us", "UTC"))
    past = events.filter(pc.less(events["timestamp"], end))
    later = pc.fill_null(pc.greater_equal(past["bought_at"], end), False)
    past = past.set_column(
        past.column_names.index("bought"), "bought", pc.if_else(later, pa.scalar(0, pa.int8()), past["bought"])
    )
    past = past.set_column(
        past.column_names.index("bought_at"),
        "bought_at",
        pc.if_else(later, pa.scalar(None, pa.timestamp("us", "UTC")), past["bought_at"]),
    )
    cut = made(tmp_path / "cut", past)
    for lake in (whole, cut):
        for peer in peers_of(lake.config.tokens.encoders["iat"]):
            run_peer(lake, peer, lake.catalog.plans(lake.resolve()))
    for peer in peers_of(whole.config.tokens.encoders["iat"]):
        ours = of_peer(whole, peer.version(whole)).filter(pc.field("ds") < pa.scalar(day(5)))
        theirs = of_peer(cut, peer.version(cut)).filter(pc.field("ds") < pa.scalar(day(5)))
        assert len(set(ours["value"].to_pylist())) > 10
        assert ours["value"].equals(theirs["value"])


def test_each_period_is_scored_by_a_model_of_the_labels_known_before_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    train = boosting.lightgbm.train
    monkeypatch.setattr(
        boosting.lightgbm, "train", lambda s, data, r: seen.append(len(data.get_label())) or train(s, data, r)
    )
    monkeypatch.setattr(peers, "_searched", lambda *_: [SMALL, SMALL])
    run_peer(lake, peers_of(lake.config.tokens.encoders["iat"])[1], lake.catalog.plans(lake.resolve()))
    expected = []
    events = lake.events.read(between=(FIRST, day(7)))
    for start in (3, 5, 7):
        begin = pa.scalar(dt.datetime.combine(day(start), dt.time(), dt.UTC), pa.timestamp("us", "UTC"))
        for label in ("clicked", "bought"):
            known = pc.and_(pc.is_valid(events[label]), pc.less(events[f"{label}_known_at"], begin))
            expected.append(pc.sum(known).as_py())
    assert seen == expected


def test_the_configuration_is_the_best_of_the_first_weeks(lake: Lake, report: CountsReport) -> None:
    """Of each label, by the losses that the catalog has; the losses are those of its predictions on those days."""
    assert {(s.peer, s.label) for s in report.searched} == {
        (f"LightGBM with {counts} counts", label)
        for counts in ("built-in", "declared")
        for label in ("clicked", "bought")
    }
    peer = peers_of(lake.config.tokens.encoders["iat"])[1]
    for search in report.searched:
        assert (search.first, search.last) == (day(3), day(7))
        assert len(search.log_loss) == 2
    search = next(s for s in report.searched if (s.peer, s.label) == (peer.name, "clicked"))
    assert search.log_loss[search.chosen] == min(search.log_loss.values())
    rows = of_peer(lake, peer.version(lake)).filter(pc.field("label") == "clicked")
    assert search.log_loss[search.chosen] == pytest.approx(
        log_loss(rows["target"].to_numpy(), rows["value"].to_numpy()), rel=1e-4
    )


def test_the_search_looks_at_the_first_days_only(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SEARCHED_DAYS", 3)
    peer = peers_of(lake.config.tokens.encoders["iat"])[0]
    run_peer(lake, peer, lake.catalog.plans(lake.resolve()))
    (one, other) = searches_of(lake, peer)
    assert (one.first, one.last) == (other.first, other.last) == (day(3), day(6))


def test_at_least_twenty_configurations_are_searched() -> None:
    assert len({json.dumps(settings) for settings in boosting.CONFIGURATIONS}) >= 20


def test_categories_of_many_values_are_left_out(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, plans = lake.config.tokens.encoders["iat"], lake.catalog.plans(lake.resolve())
    few = boosting.BoostingRows.of(lake, encoder, plans)
    monkeypatch.setattr(boosting, "CATEGORIES", 3)
    none = boosting.BoostingRows.of(lake, encoder, plans)
    assert (few.categories, none.categories) == (1, 0)
    assert np.array_equal(few.inputs[:, 1:], none.inputs, equal_nan=True)
    assert none.inputs.shape[1] == 1 + 4  # the price; a count, two of user_genre, one of user_tags


@pytest.mark.slow
def test_a_log_without_labels_is_scored_with_its_negatives(tmp_path: Path) -> None:
    config = UNLABELLED.replace("{scheme:", "{counts: all, scheme:") + "counts:\n  pair: {by: [user, genre]}\n"
    report = counts_report(made(tmp_path / "plays", plays(), config), resamples=5)
    assert {d.label for d in report.differences} == {"observed"}
    assert report.scores.sampled


def test_the_other_controls_take_declared_counts_away(lake: Lake) -> None:
    for control in controls_of(lake):
        run_control(lake, control, lake.catalog.plans(lake.resolve()))
    assert {score.model for score in token_report(lake, resamples=5).scores} == {
        "base rate",
        "user-order (iat) with declared counts",
        "user-order without counts",
        "temporal-order (plain) with declared counts",
        "temporal-order without counts",
        "logistic with declared counts",
        "logistic without counts",
    }


def test_versions_follow_the_definitions(lake: Lake, tmp_path: Path) -> None:
    """Other counts are other models; where none is declared, versions are what they were."""
    other = make_lake(tmp_path / "other", DECLARED.replace("as: [mean, known]", "as: [mean]"))
    for one, two in zip(controls_of(lake), controls_of(other), strict=True):
        assert (one.version(lake) == two.version(other)) == (one.encoder.counts is False)
    (_, mine), (_, theirs) = peers_of(lake.config.tokens.encoders["iat"]), peers_of(other.config.tokens.encoders["iat"])
    assert mine.version(lake) != theirs.version(other)


def test_refusals(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads declared counts; give one `counts: all`"):
        counts_report(make_lake(tmp_path / "built-in"))
    with pytest.raises(NotFoundError, match="tokenlake backfill"):
        counts_report(make_lake(tmp_path / "empty", DECLARED))


def test_the_command_prints_scores_and_differences(lake: Lake, report: CountsReport) -> None:
    asked = ["evaluate", str(lake.root), "--part", "counts"]
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout)["counts"]
    assert {row["model"] for row in told["rows"]} == {score.model for score in report.scores.scores}
    assert [(d["model"], d["against"]) for d in told["differences"]] == [
        (d.model, d.against) for d in report.differences
    ]
    printed = CliRunner().invoke(app, asked, catch_exceptions=False).stdout
    assert "differences on the same rows" in printed
    assert "LightGBM with declared counts" in printed
    assert "what was searched, on 2024-03-04 to 2024-03-08" in printed
    assert [(s["model"], len(s["configurations"])) for s in told["searched"]] == [(s.peer, 2) for s in report.searched]
