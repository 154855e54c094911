"""A writer killed anywhere loses nothing that it acknowledged, and leaves nothing torn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tokens.servers import Server

ROOT = Path(__file__).parents[2]


def test_a_killed_writer(tmp_path: Path) -> None:
    assert points(tmp_path) >= 200


def test_a_killed_writer_of_a_tail_in_redis(tmp_path: Path, server: Server) -> None:
    assert points(tmp_path, server.url) >= 400


def test_a_publication_cut_short_stops_nobody(tmp_path: Path, server: Server) -> None:
    assert points(tmp_path, server.url, "publication") >= 40


def points(*given: object) -> int:
    command = [sys.executable, "-m", "tests.tokens.crash", *map(str, given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
