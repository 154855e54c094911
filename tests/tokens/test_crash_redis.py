"""The same of a tail in Redis; a file of its own, so that it can run beside the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.servers import Server
from tests.fixtures.stores import points


@pytest.mark.slow
def test_a_writer_killed_at_every_point(tmp_path: Path, server: Server) -> None:
    assert points("tests.tokens.crash", tmp_path, 1, server.url) >= 400


@pytest.mark.slow
def test_a_killed_writer(tmp_path: Path, server: Server) -> None:
    """At points 29 apart, which meet every kind of operation and command within the steps."""
    assert points("tests.tokens.crash", tmp_path, 29, server.url) >= 14


@pytest.mark.slow
def test_a_publication_cut_short_stops_nobody(tmp_path: Path, server: Server) -> None:
    assert points("tests.tokens.crash", tmp_path, 1, server.url, "publication") >= 40
