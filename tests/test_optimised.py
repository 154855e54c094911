"""`python -O` drops every `assert`: what is promised to be refused is refused all the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

PREPARED = """
import datetime as dt, tempfile
from pathlib import Path
import numpy as np, pyarrow as pa
import tokenlake
from tokenlake.times import as_day
assert False, "python -O drops this"
root = Path(tempfile.mkdtemp())
(root / "tokenlake.yaml").write_text("events: {features: {kind: categorical}, labels: {clicked: {}}}")
lake = tokenlake.open(root)
day = dt.date(2024, 1, 1)
"""
#: What is done, and the error that is promised.
REFUSED = {
    "from tokenlake.evaluation.variants import variants; variants(lake)": "ConfigError: tokenlake.yaml has no `embeddings`",
    "from tokenlake.features.user_inputs import UserFeaturizer; UserFeaturizer(lake.config)": "ConfigError: tokenlake.yaml has no `embeddings`",
    "from tokenlake.features.activity import EventDayCache; lake.shared(EventDayCache).read(day, day, None).positives": "ConfigError: tokenlake.yaml has no `embeddings`",
    "from tokenlake.features.activity import EventDayCache; lake.shared(EventDayCache).read(day, day, None).sources": "ConfigError: tokenlake.yaml has no `embeddings`",
    "lake.index()": "ConfigError: tokenlake.yaml has no `embeddings`",
    "lake.candidates([1], [1])": "ConfigError: tokenlake.yaml has no `embeddings`",
    """
from tokenlake.catalog import Plan
from tokenlake.pipeline.training import train_checkpoint
train_checkpoint(lake, Plan(lake.resolve(), day, "2023-12-31", None, None, None, day, day, False, 0))
""": "NotFoundError: the plan of 2024-01-01 takes checkpoint 2023-12-31",
    "from tokenlake.commands.demo import _landing_days; _landing_days(lake)": "ConfigError: .*names no `landing`",
    "tokenlake.TokenStore.create(root / 's', dim=2).fetch([1.5], before=1)": "SchemaError: users: dtype float64 given",
    "tokenlake.TokenStore.create(root / 't', dim=2).write_day(day, [1], [0], [[1.0, np.nan]])": "SchemaError: tokens: nan",
    "lake.ingest(pa.table({'user_id': [1]}))": "SchemaError",
    "lake.sql('drop table events')": "ForbiddenError",
    "as_day(1)": "SchemaError: 1 is not a day",
}


ASK = """
import json, sys
told = {}
for code in json.load(sys.stdin):
    try:
        exec(code)
    except Exception as error:
        told[code] = f"{type(error).__name__}: {error}"
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each says, all in one process, which imports everything once."""
    command = [sys.executable, "-O", "-W", "error", "-c", PREPARED + ASK]
    folder = tmp_path_factory.mktemp("optimised")
    done = subprocess.run(
        command, input=json.dumps(list(REFUSED)), capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("code", REFUSED, ids=lambda code: code.strip().splitlines()[-1][:60])
def test_promised_errors_without_asserts(code: str, told: dict[str, str]) -> None:
    assert re.match(REFUSED[code], told.get(code, "nothing was refused"))
