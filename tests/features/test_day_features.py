"""Frames: the same features whatever was kept on disk, whoever counted before."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import tokenlake
from tests.fixtures.lakes import CONFIG, UNLABELLED, day, make_events, make_lake, of_day, plays
from tokenlake._lake import Lake
from tokenlake.features.day_features import DayFeatureCache


def kept(lake: Lake) -> list[str]:
    return sorted(path.name[:10] for path in (lake.data / "counts").glob("*/????-??-??_*"))


def frame_of(lake: Lake, i: int) -> tuple[pa.Table, np.ndarray]:
    frame = lake.shared(DayFeatureCache).read(day(i), lake.watermark())
    return frame.events, frame.counts


@pytest.mark.parametrize(("config", "events"), [(CONFIG, make_events(days=10)), (UNLABELLED, plays(days=10))])
def test_a_state_from_disk_gives_the_same_frame(tmp_path: Path, config: str, events: pa.Table) -> None:
    lake = make_lake(tmp_path, config)
    lake.ingest(events)
    counted = frame_of(lake, 8)
    assert kept(lake) == [day(8).isoformat()]
    again = frame_of(tokenlake.open(tmp_path), 8)
    assert counted[0].equals(again[0])
    np.testing.assert_array_equal(counted[1], again[1])


def test_a_state_on_disk_takes_in_what_came_late(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.ingest(make_events(days=10))
    frame_of(lake, 8)
    before = lake.watermark()
    lake.ingest(of_day(make_events(days=10, seed=5), 2))
    rolled = tokenlake.open(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "counts")
    fresh = DayFeatureCache(tokenlake.open(tmp_path / "copy"))
    expected = fresh.read(day(9), lake.watermark())
    np.testing.assert_array_equal(rolled.shared(DayFeatureCache).read(day(9), lake.watermark()).counts, expected.counts)
    # The plan of a day that was drawn before still sees what it saw.
    old = fresh.read(day(8), before)
    np.testing.assert_array_equal(
        tokenlake.open(tmp_path).shared(DayFeatureCache).read(day(8), before).counts, old.counts
    )
    assert not np.array_equal(old.counts, fresh.read(day(8), lake.watermark()).counts)


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.ingest(make_events(days=14, per_day=5))
    for i in range(2, 14):
        frame_of(lake, i)
        lake.shared(DayFeatureCache).save_state()
    assert kept(lake) == [day(i).isoformat() for i in range(6, 14)]
