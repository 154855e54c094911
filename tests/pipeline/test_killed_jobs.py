"""The daily jobs when they are killed, interrupted, doubled, or refused by the disk: the same work again mends it."""

from __future__ import annotations

import errno
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tokenlake
from tests.fixtures.kills import ended
from tests.fixtures.lakes import CONFIG, day, make_events, make_lake, tokens_of
from tokenlake._lake import Lake
from tokenlake.errors import OrderError, TokenlakeError
from tokenlake.times import NEVER

_KILLED = -9
_CTRL_C = 130
_ENCODERS = ("iat", "plain")


def filled(folder: Path, config: str = CONFIG, days: int = 4) -> Lake:
    lake = make_lake(folder, config)
    lake.ingest(make_events(days=days, per_day=25))
    return lake


def state(lake: Lake) -> dict[str, Any]:
    """All that the jobs leave behind, but for when they did."""
    found: dict[str, Any] = {}
    for version in map(lake.resolve, _ENCODERS):
        found[f"tokens of {version}"] = tokens_of(lake, version)
        keys = [("event_id", "ascending"), ("label", "ascending")]
        found[f"predictions of {version}"] = lake.predictions.read(version=version).sort_by(keys)
        store = lake.tokens(version)
        store.verify()
        for available in ("realtime", "daily"):
            batch = store.fetch(range(12), before=NEVER - 1, length=100, available=available)
            parts = (batch.values, batch.offsets, batch.timestamps, *batch.side.values(), *batch.known.values())
            found[f"{available} fetch of {version}"] = tuple(part.tobytes() for part in parts)
        plans = lake.catalog.plans(version)
        found[f"plans of {version}"] = [(p.day, p.checkpoint, p.parent, p.train_from, p.bootstrap) for p in plans]
        found[f"published of {version}"] = lake.catalog.done(version, "publish")
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.equals(other[name]) if isinstance(value, pa.Table) else value == other[name], name


def leftovers(lake: Lake) -> Iterator[Path]:
    return (path for path in lake.data.rglob(".*") if path.is_dir())


def statuses(lake: Lake) -> Counter[str]:
    return Counter(run.status for run in lake.catalog.runs())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What a back-fill that nothing disturbs leaves behind, and how many points it passes."""
    lake = filled(tmp_path_factory.mktemp("undisturbed"))
    [(code, points)] = ended(lake.root, [], "backfill")
    assert code == 0
    assert statuses(lake).keys() == {"done"}
    return state(lake), points


@pytest.mark.slow
def test_a_killed_backfill_goes_on(tmp_path: Path, undisturbed: tuple[dict[str, Any], int]) -> None:
    expected, total = undisturbed
    rng = random.Random(4)
    points = [rng.randrange(1, total // 4) for _ in range(9)]
    lake = filled(tmp_path)
    *killed, (code, _) = ended(lake.root, points, "backfill")
    assert code == 0
    assert {code for code, _ in killed} <= {_KILLED, 0}
    deaths = sum(code == _KILLED for code, _ in killed)
    assert deaths >= 4
    same(state(lake), expected)
    told = statuses(lake)
    assert told.keys() == {"done", "killed"}
    assert deaths - 2 <= told["killed"] <= deaths  # between two jobs no run is under way
    assert not list(leftovers(lake))


@pytest.mark.slow
def test_ctrl_c_is_told_and_goes_on(tmp_path: Path, undisturbed: tuple[dict[str, Any], int]) -> None:
    lake = filled(tmp_path)
    points = [undisturbed[1] // 5, undisturbed[1] // 3]
    *stopped, (code, _) = ended(lake.root, points, "cli", "backfill", str(lake.root), how="SIGINT")
    assert [code for code, _ in stopped] == [_CTRL_C, _CTRL_C]
    assert code == 0
    same(state(lake), undisturbed[0])
    assert statuses(lake).keys() == {"done", "interrupted"}


@pytest.mark.slow
def test_two_processes_on_the_same_days(tmp_path: Path) -> None:
    alone, raced = filled(tmp_path / "alone", days=3), filled(tmp_path / "raced", days=3)
    assert [code for code, _ in ended(alone.root, [], "days")] == [0]
    assert [code for code, _ in ended(raced.root, [], "race")] == [0, 0]
    same(state(raced), state(alone))
    failed = [run for run in raced.catalog.runs() if run.status != "done"]
    assert {run.error_kind for run in failed} <= {"transient"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses(
    number: int, tmp_path: Path, undisturbed: tuple[dict[str, Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of write in turn, each later than the one before; the same call then completes the work."""
    lake = filled(tmp_path)
    for target, calls in (
        ("tokenlake.storage.disk.sync_file", 2),
        ("tokenlake.lake.tables.Table._write", 1),
        ("tokenlake.lake.tables.Table._write", 2),
        ("tokenlake.storage.disk.write", 2),
        ("tokenlake.storage.disk.rename", 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, _refusing(target, calls, number))
            # A merge that fails is a warning, and has tests of its own.
            patch.setattr("tokenlake.tokens.compaction.FANOUT", 99)
            with pytest.raises(TokenlakeError, match=r"No space left|Read-only"):
                lake.backfill()
        assert lake.catalog.last_runs(1)[0].status == "failed"
        lake = tokenlake.open(tmp_path)
    lake.backfill()
    same(state(lake), undisturbed[0])
    assert not list(leftovers(lake))


def test_a_deleted_store_is_made_again(tmp_path: Path) -> None:
    """Stores are derived: the same back-fill makes them again, equal; and no day alone stands for the whole."""
    lake = filled(tmp_path, days=3)
    lake.backfill()
    before = state(lake)
    for version in map(lake.resolve, _ENCODERS):
        shutil.rmtree(lake.store_path(version))
    with pytest.raises(OrderError):
        lake.run(day(2))
    report = lake.backfill()
    assert not report.skipped
    same(state(lake), before)


def _refusing(target: str, calls: int, number: int) -> Any:
    """The function, until the disk refuses its so-manieth call."""
    import importlib

    module, _, name = target.rpartition(".")
    owner: Any = importlib.import_module("tokenlake.lake.tables").Table if name == "_write" else None
    owner = owner or importlib.import_module(module)
    function, left = getattr(owner, name), [calls]

    def call(*arguments: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, {errno.ENOSPC: "No space left on device"}.get(number, "Read-only file system"))
        return function(*arguments, **keywords)

    return call


def test_a_mark_made_while_a_day_is_encoded_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that land between the reading of a day and its publishing are not in it: the day waits for a re-run."""
    from tokenlake.pipeline import encoding

    lake = filled(tmp_path, days=2)
    lake.run(day(0))
    encode_day = encoding.encode_day

    def slowly(lake: Lake, plan: Any) -> Any:
        summary = encode_day(lake, plan)
        late = make_events(days=1, per_day=3, seed=9)
        tokenlake.open(lake.root).ingest(late)
        return summary

    monkeypatch.setattr(encoding, "encode_day", slowly)
    version = lake.resolve("iat")
    from tokenlake.pipeline import jobs

    for job in jobs.TOKEN_JOBS:
        job(lake, day(0), version)
    monkeypatch.undo()
    assert day(0) in {mark.day for mark in lake.catalog.restatements(version)}
    lake.backfill()
    assert not lake.catalog.restatements()
    stored = lake.tokens(version).fetch_at(*(lake.events.read(day=day(0))[name] for name in ("user_id", "timestamp")))
    np.testing.assert_array_equal(stored.missing, False)
