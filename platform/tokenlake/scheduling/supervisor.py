"""The supervisor: a process that starts Airflow's services, and ends all their processes when it ends.

Airflow puts each task into its own process group, so a signal to one group does not reach the tasks; and if the process
that started the services is killed, they would keep running. So the supervisor adopts orphans (Linux's child subreaper),
and watches the process that started it. It runs in a child process, and parent and child watch each other: if one is
killed, the other ends everything. Started as `python -m tokenlake.scheduling.supervisor PARENT LOGS` in Airflow's home,
with Airflow's settings in its environment; this module does not import Airflow.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tokenlake.errors import LockedError
from tokenlake.storage.locks import hold

#: Without `--skip-serve-logs` two of the services serve log files on all addresses.
SERVICES = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TICK = 0.1
#: Seconds until the processes of a service that does not end are killed. The jobs are safe to kill.
_GRACE = 5.0


class Supervisor:
    """Starts the services, watches them, and stops all of them.

    Args:
        parent: id of the process to watch; when it ends, in whatever way, all services are ended.
        logs: folder of the services' logs.
    """

    def __init__(self, parent: int, logs: Path) -> None:
        self.parent = parent
        self.logs = logs
        self.stopping = False

    def run(self) -> int:
        """Run until a stop; returns 0 after a requested stop, 1 if a service ended by itself.

        Raises:
            LockedError: services are already running in this home.
        """
        for number in _STOPS:
            signal.signal(number, self._stop)
        _prctl(_PR_SET_CHILD_SUBREAPER)
        with hold(Path("services.lock"), "Airflow's services"):
            try:
                return self._watch()
            finally:
                end_all()

    def _watch(self) -> int:
        migration = self._start("db-migrate", ("db", "migrate"))
        while self._wanted() and migration.poll() is None:
            time.sleep(_TICK)
        if not self._wanted():
            return 0
        if migration.returncode:
            return _report("db-migrate", migration.returncode)
        services = {name: self._start(name, command) for name, command in SERVICES.items()}
        while self._wanted():
            for name, service in services.items():
                if service.poll() is not None:
                    return _report(name, service.returncode)
            time.sleep(_TICK)
        return 0

    def _start(self, name: str, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603  # the commands above, by our own interpreter
                [sys.executable, "-P", "-m", "airflow", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent,  # the supervisor has one thread
            )

    def _wanted(self) -> bool:
        return not self.stopping and os.getppid() == self.parent

    def _stop(self, *_: object) -> None:
        self.stopping = True


def guard(parent: int, logs: Path) -> int:
    """Run a supervisor in a child process, and end its remaining processes if it is killed.

    Args:
        parent: id of the process to watch.
        logs: folder of the services' logs.

    Returns:
        The supervisor's exit status.
    """
    here = os.getpid()
    if not (supervisor := os.fork()):
        return Supervisor(here, logs).run()

    def stop(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(supervisor, signal.SIGTERM)

    for number in _STOPS:
        signal.signal(number, stop)
    _prctl(_PR_SET_CHILD_SUBREAPER)
    ended = status = 0
    while not ended:
        if os.getppid() != parent:
            stop()
        time.sleep(_TICK)
        ended, status = os.waitpid(supervisor, os.WNOHANG)
    end_all()
    if os.WIFSIGNALED(status):
        return _report("supervisor", -os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def _report(name: str, status: int) -> int:
    sys.stdout.write(f"{name} {status}\n")
    sys.stdout.flush()
    return 1


def end_all() -> None:
    """End all descendants of this process, orphans and other process groups included."""
    deadline = time.monotonic() + _GRACE
    asked: set[int] = set()
    while processes := psutil.Process().children(recursive=True):
        for process in processes:
            try:
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in asked:
                    process.terminate()
            except psutil.NoSuchProcess:
                pass
            asked.add(process.pid)
        psutil.wait_procs(processes, timeout=_TICK)
        _reap()


def _reap() -> None:
    """Wait for adopted processes that have ended; otherwise they would stay as zombies."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM if the supervisor is killed."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int = 1) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    try:
        sys.exit(guard(int(sys.argv[1]), Path(sys.argv[2])))
    except LockedError as error:
        sys.exit(str(error))
