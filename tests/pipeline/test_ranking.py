"""A ranker of `models:`: trained on a plan's days, it predicts a day; `lake.rank` gives the same; and it sees no future."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.fixtures.lakes import CONFIG, UNLABELLED, day, make_events, make_lake, plays
from tokenlake._lake import Lake
from tokenlake.catalog import Plan
from tokenlake.errors import NotFoundError, SchemaError
from tokenlake.features import checkpoints
from tokenlake.features.versions import path_of
from tokenlake.pipeline.plan import ONE_DAY
from tokenlake.pipeline.ranking import predict_day, train_ranker_checkpoint
from tokenlake.times import as_micros, day_start

#: Every kind of sequence, and both interactions; by name.
RANKERS = """
models:
  alone: {width: 16, embedding: 4, batch: 64}
  mixer: {width: 32, embedding: 4, interaction: mixer, ids: false, features: [genre, price], batch: 64}
  daily: {width: 16, embedding: 4, available: daily, batch: 64, sequences: {s: {of: events, length: 5, width: 8}}}
  din: {width: 16, embedding: 4, batch: 64, sequences: {s: {of: events, only: {label: bought}, length: 5, width: 8}}}
  transformer: {width: 16, embedding: 4, batch: 64, sequences: {s: {of: tokens, length: 6, width: 8, model: transformer}}}
  longer: {width: 16, embedding: 4, batch: 64, sequences: {s: {of: tokens, encoder: plain, length: 6, width: 8, model: longer}}}
  hstu: {width: 16, embedding: 4, batch: 64, sequences: {s: {of: events, features: [item_id], length: 6, width: 8, model: hstu}}}
  bought: {width: 16, embedding: 4, batch: 64, labels: [bought]}
"""
NAMES = ("alone", "mixer", "daily", "din", "transformer", "longer", "hstu", "bought")
SCORED = 6


def trained(folder: Path, events: pa.Table, names: tuple[str, ...] = NAMES) -> Lake:
    """A lake with rankers that were trained on the days before the sixth."""
    lake = make_lake(folder, CONFIG + RANKERS)
    lake.ingest(events)
    encode_all(lake)
    for name in names:
        plan = plan_of(lake, name)
        train_ranker_checkpoint(lake, lake.config.rankers[name], plan)
        lake.catalog.record_plan(plan)
    return lake


def encode_all(lake: Lake) -> None:
    """The tokens of every day; models are trained by the tests themselves."""
    for encoder in lake.config.tokens.encoders:
        lake.backfill(version=encoder)


def plan_of(lake: Lake, name: str) -> Plan:
    last = day(SCORED) - ONE_DAY
    version = lake.config.model_version(name)
    return Plan(
        version,
        day(SCORED),
        last.isoformat(),
        None,
        day(0),
        last,
        day(SCORED),
        day(SCORED),
        bootstrap=False,
        watermark=lake.watermark(),
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return trained(tmp_path_factory.mktemp("rankers"), make_events(per_day=60))


def context_of(events: pa.Table) -> pa.Table:
    """What only the events themselves tell: all of their features."""
    return events.select(["genre", "tags", "price", "picture"])


@pytest.mark.parametrize("name", NAMES)
def test_rank_gives_what_the_daily_prediction_gives(lake: Lake, name: str) -> None:
    spec = lake.config.rankers[name]
    events, predicted = predict_day(lake, spec, plan_of(lake, name))
    assert events.num_rows > 20
    got = lake.rank(name, events["user_id"], events["item_id"], at=events["timestamp"], context=context_of(events))
    assert got.labels == (("bought",) if name == "bought" else ("clicked", "bought"))
    np.testing.assert_allclose(got.values, predicted, atol=2e-6)
    assert predicted.std() > 0.01


def without_the_future(events: pa.Table, at: int) -> pa.Table:
    """The events strictly before an instant, without the labels that were not known by then."""
    instant = pa.scalar(at, pa.timestamp("us", "UTC"))
    early = events.filter(pc.less(events["timestamp"], instant))
    unknown = pc.fill_null(pc.greater_equal(early["bought_at"], instant), False)
    bought = pc.if_else(unknown, pa.scalar(0, pa.int8()), early["bought"])
    bought_at = pc.if_else(unknown, pa.scalar(None, early["bought_at"].type), early["bought_at"])
    names = early.column_names
    early = early.set_column(names.index("bought"), "bought", bought)
    return early.set_column(names.index("bought_at"), "bought_at", bought_at)


def test_deleting_anything_at_or_after_an_instant_changes_no_score_at_it(lake: Lake, tmp_path: Path) -> None:
    """The same checkpoints, over a lake that ends at the instant."""
    at = day_start(day(SCORED)) + 15 * 3_600_000_000
    cut = make_lake(tmp_path / "cut", CONFIG + RANKERS)
    cut.ingest(without_the_future(make_events(per_day=60), at))
    for version in (lake.config.version_of("iat"), lake.config.version_of("plain")):
        copy_checkpoints(lake, cut, version)
    encode_all(cut)
    for name in NAMES:
        copy_checkpoints(lake, cut, lake.config.model_version(name))
        users, items = list(range(12)), [list(range(20))] * 12
        full, short = (which.rank(name, users, items, at=at).values for which in (lake, cut))
        np.testing.assert_allclose(short, full, atol=2e-6, err_msg=name)


def copy_checkpoints(source: Lake, target: Lake, version: str) -> None:
    """Bring a version's checkpoints and plans into another lake, so that it trains nothing."""
    for record in source.catalog.checkpoints(version):
        folder = path_of(target, version, record.checkpoint)
        shutil.copytree(path_of(source, version, record.checkpoint), folder)
        target.catalog.add_checkpoint(record)
    for plan in source.catalog.plans(version):
        target.catalog.record_plan(dataclasses.replace(plan, watermark=target.watermark()))


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_the_other_candidates(lake: Lake, name: str) -> None:
    at = day_start(day(SCORED)) + 15 * 3_600_000_000
    together = lake.rank(name, 3, list(range(20)), at=at)
    alone = np.concatenate([lake.rank(name, 3, [item], at=at).values for item in range(20)])
    np.testing.assert_allclose(together.values, alone, atol=2e-6)


def test_daily_scores_are_those_of_midnight(lake: Lake) -> None:
    at = day_start(day(SCORED))
    early, late = (lake.rank("daily", [3, 4], [[1, 2], [5]], at=at + hour * 3_600_000_000) for hour in (0, 22))
    np.testing.assert_allclose(early.values, late.values, atol=2e-6)
    fresh = [lake.rank("din", [3, 4], [[1, 2], [5]], at=at + hour * 3_600_000_000).values for hour in (0, 22)]
    assert not np.allclose(*fresh, atol=1e-4)


def test_candidates_profiles_are_those_of_the_lake_and_the_context_goes_before_them(lake: Lake) -> None:
    at = day_start(day(SCORED))
    known = lake.rank("alone", 3, [1, 2], at=at)
    said = lake.rank("alone", 3, [1, 2], at=at, context={"genre": ["g1", "g2"], "price": [None, None]})
    np.testing.assert_array_equal(known.values, said.values)
    other = lake.rank("alone", 3, [1, 2], at=at, context={"genre": ["g3", "g0"]})
    assert not np.allclose(known.values, other.values, atol=1e-4)
    for_the_query = lake.rank("alone", [3], [[1, 2]], at=at, context={"price": [0.5]})
    for_each = lake.rank("alone", [3], [[1, 2]], at=at, context={"price": [0.5, 0.5]})
    np.testing.assert_array_equal(for_the_query.values, for_each.values)


def test_candidates_of_several_users_and_their_best(lake: Lake) -> None:
    at = day_start(day(SCORED))
    got = lake.rank("alone", [3, 4, 5], [[1, 2], [], [5, 6, 7]], at=[at, at, at + 5])
    assert got.offsets.tolist() == [0, 2, 2, 5]
    assert len(got) == 3
    assert got.items.to_pylist() == [1, 2, 5, 6, 7]
    best = got.best(2, k=2, label="bought")
    order = np.argsort(-got.of("bought")[2:])[:2]
    assert best["item_id"].to_pylist() == [[5, 6, 7][i] for i in order]
    assert best["score"].to_pylist() == sorted(best["score"].to_pylist(), reverse=True)
    again = lake.rank("alone", [3, 4, 5], got, at=[at, at, at + 5])
    np.testing.assert_array_equal(again.values, got.values)
    with pytest.raises(NotFoundError, match="clicked, bought"):
        got.of("sold")


def test_nobody_and_nothing_known_is_scored_too(lake: Lake) -> None:
    got = lake.rank("din", 999, [777, 1], at=day_start(day(SCORED)))
    assert np.isfinite(got.values).all()
    assert lake.rank("din", [], [], at=day_start(day(SCORED))).values.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "alon"}, "did you mean 'alone'"),
        ({"items": [[1], [2]]}, "items of 2 queries given for 1 users"),
        ({"users": [1, 2]}, "items of 3 queries given for 2 users"),
        ({"at": [1, 2]}, "expected one instant, or one for each of 1 users"),
        ({"context": {"genres": ["g1"]}}, "no feature 'genres'; did you mean 'genre'"),
        ({"context": {"genre": ["g1", "g2"]}}, "2 rows given; expected one for each of 1 queries, or for each of 3"),
        ({"items": ["a", "b"]}, "item"),
        ({"users": 1.5}, "user"),
        ({"context": 7}, "context: int given"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(lake: Lake, arguments: dict[str, Any], message: str) -> None:
    given = {"model": "alone", "users": 3, "items": [1, 2, 3], "at": day_start(day(SCORED))} | arguments
    with pytest.raises((SchemaError, NotFoundError), match=message):
        lake.rank(**given)


def test_a_day_beyond_the_kept_checkpoints_is_told(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has no checkpoint for 2024-03-03 yet"):
        lake.rank("alone", 3, [1], at=day_start(day(2)))
    lone = trained(tmp_path, make_events(per_day=30), names=("alone",))
    (folder,) = [
        path_of(lone, r.version, r.checkpoint) for r in lone.catalog.checkpoints(lone.config.model_version("alone"))
    ]
    folder.rename(folder.with_name("aside"))
    checkpoints._load_frozen_ranker.cache_clear()
    with pytest.raises(NotFoundError, match="not kept any more"):
        lone.rank("alone", 3, [1], at=day_start(day(SCORED)))


def test_a_log_without_labels_has_rankers_too(tmp_path: Path) -> None:
    models = "models: {r: {width: 16, embedding: 4, batch: 64, sequences: {s: {of: events, length: 4, width: 8}}}}\n"
    lake = make_lake(tmp_path, UNLABELLED + models)
    lake.ingest(plays())
    plan = plan_of(lake, "r")
    stats = train_ranker_checkpoint(lake, lake.config.rankers["r"], plan)
    assert stats["trained_rows"] > lake.events.count(day=day(0))
    events, predicted = predict_day(lake, lake.config.rankers["r"], plan)
    assert events["event_id"].null_count == len(events) * 4 // 5
    assert predicted.shape == (len(events), 1)


def test_late_labels_are_learned_once(tmp_path: Path) -> None:
    """Each label is a target of the one training in whose days it becomes known."""
    lake = make_lake(tmp_path, CONFIG + RANKERS)
    events = make_events(per_day=60)
    lake.ingest(events)
    spec, version, total = lake.config.rankers["bought"], lake.config.model_version("bought"), 0
    parent: str | None = None
    for number in range(8):
        plan = Plan(
            version, day(number) + ONE_DAY, day(number).isoformat(), parent, day(number), day(number),
            day(number) + ONE_DAY, day(number) + ONE_DAY, bootstrap=False, watermark=lake.watermark(),
        )  # fmt: skip
        total += int(train_ranker_checkpoint(lake, spec, plan)["targets"])
        parent = plan.checkpoint
    known_at = lake.events.read()["bought_known_at"].drop_null()
    end = day_start(day(7) + dt.timedelta(days=1))
    assert total == int((as_micros(known_at, "known_at") < end).sum())
