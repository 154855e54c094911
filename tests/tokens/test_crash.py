"""A writer killed anywhere loses nothing that it acknowledged, and leaves nothing torn."""

from __future__ import annotations

from pathlib import Path

from tests.tokens.helpers import points


def test_a_killed_writer(tmp_path: Path) -> None:
    assert points("tests.tokens.crash", tmp_path) >= 200
