"""A day embedded in buckets: the same bits as in one go, whatever is killed, run twice, or arrives in between."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tokenlake
from tests.fixtures.embedded import SMALL, vectors
from tests.fixtures.kills import ended
from tests.fixtures.lakes import day, make_events, make_lake, of_day
from tokenlake._lake import Lake
from tokenlake.catalog import Plan
from tokenlake.errors import OrderError, SchemaError
from tokenlake.pipeline import buckets, embedding, jobs
from tokenlake_models import alure_training

DAYS = 3


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alure_training, "SCORING_BATCH", 3)


def fresh(folder: Path) -> Lake:
    lake = make_lake(folder, SMALL)
    lake.ingest(make_events(days=DAYS))
    return lake


def in_buckets(lake: Lake, i: int, count: int = 3) -> dict[str, Any]:
    version = lake.config.embedding_version
    jobs.train_embeddings(lake, day(i), version)
    for bucket in range(count):
        assert jobs.embed_bucket(lake, day(i), version, bucket, count).status == "done"
    return jobs.gather(lake, day(i), version, count).summary


def both(lake: Lake) -> tuple[pa.Table, pa.Table]:
    return vectors(lake), vectors(lake, "item")


@pytest.fixture
def whole(tmp_path: Path, small_batches: None) -> tuple[pa.Table, pa.Table]:
    lake = fresh(tmp_path / "whole")
    for i in range(DAYS):
        for job in jobs.EMBEDDING_JOBS:
            job(lake, day(i), lake.config.embedding_version)
    return both(lake)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_equals_embed_bit_for_bit(tmp_path: Path, whole: tuple[pa.Table, pa.Table], count: int) -> None:
    lake = fresh(tmp_path / "parts")
    for i in range(DAYS):
        assert in_buckets(lake, i, count)["made_here"] == 0
    users, items = both(lake)
    assert users.equals(whole[0])
    assert items.equals(whole[1])
    assert not list((lake.data / "staging" / lake.config.embedding_version).iterdir())
    assert lake.catalog.done(lake.config.embedding_version, jobs.EMBED) == {day(i) for i in range(DAYS)}


def test_every_user_is_in_one_bucket(tmp_path: Path) -> None:
    lake = fresh(tmp_path)
    jobs.train_embeddings(lake, day(0), lake.config.embedding_version)
    plan = lake.catalog.plan(lake.config.embedding_version, day(0))
    assert plan is not None
    task = embedding.EmbeddingInputs(lake, plan)
    dealt = [place for bucket in range(4) for place in task.vectors(bucket, 4)[0].tolist()]
    assert sorted(dealt) == list(range(len(task.users)))


def test_what_is_missing_or_damaged_is_made_by_gather(tmp_path: Path, whole: tuple[pa.Table, pa.Table]) -> None:
    lake = fresh(tmp_path / "parts")
    version = lake.config.embedding_version
    jobs.train_embeddings(lake, day(0), version)
    for bucket in (0, 2):
        jobs.embed_bucket(lake, day(0), version, bucket, 3)
    folder = lake.data / "staging" / version / day(0).isoformat()
    (folder / "2-of-3.arrow").write_bytes(b"half a file")
    assert jobs.gather(lake, day(0), version, 3).summary["made_here"] == 2
    assert vectors(lake).equals(whole[0].filter(pa.compute.field("ds") == pa.scalar(day(0))))


def test_staged_vectors_of_another_plan_or_other_events_are_not_mixed_in(tmp_path: Path) -> None:
    lake = fresh(tmp_path / "parts")
    version = lake.config.embedding_version
    in_buckets(lake, 0)
    for bucket in range(3):
        jobs.embed_bucket(lake, day(0), version, bucket, 3)
    lake.ingest(of_day(make_events(seed=7, users=30), 0).slice(0, 4))  # new users, so every place moves
    jobs.embed_bucket(lake, day(0), version, 1, 3)
    assert jobs.gather(lake, day(0), version, 3).summary["made_here"] == 2
    gathered = both(lake)
    jobs.embed(lake, day(0), version)
    assert [a.equals(b) for a, b in zip(gathered, both(lake), strict=True)] == [True, True]

    plan = lake.catalog.plan(version, day(0))
    assert plan is not None
    buckets.stage(lake, plan, 0, 3)
    (stale,) = (lake.data / "staging").rglob("0-of-3.arrow")
    arrays, header = buckets.read_arrays(stale)
    buckets.write_arrays(stale, arrays, header | {"checkpoint": "another"})
    assert jobs.gather(lake, day(0), version, 3).summary["made_here"] == 3


def test_a_bucket_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = fresh(tmp_path)
    version = lake.config.embedding_version
    jobs.train_embeddings(lake, day(0), version)
    first = jobs.embed_bucket(lake, day(0), version, 0, 2).summary
    monkeypatch.delattr(embedding.EmbeddingInputs, "vectors")
    assert jobs.embed_bucket(lake, day(0), version, 0, 2).summary == first


def test_order_empty_days_and_wrong_buckets(tmp_path: Path) -> None:
    lake = fresh(tmp_path)
    version = lake.config.embedding_version
    with pytest.raises(OrderError):
        jobs.embed_bucket(lake, day(1), version, 0, 2)
    with pytest.raises(OrderError):
        jobs.gather(lake, day(1), version, 2)
    assert jobs.embed_bucket(lake, day(40), version, 0, 2).status == "skipped"
    assert jobs.gather(lake, day(40), version, 2).status == "skipped"
    jobs.train_embeddings(lake, day(0), version)
    for bucket, count in ((2, 2), (-1, 2)):
        with pytest.raises(SchemaError, match="numbered from 0"):
            jobs.embed_bucket(lake, day(0), version, bucket, count)
    with pytest.raises(SchemaError, match="at least 1"):
        jobs.gather(lake, day(0), version, 0)


@pytest.mark.slow
def test_killed_anywhere_it_goes_on(tmp_path: Path, whole: tuple[pa.Table, pa.Table]) -> None:
    template = fresh(tmp_path / "template")
    [(code, total)] = ended(template.root, [], "buckets")
    assert code == 0
    expected = both(template)
    assert expected[0]["user_id"].equals(whole[0]["user_id"])
    lake = fresh(tmp_path / "killed")
    *killed, (code, _) = ended(lake.root, [total // 9 * k for k in (1, 2, 3, 3, 4)], "buckets")
    assert code == 0
    assert sum(code == -9 for code, _ in killed) >= 3
    assert [a.equals(b) for a, b in zip(both(lake), expected, strict=True)] == [True, True]


def gathered(lake: Lake, i: int) -> None:
    in_buckets(lake, i)


def in_one_go(lake: Lake, i: int) -> None:
    for job in jobs.EMBEDDING_JOBS:
        job(lake, day(i), lake.config.embedding_version)


@pytest.mark.parametrize("embed", [in_one_go, gathered])
def test_a_mark_made_while_a_day_is_embedded_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embed: Callable[[Lake, int], None]
) -> None:
    """Whether or not there are tokens: the embeddings' lineage stands alone."""
    lake = fresh(tmp_path)
    embed(lake, 0)
    assert not lake.catalog.restatements()
    write = embedding.write
    late = of_day(make_events(seed=9, users=30), 0).slice(0, 3)

    def slowly(table: Any, ids: pa.Array, matrix: Any, plan: Plan) -> None:
        if table is lake.user_embeddings:
            tokenlake.open(lake.root).ingest(late)
        write(table, ids, matrix, plan)

    monkeypatch.setattr(embedding, "write", slowly)
    embed(lake, 0)
    monkeypatch.undo()
    strangers = set(late["user_id"].to_pylist()) - set(range(12))
    assert strangers
    assert not strangers & set(vectors(lake)["user_id"].to_pylist())
    assert [(mark.day, mark.version) for mark in lake.catalog.restatements()] == [
        (day(0), lake.config.embedding_version)
    ]
    embed(lake, 0)
    assert not lake.catalog.restatements()
    assert set(late["user_id"].to_pylist()) <= set(vectors(lake)["user_id"].to_pylist())


def test_embeddings_wait_for_no_token_and_need_none(tmp_path: Path) -> None:
    """No token is ever made, nor any of their folders; and tokens that are behind hold nothing up."""
    lake = fresh(tmp_path)
    in_buckets(lake, 0)
    in_one_go(lake, 1)
    assert not lake.instance_tokens.exists
    assert not (lake.data / "tokens").exists()
    assert {run.job for run in lake.catalog.runs()} == {"train-embeddings", "embed-bucket", "embed"}
    jobs.train(lake, day(0), lake.resolve("iat"))  # under way, never published
    in_one_go(lake, 2)
    shutil.rmtree(lake.data / "checkpoints" / lake.resolve("iat"))
    assert jobs.embed(lake, day(2), lake.config.embedding_version).status == "done"
