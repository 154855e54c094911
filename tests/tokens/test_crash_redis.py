"""The same of a tail in Redis; a file of its own, so that it can run beside the other."""

from __future__ import annotations

from pathlib import Path

from tests.tokens.helpers import points
from tests.tokens.servers import Server


def test_a_killed_writer(tmp_path: Path, server: Server) -> None:
    assert points("tests.tokens.crash", tmp_path, server.url) >= 400


def test_a_publication_cut_short_stops_nobody(tmp_path: Path, server: Server) -> None:
    assert points("tests.tokens.crash", tmp_path, server.url, "publication") >= 40
