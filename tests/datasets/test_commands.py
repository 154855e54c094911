"""`tokenlake datasets` and `tokenlake simulate`, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fixtures import releases
from tests.fixtures.releases import write
from tokenlake.cli import app
from tokenlake.datasets import DATASETS, fetch
from tokenlake.errors import NotFoundError, SchemaError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list() -> None:
    output = run("datasets", "list")
    assert all(name in output for name in DATASETS)


def test_fetch(tmp_path: Path) -> None:
    source = write(tmp_path, releases.ml_1m(), as_zip=True)
    command = ("datasets", "fetch", "movielens-100k", "--out", tmp_path / "films", "--source", source)
    assert run(*command).startswith("wrote movielens in")
    again = run(*command)
    assert again.startswith("already there: movielens in")
    assert "5 events, 3 users, 3 items, 4 days from 1970-01-01 to 1997-11-03" in again


def test_simulate(tmp_path: Path) -> None:
    sizes = ("--users", 20, "--items", 10, "--days", 3, "--events", 200, "--seed", 5, "--start", "2025-01-01")
    output = run("simulate", tmp_path / "ads", *sizes)
    assert "200 events" in output
    assert "from 2025-01-01 to 2025-01-03" in output
    assert len(list((tmp_path / "ads" / "landing").iterdir())) == 3


def test_unknown() -> None:
    with pytest.raises(NotFoundError, match=r"no data set 'movielens'; there are .*did you mean 'movielens-100k'\?"):
        fetch("movielens", "out")
    with pytest.raises(NotFoundError, match="no data set 'netflix'; there are"):
        fetch("netflix", "out")
    with pytest.raises(
        SchemaError, match=r"movielens-100k has no option \['households'\]; it has \['source', 'progress', 'days'\]"
    ):
        fetch("movielens-100k", "out", households=3)
