"""The daily lineage of models: what each day is predicted with, that a re-run changes nothing, and what is kept."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

import tokenlake
from tests.fixtures.kills import ended
from tests.fixtures.lakes import UNLABELLED, day, make_events, make_lake, of_day, plays
from tests.fixtures.models import ALONE, NAMES, WITH_MODELS, assert_same, lineage, predicted
from tokenlake._lake import Lake
from tokenlake.catalog import CheckpointRecord
from tokenlake.cli import app
from tokenlake.errors import ConfigError, NotFoundError, OrderError, StorageError, VersionError
from tokenlake.features import retention, versions
from tokenlake.features.retention import kept, remove_outdated
from tokenlake.pipeline import corrections, ranking
from tokenlake.pipeline.models import MODEL_JOBS, predict, train_model
from tokenlake.pipeline.parallel import backfill_parallel
from tokenlake.times import DAY_US, as_micros, day_start
from tokenlake_models import metrics

DAYS = 11
BOOTSTRAP = 3  # days of the first chunk, `chunk_days` of the config


def made(folder: Path, days: int = DAYS, config: str = WITH_MODELS) -> Lake:
    lake = make_lake(folder, config)
    lake.ingest(make_events(days=days, per_day=30))
    lake.backfill()
    return lake


def version_of(lake: Lake, name: str) -> str:
    return lake.config.model_version(name)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Every day by one back-fill; tests that change it take a copy."""
    return made(tmp_path_factory.mktemp("full"))


@pytest.fixture
def copy(full: Lake, tmp_path: Path) -> Lake:
    return tokenlake.open(shutil.copytree(full.root, tmp_path / "copy"))


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(ranking, "train_ranker_checkpoint", refuse)


# What a day is predicted with.


@pytest.mark.parametrize(("name", "learn_days"), [("net", 1), ("weekly", 7)])
def test_each_day_is_predicted_by_what_the_days_before_it_taught(full: Lake, name: str, learn_days: int) -> None:
    """Day by day, by hand: which days the checkpoint has seen, and how many labels it was told in all."""
    version = version_of(full, name)
    records = {record.checkpoint: record for record in full.catalog.checkpoints(version)}
    seen = BOOTSTRAP - 1  # the last day seen
    for i in range(DAYS):
        if i >= BOOTSTRAP and i - 1 - seen >= learn_days:
            seen = i - 1
        plan = full.catalog.plan(version, day(i))
        assert plan is not None
        assert plan.checkpoint == day(seen).isoformat()
        assert plan.bootstrap == (i < BOOTSTRAP)
        assert trained_days(records, plan.checkpoint) == [day(k) for k in range(seen + 1)]
    assert len(records) == {1: DAYS - BOOTSTRAP, 7: 2}[learn_days]


def trained_days(records: dict[str, CheckpointRecord], checkpoint: str | None) -> list[dt.date]:
    days: list[dt.date] = []
    while checkpoint is not None:
        record = records[checkpoint]
        assert record.trained_from is not None
        assert record.trained_to is not None
        days += [
            record.trained_from + dt.timedelta(days=k)
            for k in range((record.trained_to - record.trained_from).days + 1)
        ]
        checkpoint = record.parent
    return sorted(days)


@pytest.mark.parametrize(("name", "labels"), [("net", ("clicked", "bought")), ("weekly", ("clicked",))])
def test_labels_are_learned_once_by_the_day_they_are_known(full: Lake, name: str, labels: tuple[str, ...]) -> None:
    """Up to a checkpoint, as many as were known before the first day that it may predict; late ones too."""
    version, events = version_of(full, name), full.events.read()
    told = 0
    for record in full.catalog.checkpoints(version):
        (trained,) = (r for r in results(full, version) if r["checkpoint"] == record.checkpoint)
        told += int(trained["targets"])
        assert record.trained_to is not None
        end = pa.scalar(day_start(record.trained_to + dt.timedelta(days=1)), pa.timestamp("us", "UTC"))
        known = [pc.less(events[f"{label}_known_at"], end).fill_null(False) for label in labels]
        assert told == sum(pc.sum(each).as_py() for each in known)
    late = pc.greater(pc.days_between(events["timestamp"], events["bought_known_at"]), 0)
    assert pc.sum(late).as_py() > 50


def results(lake: Lake, version: str) -> Iterator[dict[str, Any]]:
    """Summaries of the trainings, as the catalog has them."""
    for run in lake.catalog.runs(job="train-model", version=version, status="done"):
        metric = {m.name: m.value for m in lake.catalog.metrics(day=run.day, job="train-model", version=version)}
        if "targets" in metric:
            assert run.day is not None
            plan = lake.catalog.plan(version, run.day)
            assert plan is not None
            yield metric | {"checkpoint": plan.checkpoint}


def test_days_one_by_one_are_the_backfill(tmp_path: Path) -> None:
    """Where the first chunk is one day."""
    config = WITH_MODELS.replace("chunk_days: 3", "chunk_days: 1").replace("learn_days: 7", "learn_days: 1")
    config = config.replace("learn_days: 1, labels", "learn_days: 7, labels")
    events = make_events(days=3, per_day=20)
    at_once, daily = make_lake(tmp_path / "once", config), make_lake(tmp_path / "daily", config)
    for lake in (at_once, daily):
        lake.ingest(events)
    at_once.backfill()
    for i in range(3):
        daily.run(day(i))
    chunked, single = lineage(at_once), lineage(daily)
    for found in (chunked, single):
        for name in NAMES:
            for i, plan in enumerate(plans := found[f"plans of {name}"]):
                plans[i] = (plan.day, plan.checkpoint, plan.parent, plan.train_from, plan.train_to, plan.bootstrap)
    assert_same(single, chunked)


@pytest.mark.slow
def test_processes_side_by_side_do_what_one_does(tmp_path: Path) -> None:
    """Rankers begin when the tokens are there, ensembles when the rankers are done."""
    events = make_events(days=4, per_day=20)
    one, several = make_lake(tmp_path / "one", WITH_MODELS), make_lake(tmp_path / "several", WITH_MODELS)
    for lake in (one, several):
        lake.ingest(events)
    one.backfill()
    assert backfill_parallel(several).results
    assert_same(lineage(several), lineage(one))


def test_a_log_without_labels_is_predicted_with_sampled_negatives(tmp_path: Path) -> None:
    config = UNLABELLED + "models: {a: {width: 8, embedding: 4, layers: 1, batch: 32, calibration: platt}}\n"
    lake = make_lake(tmp_path, config)
    lake.ingest(plays(days=6))
    lake.backfill()
    version = version_of(lake, "a")
    rows = predicted(lake, version, day=day(5))
    assert set(rows["model"].to_pylist()) == {"a", "a uncalibrated"}
    assert set(rows["label"].to_pylist()) == {"observed"}
    assert set(rows["target"].to_pylist()) == {0, 1}
    fit = corrections.recorded_fit(lake, version, day(5))
    assert fit is not None
    assert fit.rows == sum(lake.predictions.count(day=day(i), version=version) for i in (3, 4)) / 2


# Again.


def test_a_day_again_trains_nothing_and_writes_the_same(copy: Lake, no_training: None) -> None:
    before = lineage(copy)
    for name in NAMES:
        for job in MODEL_JOBS:
            for i in (1, 7, DAYS - 1):
                assert job(copy, day(i), version_of(copy, name)).status == "done"
    assert_same(lineage(copy), before)
    assert copy.backfill().results == []


def test_a_fit_stands_whatever_happens_to_the_days_before(copy: Lake) -> None:
    """A day that is run again after late events may have other rows; what was fitted on the old ones stays."""
    version = version_of(copy, "both")
    before = predicted(copy, version, day=day(8))
    for name in NAMES:
        of = version_of(copy, name)
        copy.predictions.replace_day(day(7), copy.predictions.read(day=day(7), version=of).slice(20), version=of)
    predict(copy, day(8), version)
    assert predicted(copy, version, day=day(8)).equals(before)


def test_late_events_are_predicted_by_the_same_checkpoint(copy: Lake, no_training: None) -> None:
    before = {name: copy.predictions.count(day=day(6), version=version_of(copy, name)) for name in NAMES}
    late = of_day(make_events(days=8, seed=5), 6).slice(0, 6)
    copy.ingest(late)
    plans = {name: copy.catalog.plan(version_of(copy, name), day(6)) for name in NAMES}
    copy.backfill()
    assert not copy.catalog.restatements()
    for name in NAMES:
        assert copy.catalog.plan(version_of(copy, name), day(6)) == plans[name]
        assert copy.predictions.count(day=day(6), version=version_of(copy, name)) > before[name]


def test_a_day_that_only_a_model_has_is_marked_for_late_events(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, WITH_MODELS)
    lake.ingest(make_events(days=1))
    lake.backfill(version="weekly")
    lake.ingest(of_day(make_events(days=1, seed=3), 0).slice(0, 3))
    assert [mark.version for mark in lake.catalog.restatements()] == [version_of(lake, "weekly")]


# Order.


def test_a_model_waits_for_the_tokens_that_it_reads(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, WITH_MODELS)
    lake.ingest(make_events(days=3, per_day=20))
    lake.backfill(day(0), day(1))
    net, weekly, both = (version_of(lake, name) for name in NAMES)
    with pytest.raises(OrderError, match=f"{day(2)} must wait: {lake.resolve('iat')} is not published for it yet"):
        train_model(lake, day(2), net)
    with pytest.raises(OrderError, match="is not published for it yet"):
        predict(lake, day(2), net)
    lake.backfill(version="weekly")  # reads no tokens
    with pytest.raises(OrderError, match=f"{day(2)} must wait: {net} is not predicted for it yet"):
        train_model(lake, day(2), both)
    with pytest.raises(OrderError):
        lake.backfill(version="both")
    assert [lake.catalog.plan(version, day(2)) is None for version in (net, weekly, both)] == [True, False, True]
    lake.run(day(2))
    assert all(day(2) in versions.finished(lake, version) for version in (net, weekly, both))


def test_days_are_predicted_in_their_order(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, WITH_MODELS)
    lake.ingest(make_events(days=3, per_day=20))
    for job in MODEL_JOBS:
        with pytest.raises(OrderError, match="2 earlier days"):
            job(lake, day(2), version_of(lake, "weekly"))
    assert [job(lake, day(20), version_of(lake, "weekly")).status for job in MODEL_JOBS] == ["skipped"] * 2


# What is kept.


def test_the_newest_and_one_a_month_are_kept() -> None:
    records = [record(dt.date(2024, 1, 25) + dt.timedelta(days=i)) for i in range(50)]
    january, february = dt.date(2024, 1, 31), dt.date(2024, 2, 29)
    newest = [r.checkpoint for r in records[-8:]]
    assert kept(records) == {january.isoformat(), february.isoformat(), *newest}
    assert kept([]) == set()


def record(trained_to: dt.date) -> CheckpointRecord:
    return CheckpointRecord("v", trained_to.isoformat(), None, trained_to, trained_to, "", 1)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "NEWEST", 2)


def test_older_checkpoints_are_deleted_after_a_training(two: None, tmp_path: Path) -> None:
    lake = make_lake(tmp_path, ALONE)
    events = make_events(days=9, per_day=20)
    lake.ingest(pa.concat_tables([of_day(events, i) for i in range(9) if i != 4]))
    lake.backfill(version="net")
    version = version_of(lake, "net")
    assert [r.checkpoint for r in lake.catalog.checkpoints(version)] == [day(i).isoformat() for i in (2, 4, 5, 6, 7)]
    assert lineage(lake)["kept of net"] == [day(i).isoformat() for i in (6, 7)]
    # A day again whose checkpoint is gone: nothing happens, and nothing waits.
    before = predicted(lake, version)
    (reason,) = {job(lake, day(3), version).summary["reason"] for job in MODEL_JOBS}
    assert str(reason).startswith(f"checkpoint {day(2)} of {version}, by which {day(3)} was predicted, is not kept")
    lake.ingest(of_day(make_events(days=8, seed=5), 3).slice(0, 6))
    lake.backfill(version="net")
    assert not lake.catalog.restatements(version)
    assert predicted(lake, version).equals(before)
    # A day that came late takes one that is kept, and says so if that has seen later days.
    lake.ingest(of_day(events, 4))
    lake.backfill(version="net")
    plan = lake.catalog.plan(version, day(4))
    assert plan is not None
    assert (plan.checkpoint, plan.bootstrap) == (day(6).isoformat(), True)
    assert lake.predictions.count(day=day(4), version=version) > 0
    # And where the predictions are gone as well, somebody must act.
    lake.predictions.replace_day(day(3), before.slice(0, 0), version=version)
    with pytest.raises(NotFoundError, match="neither are the predictions; take the model out of"):
        predict(lake, day(3), version)


def test_a_removal_that_was_cut_short_is_ended(two: None, copy: Lake) -> None:
    version = version_of(copy, "net")
    folder = versions.path_of(copy, version, "")
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[0]).rename(folder / f".{names[0]}-{'0' * 32}")
    remove_outdated(copy, version)
    assert sorted(path.name for path in folder.iterdir()) == names[-2:]
    assert len(copy.catalog.checkpoints(version)) == len(names)


# Faults.


def test_a_checkpoint_that_the_catalog_does_not_know_is_trained_again(
    tmp_path: Path, full: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make_lake(tmp_path, WITH_MODELS)
    lake.ingest(make_events(days=DAYS, per_day=30))

    def refuse(*_: object) -> None:
        raise StorageError("the database is gone")

    with monkeypatch.context() as patch:
        patch.setattr("tokenlake.catalog.Catalog.add_checkpoint", refuse)
        with pytest.raises(StorageError):
            lake.backfill(version="weekly")
    lake.backfill(version="weekly")
    ours, theirs = lineage(lake), lineage(full)
    for what in ("predictions", "trained", "kept"):
        assert_same({what: ours[f"{what} of weekly"]}, {what: theirs[f"{what} of weekly"]})


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "tokens", WITH_MODELS)
    lake.ingest(make_events(days=5, per_day=20))
    lake.backfill(version="iat")
    calm = tokenlake.open(shutil.copytree(lake.root, tmp_path / "calm"))
    [(code, total)] = ended(calm.root, [], "cli", "train", str(calm.root))
    assert code == 0
    points = [total // 12 * k for k in (1, 2, 3, 2, 1, 3, 2)]
    *killed, (code, _) = ended(lake.root, points, "cli", "train", str(lake.root))
    assert code == 0
    assert sum(code == -9 for code, _ in killed) >= 4
    assert_same(lineage(lake), lineage(calm))


# Ensembles and calibration.


def logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))


def by_event(table: pa.Table) -> dict[int, float]:
    return dict(zip(table["event_id"].to_pylist(), table["value"].to_pylist(), strict=True))


def of_model(lake: Lake, name: str, called: str, i: int) -> dict[int, float]:
    wanted = (pc.field("model") == called) & (pc.field("label") == "clicked")
    return by_event(lake.predictions.read(version=version_of(lake, name), day=day(i), filter=wanted))


def test_an_ensemble_is_the_weighted_mean_of_logits(full: Lake) -> None:
    for i in (3, 7, DAYS - 1):
        fit = corrections.recorded_fit(full, version_of(full, "both"), day(i))
        assert fit is not None
        weights = np.array(fit.weights["clicked"])
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
        members = [of_model(full, name, name, i) for name in ("net", "weekly")]
        values = of_model(full, "both", "both uncalibrated", i)
        assert values.keys() == members[0].keys() == members[1].keys()
        for event, value in values.items():
            mean = sum(w * float(logit(np.array(m[event]))) for w, m in zip(weights, members, strict=True))
            assert value == pytest.approx(1 / (1 + np.exp(-mean)), abs=1e-9)
    first = corrections.recorded_fit(full, version_of(full, "both"), day(0))
    assert first is not None
    assert first.weights == {"clicked": (0.5, 0.5)}  # there is nothing before it


def test_weights_are_fitted_on_what_was_known_before_the_day(full: Lake) -> None:
    """No others of the same sum have a smaller log loss on the days before; bootstrap days are left out."""
    i = DAYS - 1
    fit = corrections.recorded_fit(full, version_of(full, "both"), day(i))
    assert fit is not None
    targets, columns = [], []
    for k in range(BOOTSTRAP, i):
        rows = full.predictions.read(version=version_of(full, "net"), day=day(k), filter=pc.field("label") == "clicked")
        of = dict(zip(rows["event_id"].to_pylist(), rows["target"].to_pylist(), strict=True))
        members = [of_model(full, name, name, k) for name in ("net", "weekly")]
        targets += list(of.values())
        columns += [[member[event] for member in members] for event in of]
    logits = logit(np.array(columns))
    losses = {
        w: metrics.log_loss(np.array(targets), 1 / (1 + np.exp(-logits @ [w, 1 - w]))) for w in np.linspace(0, 1, 101)
    }
    best = min(losses, key=lambda w: losses[w] or 0)
    assert fit.weights["clicked"][0] == pytest.approx(best, abs=0.011)


@pytest.mark.parametrize(("name", "shape"), [("weekly", "slope"), ("both", "scores")])
def test_calibration_corrects_by_the_days_before(full: Lake, name: str, shape: str) -> None:
    fit = corrections.recorded_fit(full, version_of(full, name), day(DAYS - 1))
    assert fit is not None
    assert hasattr(fit.calibration["clicked"], shape)
    raw, corrected = (of_model(full, name, called, DAYS - 1) for called in (f"{name} uncalibrated", name))
    events = list(raw)
    expected = fit.calibration["clicked"].apply(np.array([raw[event] for event in events]))
    np.testing.assert_array_equal([corrected[event] for event in events], expected)
    earlier = [of_model(full, name, f"{name} uncalibrated", k) for k in range(BOOTSTRAP, DAYS - 1)]
    known = corrections.known_predictions(
        full, version_of(full, name), f"{name} uncalibrated", "clicked", day(DAYS - 1)
    )
    assert by_event(known) == {event: value for of in earlier for event, value in of.items()}


def test_a_fit_sees_no_label_that_becomes_known_later(full: Lake) -> None:
    """`bought` is known within a day if so, and if not after two: of rows younger than that there is none."""
    version, events = version_of(full, "net"), full.events.read()
    today = day(7)
    known = corrections.known_predictions(full, version, "net", "bought", today)
    two_days_before = day_start(today) - 2 * DAY_US
    young = as_micros(events["timestamp"], "timestamp") >= two_days_before
    expected = {
        event
        for event, ds, is_young in zip(events["event_id"].to_pylist(), events["ds"].to_pylist(), young, strict=True)
        if day(BOOTSTRAP) <= ds < today and not is_young
    }
    assert set(known["event_id"].to_pylist()) == expected
    assert set(known["target"].to_pylist()) == {0, 1}


def test_where_negatives_are_never_known_nothing_is_fitted(tmp_path: Path) -> None:
    """All that is known are positives."""
    config = WITH_MODELS.replace(", window: 2d", "").replace("labels: [clicked], learn_days: 7", "labels: [bought]")
    lake = make_lake(tmp_path, config[: config.index("  both:")])
    lake.ingest(make_events(days=5, per_day=20))
    lake.backfill(version="weekly")
    version = version_of(lake, "weekly")
    fit = corrections.recorded_fit(lake, version, day(4))
    assert fit is not None
    assert fit.rows == 0
    raw, corrected = (
        lake.predictions.read(version=version, day=day(4), filter=pc.field("model") == name).sort_by("event_id")
        for name in ("weekly uncalibrated", "weekly")
    )
    np.testing.assert_allclose(corrected["value"].to_numpy(), raw["value"].to_numpy(), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_scores_now_are_mixed_and_calibrated_as_predictions_are(full: Lake, name: str) -> None:
    """Also of a day that has no fit yet: by the newest."""
    events = full.events.read(day=day(DAYS - 1))
    features = events.select(["genre", "tags", "price", "picture"])
    users, items, at = (events[column].combine_chunks() for column in ("user_id", "item_id", "timestamp"))
    found = full.rank(name, users, items, at=at, context=features)
    expected = of_model(full, name, name, DAYS - 1)
    scored = dict(zip(events["event_id"].to_pylist(), found.of("clicked").tolist(), strict=True))
    np.testing.assert_allclose([scored[event] for event in expected], list(expected.values()), atol=2e-6)
    tomorrow = full.rank(name, 1, [1, 2, 3], at=day_start(day(DAYS)))
    assert ((tomorrow.values > 0) & (tomorrow.values < 1)).all()
    with pytest.raises(NotFoundError):
        full.rank(name, 1, [1], at=day_start(day(-1)))


# What people see.


def test_a_day_is_measured(full: Lake) -> None:
    version, of = version_of(full, "weekly"), day(DAYS - 1)
    found = {
        (m.name, m.labels["model"]): m.value
        for m in full.catalog.metrics(job="predict", day=of, version=version)
        if m.labels
    }
    for called in ("weekly", "weekly uncalibrated"):
        rows = full.predictions.read(version=version, day=of, filter=pc.field("model") == called)
        y, p = rows["target"].to_numpy(), rows["value"].to_numpy()
        for name in ("auc", "ne", "log_loss", "calibration"):
            assert found[name, called] == pytest.approx(getattr(metrics, name)(y, p))
    curve = full.catalog.metrics("learning_curve", day=day(0), version=version)
    rows_done = [int(m.labels["rows"]) for m in curve]
    assert rows_done == sorted(set(rows_done))
    assert len(rows_done) >= 2
    weights = full.catalog.metrics("weight", day=of, version=version_of(full, "both"))
    assert {(m.labels["label"], m.labels["member"]) for m in weights} == {("clicked", "net"), ("clicked", "weekly")}


def call(lake: Lake, command: str, *words: object) -> Any:
    return CliRunner().invoke(app, [command, str(lake.root), *map(str, words)])


def test_train_makes_what_is_missing(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, WITH_MODELS)
    lake.ingest(make_events(days=3, per_day=20))
    assert "is not published for it yet" in str(call(lake, "train", "net").exception)
    said = call(lake, "train", "weekly", "--days", f"..{day(1)}")
    version = version_of(lake, "weekly")
    assert f"{version}: 2 days predicted, 1 trainings on" in said.output
    (told,) = json.loads(call(lake, "train", "weekly", "--json").output)
    assert [r["day"] for r in told["results"]] == [str(day(2))] * 2
    assert [pair["day"] for pair in told["skipped"]] == [str(day(0)), str(day(1))]
    lake.backfill(version="iat")
    told = json.loads(call(lake, "train", "--json").output)
    assert [of["version"] for of in told] == [version_of(lake, name) for name in NAMES]
    assert [len(of["results"]) for of in told] == [6, 0, 6]
    for days in ("2024-03-01", "2024-03-02..2024-03-01"):
        assert call(lake, "train", "--days", days).exit_code == 2
    assert isinstance(call(lake, "train", "nosuch").exception, ConfigError)


def test_versions_and_status_show_models(full: Lake) -> None:
    rows = {row["version"]: row for row in json.loads(call(full, "versions", "--json").output)}
    status = json.loads(call(full, "status", "--json").output)
    for name in NAMES:
        row = rows[version_of(full, name)]
        assert (row["kind"], row["encoder"], row["published"], row["missing"]) == ("model", name, DAYS, [])
    assert rows[full.resolve("iat")]["kind"] == "encoder"
    tables = {(row["table"], row["version"]) for row in status["tables"]}
    assert ("predictions", version_of(full, "net")) in tables
    assert ("instance_tokens", version_of(full, "net")) not in tables
    for command in ("versions", "status"):
        assert f"{version_of(full, 'both')}" in call(full, command).output


def test_a_model_serves_no_tokens(full: Lake) -> None:
    version = version_of(full, "net")
    for ask in (full.promote, full.tokens, full.resolve):
        with pytest.raises(NotFoundError):
            ask(version)


def test_a_version_that_is_not_made_any_more_is_dropped(copy: Lake) -> None:
    version = version_of(copy, "weekly")
    with pytest.raises(VersionError, match="is what model 'weekly' of"):
        copy.drop(version)
    file = copy.root / "tokenlake.yaml"
    file.write_text(file.read_text().replace("weekly: {width: 8", "weekly: {width: 16"))
    lake = tokenlake.open(copy.root)
    assert isinstance(versions.model_of(lake, version), type(lake.config.rankers["net"]))
    assert len(versions.finished(lake, version)) == DAYS
    lake.drop(version)
    catalog = lake.catalog
    assert not [*catalog.plans(version), *catalog.checkpoints(version), *catalog.indexes(version)]
    assert lake.predictions.count(version=version) == 0
    assert not versions.path_of(lake, version, "").exists()
    assert versions.is_model(lake, version_of(lake, "weekly"))
