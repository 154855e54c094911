import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tokenlake.errors import LockedError, StorageError
from tokenlake.storage.locks import hold

_HOLD = """
import sys, time
from pathlib import Path
from tokenlake.storage.locks import hold
with hold(Path(sys.argv[1]), "long work"):
    print("held", flush=True)
    time.sleep(36_000)
"""


def test_it_says_who_holds_it(tmp_path: Path) -> None:
    with (
        hold(tmp_path / "locks" / "a.lock", "first"),
        pytest.raises(LockedError, match=rf"second.*{os.getpid()}.*first"),
        hold(tmp_path / "locks" / "a.lock", "second"),
    ):
        pass
    with hold(tmp_path / "locks" / "a.lock", "third"):
        pass


def test_it_is_released_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path / "a.lock", "first"):
        raise KeyError
    with hold(tmp_path / "a.lock", "second"):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"process {process.pid} .*long work"), hold(path, "mine", timeout=0.1):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold(path, "mine"):
            pass


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("no folder")
    with pytest.raises(StorageError, match="cannot be made"), hold(tmp_path / "locks" / "a.lock", "work"):
        pass
