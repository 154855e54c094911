"""What models are worth: they stand beside LightGBM and the encoders' own models on the same rows, seeds as a mean."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

import tokenlake
from tests.fixtures.lakes import make_events, make_lake
from tests.fixtures.models import ENCODER
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import ConfigError, NotFoundError, OrderError
from tokenlake.evaluation import boosting, peers
from tokenlake.evaluation.model_controls import (
    controls_of_models,
    missing_model_controls,
    parts_of_model_controls,
)
from tokenlake.evaluation.models import ModelsReport, models_report
from tokenlake.evaluation.peers import peers_of_rankers
from tokenlake.evaluation.tokens import KEYS, token_report
from tokenlake.pipeline.parallel import each_in_its_process
from tokenlake_models.metrics import auc, ne

_TINY = "width: 8, embedding: 4, layers: 1, batch: 32"
CONFIG = f"""{ENCODER}
counts:
  item: {{by: item, of: {{label: clicked}}, as: [mean, known]}}
models:
  one: {{{_TINY}, counts: true, learn_days: 1}}
  two: {{{_TINY}, counts: true, learn_days: 1, seed: 1}}
  clicks: {{{_TINY}, labels: [clicked], calibration: platt}}
  both: {{ensemble: [one, clicks]}}
"""
MEAN = "mean of one, two"
PEERS = {"LightGBM on counts of one", "LightGBM on counts of clicks"}


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """A search of two configurations."""
    small = {"num_leaves": 7, "learning_rate": 0.1, "rounds": 20, "min_data_in_leaf": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "CONFIGURATIONS", (small, small | {"rounds": 5}))
        yield


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("models"), CONFIG)
    lake.ingest(make_events(per_day=80))
    lake.backfill()
    return lake


@pytest.fixture(scope="module")
def report(lake: Lake) -> ModelsReport:
    return models_report(lake, against="two", resamples=20)


def test_every_model_its_peers_and_the_encoder_stand_on_the_same_rows(lake: Lake, report: ModelsReport) -> None:
    models = {label: {s.model for s in report.scores.scores if s.label == label} for label in ("clicked", "bought")}
    of_both = {"base rate", "one", "two", MEAN, "user-order (iat)", *PEERS}
    assert models == {"bought": of_both, "clicked": {*of_both, "clicks", "clicks uncalibrated", "both"}}
    events = lake.events.read(between=(report.scores.first, report.scores.last))
    for label, rows in report.scores.rows.items():
        assert rows == len(events) - events[label].null_count


def test_the_bootstrap_chunk_is_left_out(lake: Lake, report: ModelsReport) -> None:
    for name in lake.config.models:
        plans = lake.catalog.plans(lake.config.model_version(name))
        assert report.scores.first > max(plan.day for plan in plans if plan.bootstrap)


def test_scores_are_those_of_the_predictions(lake: Lake, report: ModelsReport) -> None:
    for name in ("one", "clicks", "both"):
        rows = lake.predictions.read(version=lake.config.model_version(name))
        rows = rows.filter((pc.field("model") == name) & (pc.field("label") == "clicked")).sort_by(KEYS)
        rows = rows.filter(pc.field("ds") >= report.scores.first)
        (score,) = (s for s in report.scores.scores if (s.model, s.label) == (name, "clicked"))
        target, value = rows["target"].to_numpy(), rows["value"].to_numpy()
        assert score.auc is not None
        assert score.ne is not None
        assert score.calibration is not None
        assert score.auc.value == pytest.approx(auc(target, value))
        assert score.ne.value == pytest.approx(ne(target, value))
        assert score.calibration.value == pytest.approx(value.mean() / target.mean())


def test_seeds_are_shown_as_the_mean_of_their_metrics(report: ModelsReport) -> None:
    for label in ("clicked", "bought"):
        scores = {s.model: s for s in report.scores.scores if s.label == label}
        for metric in ("auc", "ne"):
            each = [getattr(scores[model], metric).value for model in ("one", "two")]
            assert getattr(scores[MEAN], metric).value == pytest.approx(sum(each) / 2)


def test_models_are_compared_with_the_best_peer_and_with_the_one_asked_for(report: ModelsReport) -> None:
    scores = {(s.model, s.label): s for s in report.scores.scores}
    for label in ("clicked", "bought"):
        best = min(PEERS, key=lambda peer: scores[peer, label].ne.value)
        pairs = {(d.model, d.against) for d in report.differences if d.label == label}
        models = {model for model, of in scores if of == label} - PEERS - {"base rate"}
        assert pairs == {(m, best) for m in models} | {(m, "two") for m in models - {"two"}}
    for d in report.differences:
        assert d.ne is not None
        assert d.ne.value == pytest.approx(scores[d.model, d.label].ne.value - scores[d.against, d.label].ne.value)


def test_rankers_that_read_the_same_counts_share_a_peer(lake: Lake) -> None:
    assert {peer.name for peer in peers_of_rankers(lake)} == PEERS
    assert len({peer.version(lake) for peer in peers_of_rankers(lake)}) == 2


def test_a_second_report_trains_nothing(lake: Lake, report: ModelsReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosting.lightgbm, "train", None)
    assert models_report(lake, against="two", resamples=20) == report


def test_refusals(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no models"):
        models_report(make_lake(tmp_path / "none", ENCODER))
    with pytest.raises(NotFoundError, match="tokenlake train"):
        models_report(make_lake(tmp_path / "empty", CONFIG))
    with pytest.raises(ConfigError, match=r"no model 'onne' with predictions; did you mean 'one'\?"):
        models_report(lake, against="onne")


def test_a_model_that_is_half_done_is_named(lake: Lake, report: ModelsReport, tmp_path: Path) -> None:
    shutil.copytree(lake.root, tmp_path / "half")
    half = tokenlake.open(tmp_path / "half")
    version = half.config.model_version("two")
    rows = half.predictions.read(day=report.scores.last, version=version)
    half.predictions.replace_day(report.scores.last, rows.slice(0, 0), version=version)
    with pytest.raises(OrderError, match=f"two has predicted 4 of 5 days, and not {report.scores.last}"):
        models_report(half)


def test_the_command(lake: Lake, report: ModelsReport) -> None:
    asked = ["evaluate", str(lake.root), "--part", "models", "--against", "two"]
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout)["models"]
    assert {(row["model"], row["label"]) for row in told["rows"]} == {(s.model, s.label) for s in report.scores.scores}
    assert {(d["model"], d["against"], d["label"]) for d in told["differences"]} == {
        (d.model, d.against, d.label) for d in report.differences
    }
    assert {len(search["configurations"]) for search in told["searched"]} == {2}
    printed = CliRunner().invoke(app, asked, catch_exceptions=False).stdout
    for words in ("calibration [95%]", MEAN, "differences on the same rows", "what was searched, on"):
        assert words in printed
    refused = CliRunner().invoke(app, ["evaluate", str(lake.root), "--against", "two"])
    assert refused.exit_code == 2


def test_a_ranker_with_sequences_gets_a_control_without_them(lake: Lake, tmp_path: Path) -> None:
    past = "{past: {of: events, features: [item_id], length: 4, width: 8}}"
    twins = f"  r: {{{_TINY}, sequences: {past}}}\n  r-1: {{{_TINY}, seed: 1, sequences: {past}}}\n"
    folder = tmp_path / "lake"
    shutil.copytree(lake.root, folder)
    (folder / "tokenlake.yaml").write_text(f"{ENCODER}\nmodels:\n{twins}")
    again = tokenlake.open(folder)
    for name in ("r", "r-1"):
        again.backfill(version=again.config.model_version(name))
    (control,) = missing_model_controls(again)
    assert control.name == "r without sequences"
    assert control.lake.config.rankers["r-without-sequences"].sequences == {}
    each_in_its_process(parts_of_model_controls([control]), None)
    assert missing_model_controls(again) == []
    report = token_report(again, resamples=5)
    assert {"r", "r-1", "r without sequences"} < {score.model for score in report.scores}
    named = again.config.model_copy(
        update={
            "models": {**again.config.models, "alone": again.config.rankers["r"].model_copy(update={"sequences": {}})}
        }
    )
    assert controls_of_models(Lake(again.file, named)) == []
