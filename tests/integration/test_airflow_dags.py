"""The DAG files as Airflow reads them, in a process of their own: importing Airflow warns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

DAGS = Path(__file__).parents[2] / "dags"
CONFIG = """
project: small shop
tokens:
  encoders: {plain: {scheme: temporal-order}, iat: {}}
  serving: iat
"""
PARSE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
import airflow.sdk
for name in ("Asset", "CronPartitionTimetable", "ExceptionRetryPolicy", "PartitionedAssetTimetable", "TaskGroup", "dag", "task"):
    getattr(airflow.sdk, name)  # these are imported late, and are Airflow's own cost
start = time.perf_counter()
bag = DagBag(sys.argv[1])
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "errors": bag.import_errors,
    "modules": sorted(sys.modules),
    "dags": {
        name: {
            "runs": dag.max_active_runs,
            "catchup": dag.catchup,
            "doc": dag.doc_md,
            "tasks": {
                task.task_id: {
                    "then": sorted(task.downstream_task_ids),
                    "outlets": [outlet.uri for outlet in task.outlets],
                    "retries": task.retries,
                    "doc": task.doc_md or task.python_callable.__doc__,
                }
                for task in dag.tasks
            },
        }
        for name, dag in bag.dags.items()
    },
}))
"""


def parse(home: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "TOKENLAKE_"))}
    clean |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"} | dict(environment)
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(DAGS)], env=clean, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return parsed


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    lake = tmp_path_factory.mktemp("lake")
    (lake / "tokenlake.yaml").write_text(CONFIG)
    return parse(tmp_path_factory.mktemp("home"), {"TOKENLAKE_LAKE": str(lake)})


def test_every_file_parses_into_one_documented_dag(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert sorted(parsed["dags"]) == sorted(file.stem for file in DAGS.glob("*.py"))
    for dag in parsed["dags"].values():
        assert dag["doc"]
        assert not dag["catchup"]
        assert all(task["doc"] and task["retries"] for task in dag["tasks"].values())


def test_head_publishes_the_asset_of_events(parsed: dict[str, Any]) -> None:
    head = parsed["dags"]["tokenlake_ingest"]
    assert head["runs"] == 1
    assert head["tasks"]["ingest"]["outlets"] == ["x-tokenlake://small%20shop/events"]


def test_each_encoder_has_its_own_chain_and_the_serving_one_the_plain_asset(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["tokenlake_instance_tokens"]["tasks"]
    assert {name: task["then"] for name, task in tasks.items()} == {
        f"{encoder}.{job}": [f"{encoder}.{then}"] if then else []
        for encoder in ("iat", "plain")
        for job, then in (("train", "encode"), ("encode", "publish"), ("publish", None))
    }
    assert {name: task["outlets"] for name, task in tasks.items() if task["outlets"]} == {
        "iat.publish": ["x-tokenlake://small%20shop/instance_tokens"],
        "plain.publish": ["x-tokenlake://small%20shop/instance_tokens/plain"],
    }


def test_several_days_of_tokens_may_be_active(parsed: dict[str, Any]) -> None:
    """With one, a day that started too early would keep out the very day that it waits for."""
    assert parsed["dags"]["tokenlake_instance_tokens"]["runs"] > 1


def test_parsing_is_cheap(parsed: dict[str, Any]) -> None:
    heavy = {"torch", "faiss", "feast", "ray", "duckdb", "deltalake", "pyarrow", "pandas", "sklearn"}
    ours = {name for name in parsed["modules"] if name.startswith("tokenlake")}
    assert not heavy & {name.partition(".")[0] for name in parsed["modules"]}
    assert not {name for name in ours if name.startswith(("tokenlake.pipeline", "tokenlake.lake", "tokenlake_"))}
    assert parsed["seconds"] < 2


def test_without_a_lake_airflow_shows_what_to_set(tmp_path: Path) -> None:
    errors = parse(tmp_path, {})["errors"]
    assert len(errors) == len(list(DAGS.glob("*.py")))
    assert all("TOKENLAKE_LAKE" in error for error in errors.values())
