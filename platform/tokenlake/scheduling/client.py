"""A client of Airflow's REST API, with the calls that the daily path of a lake needs."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Self

import httpx

from tokenlake.errors import NotFoundError, ServiceError
from tokenlake.scheduling import TAG

#: Called with the run (None before it exists) and its task states, whenever a state has changed.
OnChange = Callable[["DagRun | None", Mapping[str, str]], None]
#: Components that must be healthy before Airflow can run a task.
_PARTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")
_ENDED = frozenset({"success", "failed"})
_POLL = 0.5


@dataclass(frozen=True)
class DagRun:
    """One DAG run.

    Attributes:
        key: its partition, a day such as "2017-12-29".
        state: queued, running, success or failed.
        queued: when it was queued.
    """

    dag_id: str
    run_id: str
    key: str | None
    state: str
    queued: dt.datetime

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """Create a run from a JSON object of the API."""
        queued = dt.datetime.fromisoformat(answer["queued_at"] or answer["run_after"])
        return cls(answer["dag_id"], answer["dag_run_id"], answer["partition_key"], answer["state"], queued)

    @property
    def ended(self) -> bool:
        """Whether the run has ended, with success or failure."""
        return self.state in _ENDED


class Client:
    """A client of one Airflow.

    Args:
        url: of the api-server.
        user: name of a user.
        password: of that user.
        on_silence: called if Airflow cannot be reached; it may raise a more specific error.

    Errors of all methods: `ServiceError` (transient) where Airflow cannot be reached or answers with an error.
    """

    def __init__(self, url: str, user: str, password: str, *, on_silence: Callable[[], None] = lambda: None) -> None:
        self._on_silence = on_silence
        # Services on loopback: a proxy from the environment would get these requests, and the password.
        self._http = httpx.Client(
            base_url=url, auth=_TokenAuth(f"{url}/auth/token", user, password), timeout=120, trust_env=False
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def unhealthy(self) -> list[str]:
        """Components of Airflow that are not healthy (yet)."""
        try:
            health = self._http.get("/api/v2/monitor/health", auth=None).json()
        except (httpx.HTTPError, ValueError):
            return ["api-server"]
        return [part for part in _PARTS if (health.get(part) or {}).get("status") != "healthy"]

    def dags(self) -> dict[str, bool]:
        """DAG id -> whether it is paused."""
        return {dag["dag_id"]: dag["is_paused"] for dag in self._ask("GET", "/dags", params={"limit": 100})["dags"]}

    def import_errors(self) -> dict[str, str]:
        """DAG file -> its import error."""
        return {e["filename"]: e["stack_trace"] for e in self._ask("GET", "/importErrors")["import_errors"]}

    def unpause(self, dag_id: str, *, timeout: float = 600) -> None:
        """Unpause a DAG; waits until Airflow has parsed it.

        Raises:
            NotFoundError: Airflow has parsed the DAG folder, and there is no such DAG.
        """
        deadline = time.monotonic() + timeout
        while dag_id not in (dags := self.dags()):
            if (errors := self.import_errors()) or time.monotonic() > deadline:
                traces = "".join(f"\n{file}: {trace}" for file, trace in errors.items())
                raise NotFoundError(f"Airflow has no DAG {dag_id!r}; it has {sorted(dags)}{traces}")
            time.sleep(_POLL)
        if dags[dag_id]:
            self._ask("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, key: str | None) -> DagRun:
        """Start a run of one partition; the DAG is unpaused first, since a run of a paused DAG never starts.

        Args:
            dag_id: the DAG.
            key: the partition, a day such as "2017-12-29".
        """
        self.unpause(dag_id)
        body = {"logical_date": None, "partition_key": key}
        return DagRun.of(self._ask("POST", f"/dags/{dag_id}/dagRuns", json=body))

    def runs(self, dag_id: str, key: str | None = None) -> list[DagRun]:
        """A DAG's runs, newest first; of one partition where `key` is given."""
        params: dict[str, Any] = {"limit": 100, "order_by": "-run_after"}
        if key is not None:
            params["partition_key_pattern"] = key
        runs = [DagRun.of(run) for run in self._ask("GET", f"/dags/{dag_id}/dagRuns", params=params)["dag_runs"]]
        return [run for run in runs if key in (None, run.key)]

    def tasks(self, run: DagRun) -> list[dict[str, Any]]:
        """The task instances of a run: `task_id`, `state`, `try_number`, `start_date`, `end_date` and more."""
        answer = self._ask("GET", f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances", params={"limit": 1000})
        tasks: list[dict[str, Any]] = answer["task_instances"]
        return tasks

    def task_states(self, run: DagRun) -> dict[str, str]:
        """Task id -> state, `none` before it is scheduled; parts of a mapped task are named `embed[0]`, `embed[1]`, ..."""
        return {_name(task): task["state"] or "none" for task in self.tasks(run)}

    def result(self, run: DagRun, task_id: str, part: int = -1) -> Any:
        """The return value of a task, or of a part of a mapped task."""
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._ask("GET", path, params={"map_index": part})["value"]

    def log(self, run: DagRun, task_id: str, attempt: int = 1, part: int = -1) -> str:
        """One attempt's log, as text."""
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/logs/{attempt}"
        lines = self._ask("GET", path, params={"full_content": True, "map_index": part})["content"]
        return "\n".join(
            f"{line.get('timestamp', '')} {line.get('level', '')} {_message(line)}".strip() for line in lines
        )

    def flow(self) -> dict[str, set[tuple[str, str]]]:
        """Each unpaused DAG of Tokenlake -> the (DAG, task) pairs whose assets start it."""
        params = {"tags": TAG, "paused": False, "limit": 100}
        sources: dict[str, set[tuple[str, str]]] = {
            dag["dag_id"]: set() for dag in self._ask("GET", "/dags", params=params)["dags"]
        }
        for asset in self._ask("GET", "/assets", params={"limit": 1000})["assets"]:
            made_by = {(task["dag_id"], task["task_id"]) for task in asset["producing_tasks"]}
            for dag in asset["scheduled_dags"]:
                if dag["dag_id"] in sources:
                    sources[dag["dag_id"]] |= made_by
        return sources

    def asset_events(self, uri: str) -> list[dict[str, Any]]:
        """Events of an asset, newest first: `partition_key`, `extra`, `source_dag_id`, `timestamp` and more."""
        assets = self._ask("GET", "/assets", params={"uri_pattern": uri})["assets"]
        found = [asset["id"] for asset in assets if asset["uri"] == uri]
        if not found:
            raise NotFoundError(f"Airflow has no asset {uri!r}; it has {sorted(asset['uri'] for asset in assets)}")
        params = {"asset_id": found[0], "order_by": "-timestamp", "limit": 100}
        events: list[dict[str, Any]] = self._ask("GET", "/assets/events", params=params)["asset_events"]
        return events

    def wait(
        self,
        dag_id: str,
        key: str | None,
        *,
        since: DagRun | None = None,
        timeout: float = 600,
        progress: OnChange | None = None,
    ) -> DagRun:
        """Wait until a partition's newest run has ended, with success or failure.

        Args:
            dag_id: the DAG.
            key: the partition; None for the newest run of any partition.
            since: ignore runs queued before this one, such as the upstream run that `trigger` returned.
            timeout: seconds.
            progress: called at every change.

        Raises:
            ServiceError: the run has not ended within `timeout`; the message has the tasks' states.
        """
        deadline = time.monotonic() + timeout
        last: tuple[DagRun | None, dict[str, str]] | None = None
        while True:
            runs = [run for run in self.runs(dag_id, key) if since is None or run.queued >= since.queued]
            run = runs[0] if runs else None
            if progress:
                states = self.task_states(run) if run else {}
                if last != (run, states):
                    progress(run, states)
                last = run, states
            if run and run.ended:
                return run
            if time.monotonic() > deadline:
                states = self.task_states(run) if run else {}
                raise ServiceError(
                    f"{dag_id} of {key} has not ended within {timeout:g} s: {run.state if run else 'no run'}, {states}; "
                    f"its tasks' logs on Airflow's page say what holds it up"
                )
            time.sleep(_POLL)

    def wait_all(
        self, key: str, *, since: DagRun | None = None, timeout: float = 1800, progress: OnChange | None = None
    ) -> dict[str, DagRun | None]:
        """Wait until all of Tokenlake's DAGs have ended for a partition, upstream DAGs first.

        Args:
            key: the partition.
            since: ignore runs queued before this one, such as the run of `tokenlake_ingest` that `trigger` returned.
            timeout: seconds for all runs together.
            progress: called at every change of the run that is waited for.

        Returns:
            DAG id -> its run, upstream DAGs first; None for a DAG that was not started, because its upstream asset was
            not published (the day has no events, or an upstream task failed). Paused DAGs are left out.

        Raises:
            ServiceError: a run has not ended within `timeout`.
        """
        deadline = time.monotonic() + timeout
        sources = self.flow()
        order = TopologicalSorter({dag_id: {above for above, _ in made_by} for dag_id, made_by in sources.items()})
        ended: dict[str, DagRun | None] = {}
        for dag_id in order.static_order():
            made_by = sources.get(dag_id, set())
            starts = not made_by or any(self._published(ended.get(above), task) for above, task in made_by)
            left = deadline - time.monotonic()
            if dag_id in sources:
                ended[dag_id] = self.wait(dag_id, key, since=since, timeout=left, progress=progress) if starts else None
        return ended

    def _published(self, run: DagRun | None, task_id: str) -> bool:
        return run is not None and self.task_states(run).get(task_id) == "success"

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        try:
            answer = self._http.request(method, f"/api/v2{path}", **request)
        except httpx.HTTPError as error:
            self._on_silence()
            raise ServiceError(f"Airflow did not answer {method} {path}: {error!r}") from error
        if answer.is_error:
            raise ServiceError(f"Airflow answered {method} {path} with {answer.status_code}: {answer.text[:2000]}")
        return answer.json()


def _name(task: Mapping[str, Any]) -> str:
    part = f"[{task['map_index']}]" if task["map_index"] >= 0 else ""
    return f"{task['task_id']}{part}"


def _message(line: Mapping[str, Any]) -> str:
    errors = [f"{e['exc_type']}: {e['exc_value']}" for e in line.get("error_detail") or ()]
    return "\n".join([str(line.get("event", "")), *errors])


class _TokenAuth(httpx.Auth):
    """Logs in at the first request, and again when the token has expired."""

    requires_response_body = True

    def __init__(self, url: str, user: str, password: str) -> None:
        self._login = {"username": user, "password": password}
        self._url = url
        self._token: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
            if (yield request).status_code != httpx.codes.UNAUTHORIZED:
                return
        answer = yield httpx.Request("POST", self._url, json=self._login)
        if answer.is_error:
            return
        self._token = answer.json()["access_token"]
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request
