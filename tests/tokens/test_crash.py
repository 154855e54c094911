"""A writer killed anywhere loses nothing that it acknowledged, and leaves nothing torn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.stores import points


@pytest.mark.slow
def test_a_writer_killed_at_every_point(tmp_path: Path) -> None:
    assert points("tests.tokens.crash", tmp_path, 1) >= 200


def test_a_killed_writer(tmp_path: Path) -> None:
    """At points 17 apart, which meet every kind of operation within the steps."""
    assert points("tests.tokens.crash", tmp_path, 17) >= 12
