"""docker-compose.yml and Dockerfile, as far as they can be judged without an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"airflow-init", "databases", "job"}
KEYS = {
    *("build", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "init"),
    *("ports", "profiles", "restart", "volumes"),
}


def test_the_services_are_these() -> None:
    airflow = {f"airflow-{name}" for name in ("api-server", "scheduler", "dag-processor", "triggerer")}
    assert SERVICES.keys() == airflow | ONCE | {"postgres", "redis"}
    assert COMPOSE.keys() == {"name", "x-job", "services", "volumes"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_whole(name: str) -> None:
    service = SERVICES[name]
    assert service.keys() <= KEYS
    assert service["image"]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    if name not in ONCE:
        check = service["healthcheck"]
        assert check.keys() >= {"test", "interval", "timeout", "retries"}
        assert check["test"][0] in {"CMD", "CMD-SHELL"}
    for other, how in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert (other in SERVICES, how) == (True, {"condition": expected})
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")
    for volume in service.get("volumes", []):
        source = volume.rpartition(":")[0]
        assert source in COMPOSE["volumes"] or source == "${TOKENLAKE_LAKE:?must be set}"
    assert all(isinstance(value, str) for value in service.get("environment", {}).values())


def test_no_secret_stands_in_the_file() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD$|_KEY$|SECRET$|_AUTH$|CONN$|CATALOG$|REDIS$|REGISTRY$", name):
                assert re.search(r"\$\{[A-Z_]+:\?must be set\}", value), name
    assert not re.search(r"://\w+:[^$@/]+@", TEXT)


def test_airflow_catalog_and_registry_are_on_postgres_and_apart() -> None:
    names = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "airflow",
        "TOKENLAKE_CATALOG": "tokenlake",
        "TOKENLAKE_REGISTRY": "feast",
    }
    for service in SERVICES:
        if service.startswith("airflow-") or service == "job":
            for variable, database in names.items():
                url = SERVICES[service]["environment"][variable]
                assert url.startswith("postgresql+psycopg2://")
                assert url.endswith(f"@postgres:5432/{database}")
    made = SERVICES["databases"]
    assert made["environment"]["PGDATABASE"] == "tokenlake"
    assert "for name in airflow feast;" in made["command"][-1]


def test_every_service_that_runs_jobs_waits_for_what_they_write_to() -> None:
    for name in ("airflow-scheduler", "airflow-api-server", "job"):
        assert "redis" in SERVICES[name]["depends_on"]
    assert SERVICES["airflow-scheduler"]["environment"]["TOKENLAKE_REDIS"].startswith("redis:6379,")


def test_what_the_image_is_built_from_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    sources = {source for line in copied for source in line.split()}
    assert all((ROOT / source).exists() for source in sources)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == sources


def test_variables_are_told_in_the_docs() -> None:
    told = (ROOT / "docs" / "airflow.md").read_text()
    assert not {name for name in re.findall(r"\$\{([A-Z_]+)", TEXT) if f"`{name}`" not in told}
