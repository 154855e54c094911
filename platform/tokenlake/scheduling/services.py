"""Starts Airflow's services: on loopback only, and with no process left after this one ends.

`airflow standalone` is not used: it listens on all addresses, and its workers can outlive it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tokenlake.errors import ConfigError, MissingExtraError, NotFoundError, ServiceError
from tokenlake.scheduling import DAGS_VARIABLE, LAKE_VARIABLE
from tokenlake.scheduling.client import Client

HOST = "127.0.0.1"
USER = "admin"
_POLL = 0.25
#: Seconds within which the supervisor stops all services after one has ended.
_STOPPED_WITHIN = 10.0
#: Seconds. On a laptop that is busy with other things Airflow's services are slow, not broken: its own limits, 5 to 50
#: seconds, would end them, or say that they are not well.
_PATIENCE = {
    "CORE__DAGBAG_IMPORT_TIMEOUT": "300",
    "DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600",
    "DAG_PROCESSOR__HEALTH_CHECK_THRESHOLD": "300",
    "DAG_PROCESSOR__STALE_DAG_THRESHOLD": "600",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "300",
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "3600",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "300",
    "TRIGGERER__RUNNER_HEALTH_CHECK_THRESHOLD": "300",
    "WORKERS__EXECUTION_API_TIMEOUT": "60",
}


class Services:
    """api-server, scheduler, dag-processor and triggerer, with Tokenlake's DAGs, on 127.0.0.1.

    Args:
        lake: folder of `tokenlake.yaml`; the DAGs work on it.
        home: Airflow's folder with its database, logs and the user's password; default `<lake>/airflow`.
        port: port of the web page and the REST API; 0 selects a free one.
        dags: folder of DAG files; default the environment's `TOKENLAKE_DAGS`, else the repository's `dags/`.
        database: SQLAlchemy URL of Airflow's database; default SQLite in `home`.
        parallelism: most tasks at a time.
        timeout: seconds to wait until all services are healthy.

    >>> with Services("demo/complete-journey") as airflow:  # doctest: +SKIP
    ...     head = airflow.trigger("tokenlake_ingest", "2017-12-29")
    ...     airflow.wait_all("2017-12-29", since=head)["tokenlake_instance_tokens"].state
    'success'

    Errors of `start` and of the `with` statement: `MissingExtraError` (Airflow is not installed), `ConfigError` (no DAG
    folder, or the port is in use), `ServiceError` (a service ended or is not healthy; with the end of its log).
    """

    def __init__(
        self,
        lake: Path | str,
        *,
        home: Path | str | None = None,
        port: int = 0,
        dags: Path | str | None = None,
        database: str | None = None,
        parallelism: int = 2,
        timeout: float = 180,
    ) -> None:
        self.lake = Path(lake).expanduser().resolve()
        self.home = Path(home).expanduser().resolve() if home else self.lake / "airflow"
        self.port = port
        self.timeout = timeout
        self._dags = dags
        self._database = database or f"sqlite:///{self.home / 'airflow.db'}?timeout=60"
        self._parallelism = parallelism
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of Airflow's web page and REST API."""
        return f"http://{HOST}:{self.port}"

    @property
    def password_file(self) -> Path:
        """JSON file `{user: password}`, readable by its owner only."""
        return self.home / "passwords.json"

    @property
    def logs(self) -> Path:
        """Folder of the services' logs, one file each."""
        return self.home / "logs" / "services"

    @property
    def pid(self) -> int | None:
        """Process id of the supervisor, while the services run; else None."""
        return self._supervisor.pid if self._supervisor else None

    def client(self) -> Client:
        """A client of the REST API, logged in as the generated user."""
        password = _read_json(self.password_file)[USER]
        return Client(self.url, USER, password, on_silence=lambda: self.check(patience=_STOPPED_WITHIN))

    def __enter__(self) -> Client:
        self.start()
        self._client = self.client()
        return self._client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self.stop()

    def start(self, progress: Callable[[str], None] | None = None) -> None:
        """Start all services and wait until they are healthy.

        Args:
            progress: called with what is waited for.
        """
        _require_airflow()
        self.port = _free_port(self.port)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        environment = self._environment()
        with (self.logs / "supervisor.log").open("wb") as log:
            self._supervisor = subprocess.Popen(  # noqa: S603  # our own module, by our own interpreter
                [sys.executable, "-P", "-m", "tokenlake.scheduling.supervisor", str(os.getpid()), str(self.logs)],
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C in the terminal reaches only this process, which stops the services in order
            )
        try:
            self._await_health(progress or (lambda _: None))
        except BaseException:
            self.stop()
            raise

    def airflow(self, *arguments: str) -> int:
        """Run one of Airflow's own commands with the services' settings, such as `backfill create`.

        Returns:
            The command's exit status.

        Raises:
            MissingExtraError: Airflow is not installed.
            NotFoundError: the services have never been started, so there is no database.
        """
        _require_airflow()
        if not self.password_file.exists():
            raise NotFoundError(f"{self.home} holds no Airflow yet; start it with `tokenlake airflow {self.lake}`")
        command = [sys.executable, "-P", "-m", "airflow", *arguments]
        return subprocess.run(command, cwd=self.home, env=self._environment(), check=False).returncode  # noqa: S603  our own interpreter

    def check(self, patience: float = 0) -> None:
        """Raise an error if the services have ended by themselves.

        Args:
            patience: seconds to wait for services that may be stopping.
        """
        if self._supervisor is None:
            return
        try:
            self._supervisor.wait(patience)
        except subprocess.TimeoutExpired:
            return
        raise ServiceError(self._why())

    def stop(self) -> None:
        """Stop all services, and wait until no process is left; a running job is killed, which is safe."""
        if self._supervisor is None:
            return
        self._supervisor.send_signal(signal.SIGTERM)
        self._supervisor.wait()
        self._supervisor = None

    def _await_health(self, progress: Callable[[str], None]) -> None:
        client = self.client()
        deadline = time.monotonic() + self.timeout
        try:
            while unhealthy := client.unhealthy():
                self.check()
                progress(", ".join(unhealthy))
                if time.monotonic() > deadline:
                    raise ServiceError(
                        f"Airflow did not get well within {self.timeout:g} s: {', '.join(unhealthy)}; logs in {self.logs}\n"
                        + "\n".join(self._tail(part.replace("_", "-")) for part in unhealthy)
                    )
                time.sleep(_POLL)
        finally:
            client.close()

    def _why(self) -> str:
        said = self._tail("supervisor", lines=1).split()
        name, status = said if len(said) == 2 else ("supervisor", "1")
        return f"Airflow's {name} ended with status {status}; its log is {self.logs / name}.log:\n{self._tail(name)}"

    def _tail(self, name: str, lines: int = 25) -> str:
        try:
            text = (self.logs / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return f"({name} has no log)"
        return "\n".join(text.splitlines()[-lines:])

    def _environment(self) -> dict[str, str]:
        """The environment of all services: this process's, with only these settings of Airflow."""
        secret = self._secrets()
        settings = {
            "CORE__DAGS_FOLDER": str(_dags_folder(self._dags)),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTOR": "tokenlake.scheduling.executor.PreloadedExecutor",
            "CORE__PARALLELISM": str(self._parallelism),
            "CORE__FERNET_KEY": secret["fernet_key"],
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.password_file),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__HOSTNAME_CALLABLE": "socket.gethostname",  # the default queries the network's name server
            "DATABASE__SQL_ALCHEMY_CONN": self._database,
            "DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "API__HOST": HOST,
            "API__PORT": str(self.port),
            "API__BASE_URL": self.url,
            "API__WORKERS": "1",
            "API__SECRET_KEY": secret["session_key"],
            "API_AUTH__JWT_SECRET": secret["token_key"],
            "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            # A job that was killed with the services is detected, and tried again, soon after they are started again.
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        environment |= {f"AIRFLOW__{name}": value for name, value in (settings | _PATIENCE).items()}
        environment |= {"AIRFLOW_HOME": str(self.home), LAKE_VARIABLE: str(self.lake)}
        for name in ("no_proxy", "NO_PROXY"):  # tasks talk to the api-server by HTTP
            environment[name] = ",".join(filter(None, (environment.get(name), HOST)))
        return environment

    def _secrets(self) -> dict[str, str]:
        """Keys and the password, created once; they are never written to a log or a command line."""
        if not self.password_file.exists():
            _write_private(self.password_file, {USER: secrets.token_urlsafe(12)})
        file = self.home / "secrets.json"
        if not file.exists():
            from cryptography.fernet import Fernet

            names = ("session_key", "token_key")
            _write_private(
                file,
                {"fernet_key": Fernet.generate_key().decode()} | {name: secrets.token_urlsafe(48) for name in names},
            )
        return _read_json(file)


def _require_airflow() -> None:
    from importlib.util import find_spec

    if find_spec("airflow") is None:
        raise MissingExtraError("Airflow is not installed; `pip install 'tokenlake[airflow]'` does it")


def _dags_folder(given: Path | str | None) -> Path:
    here = Path(__file__).resolve().parents[3] / "dags"
    folder = Path(given or os.environ.get(DAGS_VARIABLE) or here).expanduser().resolve()
    if not any(folder.glob("*.py")):
        raise ConfigError(
            f"{folder} holds no DAG files; set {DAGS_VARIABLE} to the folder `dags` of Tokenlake's repository"
        )
    return folder


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of {HOST} cannot be had ({error.strerror}); choose another, or 0 for a free one"
            ) from error
        return int(probe.getsockname()[1])


def _read_json(file: Path) -> dict[str, str]:
    content: dict[str, str] = json.loads(file.read_text())
    return content


def _write_private(file: Path, content: dict[str, str]) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        json.dump(content, stream)
