"""The DAG files as Airflow reads them, in a process of their own: importing Airflow warns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
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
EMBEDDINGS = "embeddings: {buckets: 3}\n"
MODELS = """
events: {labels: {clicked: }}
models:
  both: {ensemble: [history, counts]}
  history: {sequences: {s: {of: tokens}}}
  counts: {}
"""
DEFINITIONS = "raise RuntimeError('parsing ran this'); TokenSource()"
ASSETS = "x-tokenlake://small%20shop/"
PARSE = """
import inspect, json, sys, time
from airflow.dag_processing.dagbag import DagBag
import airflow.sdk
for name in ("Asset", "CronPartitionTimetable", "ExceptionRetryPolicy", "PartitionedAssetTimetable", "TaskGroup", "dag", "task"):
    getattr(airflow.sdk, name)  # these are imported late, and are Airflow's own cost
def waits_for(condition):
    uris = [asset.uri for asset in getattr(condition, "objects", [condition])] if condition else []
    return uris[0] if len(uris) == 1 else sorted(uris) or None
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
            "paused": dag.is_paused_upon_creation,
            "waits_for": waits_for(getattr(dag.timetable, "asset_condition", None)),
            "tasks": {
                task.task_id: {
                    "then": sorted(task.downstream_task_ids),
                    "outlets": [outlet.uri for outlet in task.outlets],
                    "retries": task.retries,
                    "doc": task.doc_md or task.python_callable.__doc__,
                    "async": inspect.iscoroutinefunction(task.python_callable),
                    "parts": task.op_kwargs_expand_input.value if task.is_mapped else None,
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


def parse_lake(tmp_path_factory: pytest.TempPathFactory, config: str, definitions: str | None = None) -> dict[str, Any]:
    lake = tmp_path_factory.mktemp("lake")
    (lake / "tokenlake.yaml").write_text(config)
    if definitions is not None:
        (lake / "feature_repo").mkdir()
        (lake / "feature_repo" / "feature_store.yaml").touch()
        (lake / "feature_repo" / "definitions.py").write_text(definitions)
    return parse(tmp_path_factory.mktemp("home"), {"TOKENLAKE_LAKE": str(lake)})


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All there is."""
    return parse_lake(tmp_path_factory, CONFIG + EMBEDDINGS + MODELS, DEFINITIONS)


@pytest.fixture(scope="module")
def tokens_only(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return parse_lake(tmp_path_factory, CONFIG)


def test_every_file_parses_into_one_documented_dag(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert sorted(parsed["dags"]) == sorted(file.stem for file in DAGS.glob("*.py"))
    for dag in parsed["dags"].values():
        assert dag["doc"]
        assert not dag["catchup"]
        assert all(task["doc"] and task["retries"] for task in dag["tasks"].values())


def test_only_what_is_configured_is_there(tokens_only: dict[str, Any]) -> None:
    assert tokens_only["errors"] == {}
    assert sorted(tokens_only["dags"]) == ["tokenlake_ingest", "tokenlake_instance_tokens"]


def test_feast_needs_no_embeddings_and_no_tokens(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its statistics are of events."""
    dags = parse_lake(tmp_path_factory, CONFIG, "no = 1")["dags"]
    assert sorted(dags) == ["tokenlake_feast", "tokenlake_ingest", "tokenlake_instance_tokens"]
    assert dags["tokenlake_feast"]["waits_for"] == f"{ASSETS}events"


@pytest.mark.slow
def test_counts_that_are_served_have_a_task(parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a lake that serves none there is none: a skipped task would skip those after it."""
    block = "counts: {visits: {by: user}, pairs: {by: [user, item]}}\n"
    tasks = parse_lake(tmp_path_factory, CONFIG + block, DEFINITIONS)["dags"]["tokenlake_feast"]["tasks"]
    assert {name: task["then"] for name, task in tasks.items()} == {
        "statistics": ["materialize"],
        "counts": ["materialize"],
        "materialize": [],
    }
    for lake in (parsed, parse_lake(tmp_path_factory, CONFIG + block.replace("visits: {by: user}, ", ""), DEFINITIONS)):
        assert sorted(lake["dags"]["tokenlake_feast"]["tasks"]) == ["materialize", "statistics"]


def test_each_dag_waits_for_one_asset(parsed: dict[str, Any]) -> None:
    assert {name: dag["waits_for"] for name, dag in parsed["dags"].items()} == {
        "tokenlake_ingest": None,
        "tokenlake_instance_tokens": f"{ASSETS}events",
        "tokenlake_user_embeddings": f"{ASSETS}events",
        "tokenlake_index": f"{ASSETS}user_embeddings",
        "tokenlake_graph": f"{ASSETS}index",
        "tokenlake_feast": f"{ASSETS}user_embeddings",
        "tokenlake_feast_tokens": f"{ASSETS}instance_tokens",
        "tokenlake_models": f"{ASSETS}instance_tokens",
    }


def test_only_the_head_is_for_a_person_to_unpause(parsed: dict[str, Any]) -> None:
    assert {name: dag["paused"] for name, dag in parsed["dags"].items() if dag["paused"] is not False} == {
        "tokenlake_ingest": None
    }


def test_head_publishes_the_asset_of_events(parsed: dict[str, Any]) -> None:
    head = parsed["dags"]["tokenlake_ingest"]
    assert head["runs"] == 1
    assert head["tasks"]["ingest"]["outlets"] == [f"{ASSETS}events"]


def test_each_encoder_has_its_own_chain_and_the_serving_one_the_plain_asset(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["tokenlake_instance_tokens"]["tasks"]
    chain = ("earlier_days", "train", "encode", "publish", None)
    assert {name: task["then"] for name, task in tasks.items()} == {
        f"{encoder}.{job}": [f"{encoder}.{then}"] if then else []
        for encoder in ("iat", "plain")
        for job, then in pairwise(chain)
    }
    assert {name: task["outlets"] for name, task in tasks.items() if task["outlets"]} == {
        "iat.publish": [f"{ASSETS}instance_tokens"],
        "plain.publish": [f"{ASSETS}instance_tokens/plain"],
    }


def test_each_model_has_its_own_chain_and_an_ensemble_follows_its_members(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["tokenlake_models"]["tasks"]
    chain = {"earlier_days": ["train"], "train": ["predict"], "predict": []}
    expected = {
        f"{model}.{job}": [f"{model}.{t}" for t in then]
        for model in ("both", "counts", "history")
        for job, then in chain.items()
    }
    expected |= {f"{member}.predict": ["both.earlier_days"] for member in ("counts", "history")}
    assert {name: task["then"] for name, task in tasks.items()} == expected
    assert {name: task["outlets"] for name, task in tasks.items() if task["outlets"]} == {
        f"{model}.predict": [f"{ASSETS}predictions/{model}"] for model in ("both", "counts", "history")
    }


@pytest.mark.parametrize(
    ("models", "assets"),
    [
        ("{a: {}}", "events"),
        ("{a: {sequences: {s: {of: tokens, encoder: plain}}}}", "instance_tokens/plain"),
        (
            "{a: {sequences: {s: {of: tokens}, t: {of: tokens, encoder: plain}}}, b: {}}",
            "instance_tokens instance_tokens/plain",
        ),
    ],
)
def test_models_wait_for_all_that_any_of_them_reads(
    models: str, assets: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dags = parse_lake(tmp_path_factory, f"{CONFIG}models: {models}\n")["dags"]
    uris = [f"{ASSETS}{name}" for name in assets.split()]
    assert dags["tokenlake_models"]["waits_for"] == (uris[0] if len(uris) == 1 else uris)


def test_users_are_embedded_in_as_many_parts_as_the_config_says(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["tokenlake_user_embeddings"]["tasks"]
    assert {name: task["then"] for name, task in tasks.items()} == {
        job: [then] if then else [] for job, then in pairwise(("earlier_days", "train", "embed", "gather", None))
    }
    assert {name: task["parts"] for name, task in tasks.items() if task["parts"]} == {"embed": {"bucket": [0, 1, 2]}}
    assert tasks["gather"]["outlets"] == [f"{ASSETS}user_embeddings"]


def test_what_only_waits_is_async(parsed: dict[str, Any]) -> None:
    waiting = {(name, t) for name, dag in parsed["dags"].items() for t, task in dag["tasks"].items() if task["async"]}
    assert waiting == {
        ("tokenlake_instance_tokens", "iat.earlier_days"),
        ("tokenlake_instance_tokens", "plain.earlier_days"),
        ("tokenlake_user_embeddings", "earlier_days"),
        *(("tokenlake_models", f"{model}.earlier_days") for model in ("both", "counts", "history")),
    }


def test_several_days_may_be_active(parsed: dict[str, Any]) -> None:
    """With one, a day that started too early would keep out the very day that it waits for."""
    assert all(dag["runs"] > 1 for name, dag in parsed["dags"].items() if name != "tokenlake_ingest")


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
