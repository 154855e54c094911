"""What an earlier version wrote opens, and answers the same: formats on disk and serialised names have not moved."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load

import tokenlake
from tests.compatibility import written

DATA = Path(__file__).parent / "data" / "written.tar.xz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("written")
    with tarfile.open(DATA) as archive:
        archive.extractall(made, filter="data")
    return made


def test_it_answers_as_it_did(folder: Path) -> None:
    expected, found = json.loads((folder / "answers.json").read_text()), written.answers(folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_like(found[name], value, name)


def assert_like(found: Any, expected: Any, where: str) -> None:
    """Equal, floats to 1e-4: what a model computes differs in its last bits from one processor to another."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            assert_like(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_like(found[i], value, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, abs_tol=1e-4), f"{where}: {found}, it was {expected}"
    else:
        assert found == expected, f"{where}: {found!r}, it was {expected!r}"


def test_the_daily_jobs_go_on_with_it(folder: Path) -> None:
    """A day more, by the checkpoints, counts, plans and stores that are there."""
    lake = tokenlake.open(folder / "lake")
    version, days = lake.resolve(), lake.events.days()
    before = lake.tokens().fetch(["user 3"], before="2024-03-05", length=50)
    more = written.events().slice(0, 12)
    stamps = np.array(more["timestamp"].cast("int64")) % 86_400_000_000 + (19_783 + written.DAYS) * 86_400_000_000
    for name, column in {"event_id": np.arange(1000, 1012), "timestamp": stamps}.items():
        i = more.column_names.index(name)
        more = more.set_column(i, more.schema.field(i), pa.array(column).cast(more.schema.field(i).type))
    lake.ingest(more)
    lake.backfill()
    assert len(lake.events.days()) == len(days) + 1
    assert lake.resolve() == version
    after = lake.tokens().fetch(["user 3"], before="2024-03-05", length=50)
    assert written.batch(after) == written.batch(before)  # nothing earlier was trained or encoded anew


def test_training_gives_the_checkpoints_that_it_gave(tmp_path: Path) -> None:
    """Equal bytes on one machine; other processors add in another order, which the optimizer then spreads."""
    with tarfile.open(DATA) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    written.write(tmp_path / "new")
    old, new = written.weights(tmp_path / "old"), written.weights(tmp_path / "new")
    assert old.keys() == new.keys()
    for name in old:
        if old[name] != new[name]:
            one, other = load(old[name]), load(new[name])
            assert one.keys() == other.keys()
            for tensor in one:
                np.testing.assert_allclose(other[tensor], one[tensor], atol=5e-3, err_msg=f"{name}: {tensor}")
