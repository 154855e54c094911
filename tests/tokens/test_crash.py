"""A writer killed anywhere loses nothing that it acknowledged, and leaves nothing torn."""

from __future__ import annotations

from pathlib import Path

from tests.tokens.helpers import points
from tests.tokens.servers import Server

CRASH = "tests.tokens.crash"


def test_a_killed_writer(tmp_path: Path) -> None:
    assert points(CRASH, tmp_path) >= 200


def test_a_killed_writer_of_a_tail_in_redis(tmp_path: Path, server: Server) -> None:
    assert points(CRASH, tmp_path, server.url) >= 400


def test_a_publication_cut_short_stops_nobody(tmp_path: Path, server: Server) -> None:
    assert points(CRASH, tmp_path, server.url, "publication") >= 40
