"""A writer killed anywhere loses nothing that it acknowledged, and leaves nothing torn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_killed_writer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.tokens.crash", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 200
