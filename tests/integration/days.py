"""What the tests of real Airflows share: a small lake's config, and what a day of all DAGs must leave."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil

from tests.fixtures.feast_lakes import online
from tokenlake._lake import Lake
from tokenlake.feast import repository
from tokenlake.scheduling.client import DagRun
from tokenlake.times import day_start

CONFIG = """
project: small
landing: landing/{ds}/*.parquet
events:
  id: event_id
  features: {genre: {kind: categorical, of: item}, price: numeric}
  labels: {clicked: {}}
tokens:
  encoders: {iat: {dim: 8, width: 16, embedding: 4, history: 16, sit_heads: 2, batch: 64}}
embeddings: {dim: 8, width: 16, queries: 2, history: 16}
models:
  ranker: {width: 8, embedding: 4, layers: 1, batch: 32, sequences: {history: {of: tokens, length: 8, width: 8}}}
"""
COLUMNS = ["event_id", "user_id", "item_id", "timestamp", "genre", "price", "clicked"]
#: Asset -> the DAG and task that publish it.
PUBLISHED = {
    "events": ("tokenlake_ingest", "ingest"),
    "instance_tokens": ("tokenlake_instance_tokens", "iat.publish"),
    "user_embeddings": ("tokenlake_user_embeddings", "gather"),
    "feast": ("tokenlake_feast", "materialize"),
    "index": ("tokenlake_index", "index"),
    "graph": ("tokenlake_graph", "graph"),
    "feast_tokens": ("tokenlake_feast_tokens", "materialize"),
    "predictions/ranker": ("tokenlake_models", "ranker.predict"),
}
ALL = [dag_id for dag_id, _ in PUBLISHED.values()]
#: A view over a `TokenSource`, beside whatever the repository defines already.
TOKENS = """
from tokenlake.feast import TokenSource

last_tokens = FeatureView(
    name="last_tokens",
    entities=[user],
    schema=[Field(name="tokens", dtype=Array(Float32))],
    source=TokenSource(name="last_tokens", stream="iat", length=4, side=False),
)
"""


def write_feature_repository(root: Path) -> None:
    """As `tokenlake init` does, and a view of each user's last tokens."""
    repository.write(root)
    path = root / repository.FOLDER / repository.DEFINITIONS_FILE
    path.write_text(path.read_text() + TOKENS)


def states(runs: Mapping[str, DagRun | None]) -> dict[str, str | None]:
    """DAG id -> state of its run, None without one."""
    return {dag_id: run.state if run else None for dag_id, run in runs.items()}


def processes_of(home: Path) -> list[psutil.Process]:
    """All of the services' processes: they keep the home as their current folder, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(home):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def assert_feast_answers(lake: Lake, day: dt.date) -> None:
    """Feast's online store holds the day's vectors and statistics of everyone, and the tokens of until its end."""
    rows = lake.user_embeddings.read(day=day, version=lake.config.embedding_version)
    users, vectors = rows["user_id"].to_pylist(), rows["embedding"].to_pylist()
    counted = lake.user_statistics.read(day=day)
    events = dict(zip(counted["user_id"].to_pylist(), counted["events"].to_pylist(), strict=True))
    batch = lake.tokens().fetch(users, before=day_start(day + dt.timedelta(days=1)), length=4)
    answers = online(lake, users, ["user_embeddings:embedding", "user_statistics:events", "last_tokens:tokens"])
    assert users
    assert [answer["events"] for answer in answers] == [events[user] for user in users]
    np.testing.assert_array_equal(np.array([answer["embedding"] for answer in answers]), np.array(vectors))
    for answer, tokens in zip(answers, np.split(batch.values, batch.offsets[1:-1]), strict=True):
        assert tokens.size
        np.testing.assert_array_equal(answer["tokens"], tokens.ravel())
