"""The sessions of the README and of docs/counts.md give what the pages show."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.filterwarnings("ignore:.*experimental.*:RuntimeWarning")  # what Feast says of on-demand views
@pytest.mark.parametrize("page", ["README.md", "docs/counts.md"])
def test_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(ROOT / page), module_relative=False)
    assert result.attempted >= 10
    assert result.failed == 0
