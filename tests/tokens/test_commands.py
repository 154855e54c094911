"""`tokenlake fetch` and `tokenlake verify` on a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fixtures.store_oracle import Row
from tests.fixtures.stores import T0, arguments, make
from tokenlake.cli import app
from tokenlake.errors import CorruptionError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = make(tmp_path / "store")
    store.write_day("2017-03-01", **arguments([Row(7, T0 + i, i, 1, T0 + 2) for i in range(3)]))
    return store.path


def test_fetch_shows_what_was_known(path: Path) -> None:
    result = CliRunner().invoke(app, ["fetch", str(path), "7", "--before", "2017-03-01T00:00:00.000002"])
    assert result.exit_code == 0, result.output
    assert "unknown" in result.output
    assert "2017-03-01 00:00:00.000001" in result.output
    assert "000002 │" not in result.output


def test_fetch_says_what_is_wrong(path: Path) -> None:
    assert "is no time" in CliRunner().invoke(app, ["fetch", str(path), "7", "--before", "x"]).output
    assert "integers" in CliRunner().invoke(app, ["fetch", str(path), "a", "--before", "2017-03-02"]).output
    assert "no rows" in CliRunner().invoke(app, ["fetch", str(path), "8", "--before", "2017-03-02"]).output


def test_verify_names_the_file(path: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(path)])
    assert result.exit_code == 0, result.output
    segment = next((path / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    error = CliRunner().invoke(app, ["verify", str(path)]).exception
    assert isinstance(error, CorruptionError)
    assert segment.name in str(error)
