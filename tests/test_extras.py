"""What needs an optional package says which extra brings it; what needs none works without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.embedded import SEEN_LEFT_OUT
from tests.fixtures.lakes import day, make_events, make_lake
from tokenlake._lake import Lake
from tokenlake.errors import MissingExtraError, missing_extra


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("lacking"), SEEN_LEFT_OUT)
    lake.ingest(make_events(days=2, users=3, per_day=8))
    return lake


def without(blocked: str, *words: object) -> tuple[int, str]:
    """Run the command line in a process in which some packages cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked.split()!r}))"
    code = f"{block}; from tokenlake.cli import main; sys.argv[0] = 'tokenlake'; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_training_needs_torch(lake: Lake) -> None:
    for words in (("run", lake.root, day(0)), ("backfill", lake.root), ("evaluate", lake.root)):
        code, told = without("torch", *words)
        assert code == 1, told
        assert "MissingExtraError: torch is not installed; `pip install 'tokenlake[train]'` brings it" in told, words
        assert "Traceback" not in told
    assert {(run.error_type, run.error_kind) for run in lake.catalog.runs(job="train")} == {
        ("MissingExtraError", "terminal")
    }


def test_the_peer_needs_lightgbm(lake: Lake) -> None:
    code, told = without("lightgbm", "evaluate", lake.root, "--part", "counts")
    assert code == 1
    assert "MissingExtraError: lightgbm is not installed; `pip install 'tokenlake[peers]'` brings it" in told
    assert "Traceback" not in told


def test_an_index_needs_faiss(lake: Lake) -> None:
    for job in ("train_embeddings", "embed"):
        from tokenlake.pipeline import jobs

        getattr(jobs, job)(lake, day(0), lake.config.embedding_version)
    code, told = without("faiss", "index", lake.root)
    assert code == 1
    assert "MissingExtraError: faiss is not installed; `pip install 'tokenlake[cpu]'` (or `[gpu]`) brings it" in told
    assert "Traceback" not in told


def test_what_needs_none_works_without(lake: Lake) -> None:
    for words in (("status", lake.root), ("sql", lake.root, "-c", "from freshness()"), ("verify", lake.root)):
        code, told = without("torch faiss feast airflow networkx", *words)
        assert code == 0, told


def test_airflow_says_what_brings_it(lake: Lake) -> None:
    code, told = without("airflow", "airflow", lake.root)
    assert code == 1, told
    assert "`pip install 'tokenlake[airflow]'`" in told


def test_packages_and_their_extras() -> None:
    for package, extra in (("torch", "train"), ("faiss", "cpu"), ("feast", "feast"), ("airflow", "airflow")):
        error = missing_extra(ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.inner"))
        assert isinstance(error, MissingExtraError)
        assert f"tokenlake[{extra}]" in str(error)
    assert missing_extra(ModuleNotFoundError("No module named 'typo'", name="typo")) is None
    assert missing_extra(ModuleNotFoundError("?")) is None


def test_every_extra_named_exists() -> None:
    import tomllib

    from tokenlake import errors

    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(errors._EXTRAS.values()) <= declared["optional-dependencies"].keys()
