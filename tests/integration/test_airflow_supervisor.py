"""The supervisor ends every process, whatever happens to whom; with a stand-in for Airflow, so that it takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.patience import HANG_S, wait_until

pytestmark = pytest.mark.integration

# Each "service" has a child in a process group of its own, which has a child that it leaves an orphan; all are deaf to
# SIGTERM but the service. Airflow's scheduler, worker and task processes are like that.
STAND_IN = """
import os, signal, sys, time
if sys.argv[1] == "db":
    sys.exit(int(os.environ.get("MIGRATION", "0")))
if not os.fork():
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not os.fork():
        if not os.fork():
            time.sleep(36_000)
        os._exit(0)
    time.sleep(36_000)
if sys.argv[1] == os.environ.get("DIES"):
    print("it said why")
    sys.exit(7)
time.sleep(36_000)
"""


class Home:
    """A folder for the supervisor; every process below it has this as its current folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir()
        (folder / "path" / "airflow").mkdir(parents=True)
        (folder / "path" / "airflow" / "__init__.py").touch()
        (folder / "path" / "airflow" / "__main__.py").write_text(STAND_IN)
        self.environment = os.environ | {"PYTHONPATH": str(folder / "path"), "AIRFLOW_HOME": str(folder)}

    def command(self, parent: int | str) -> list[str]:
        return [sys.executable, "-P", "-m", "tokenlake.scheduling.supervisor", str(parent), str(self.logs)]

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(os.getpid()),
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.folder):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def running(self) -> bool:
        return len(self.processes()) >= 14  # the supervisor and its guard, four services, two below each


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    for process in home.processes():
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all(home: Home, number: signal.Signals) -> None:
    supervisor = home.start()
    wait_until(home.running, "all to run")
    supervisor.send_signal(number)
    assert supervisor.communicate(timeout=HANG_S)[0] == ""
    assert supervisor.returncode == 0
    assert home.processes() == []


def test_a_service_that_ends_is_named_and_takes_all_with_it(home: Home) -> None:
    supervisor = home.start(DIES="dag-processor")
    assert supervisor.communicate(timeout=HANG_S)[0] == "dag-processor 7\n"
    assert supervisor.returncode == 1
    assert (home.logs / "dag-processor.log").read_text() == "it said why\n"
    assert home.processes() == []


def test_a_migration_that_fails_is_named(home: Home) -> None:
    supervisor = home.start(MIGRATION="3")
    assert supervisor.communicate(timeout=HANG_S)[0] == "db-migrate 3\n"
    assert home.processes() == []


def test_when_the_parent_is_killed_all_end(home: Home) -> None:
    """`kill -9` of whoever started the services: there is nobody left to ask for a stop."""
    script = f"import os, subprocess, time; subprocess.Popen({home.command('PARENT')!r}"
    script = script.replace("'PARENT'", "str(os.getpid())") + ", start_new_session=True); time.sleep(36_000)"
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=home.folder, env=home.environment)
    wait_until(lambda: len(home.processes()) >= 15, "all to run")
    parent.kill()
    parent.wait()
    wait_until(lambda: not home.processes(), "all to end")


def test_when_the_guard_is_killed_all_end(home: Home) -> None:
    guard = home.start()
    wait_until(home.running, "all to run")
    guard.kill()
    guard.communicate(timeout=HANG_S)
    wait_until(lambda: not home.processes(), "all to end")


def test_when_the_supervisor_is_killed_all_end_and_its_guard_says_so(home: Home) -> None:
    guard = home.start()
    wait_until(home.running, "all to run")
    (supervisor,) = psutil.Process(guard.pid).children()
    supervisor.kill()
    assert guard.communicate(timeout=HANG_S)[0] == "supervisor -9\n"
    assert guard.returncode == 1
    assert home.processes() == []


def test_a_second_supervisor_in_the_same_home_is_refused(home: Home) -> None:
    first = home.start()
    wait_until(home.running, "all to run")
    second = home.start()
    _, said = second.communicate(timeout=HANG_S)
    assert second.returncode == 1
    assert "services.lock is held" in said
    assert home.running()
    first.terminate()
    first.communicate(timeout=HANG_S)
    assert home.processes() == []
