from __future__ import annotations

import datetime as dt
import math
import shutil
from pathlib import Path

import pytest

import tokenlake
from tests.sql.events import DAY, RETIRED, YAML, an_event, at, rows_of
from tokenlake._lake import Lake
from tokenlake.catalog import CheckpointRecord, IndexVersion, Plan


@pytest.fixture
def empty(tmp_path: Path) -> Lake:
    """A lake that holds nothing."""
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "tokenlake.yaml").write_text(YAML)
    return tokenlake.open(folder)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake that holds nothing, and that no test may change."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "tokenlake.yaml").write_text(YAML)
    return tokenlake.open(folder)


@pytest.fixture(scope="session")
def still(made: Path) -> Lake:
    """`lake`, for tests that only ask."""
    return tokenlake.open(made)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the lake that `lake` copies."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tokenlake.yaml").write_text(YAML)
    fill(tokenlake.open(folder))
    return folder


@pytest.fixture
def lake(made: Path, tmp_path: Path) -> Lake:
    """Three days, two users, two versions, a serving one among them."""
    shutil.copytree(made, tmp_path / "lake")
    return tokenlake.open(tmp_path / "lake")


def fill(lake: Lake) -> None:
    days = [DAY + dt.timedelta(i) for i in range(3)]
    # Event 2 and 3 of user 1 are a tie.
    rows = [an_event(1 + i % 2, 10 * d + i, day, 60.0 * (i // 4)) for d, day in enumerate(days) for i in range(6)]
    lake.events.append(rows_of(lake.events.schema, rows))
    serving, other = lake.config.version_of("iat"), lake.config.version_of("other")
    for version, value in ((serving, 1.0), (other, 2.0)):
        lake.catalog.add_version(version, version.split("-")[0], {})
        lake.catalog.add_checkpoint(CheckpointRecord(version, "2017-02-28", None, None, DAY, "x", 1))
        for day in days:
            tokens = [
                {**r, "token": [value, r["event_id"]], "version": version, "checkpoint": "2017-02-28"} for r in rows
            ]
            tokens = [row for row in tokens if row["ds"] == day]
            lake.instance_tokens.replace_day(day, rows_of(lake.instance_tokens.schema, tokens), version)
            lake.catalog.record_plan(Plan(version, day, "2017-02-28", None, None, DAY, DAY, day, day == DAY, 0))
            scores = [
                {**r, "model": "iat", "label": "clicked", "value": 0.25 + 0.5 * r["clicked"], "version": version}
                for r in tokens
            ]
            lake.predictions.replace_day(day, rows_of(lake.predictions.schema, scores), version)
    lake.catalog.promote(serving)
    refused = {"source": "x.csv", "row": "{}", "row_number": 3, "reason": "no user", "ingested_at": at(DAY), "ds": DAY}
    lake.quarantine.append(rows_of(lake.quarantine.schema, [refused]))
    with lake.catalog.run("train", DAY, serving) as run:
        run.metric("auc", 0.7, label="clicked")
        run.artefact("checkpoint", "x")
    fill_embeddings(lake)


def fill_embeddings(lake: Lake) -> None:
    """Vectors, edges and indexes of two versions: user 1 always, user 2 from the second day, user 3 on the first."""
    present = [[1, 3], [1, 2], [1, 2]]
    for version in (lake.config.embedding_version, RETIRED):
        for d, users in enumerate(present):
            day, checkpoint = DAY + dt.timedelta(d), f"{DAY + dt.timedelta(d - 1)}"
            own = {"version": version, "checkpoint": checkpoint, "ds": day, "available_at": at(day, 86_400)}
            for of, table in (("user", lake.user_embeddings), ("item", lake.item_embeddings)):
                rows = [{f"{of}_id": u, "embedding": vector(version, u, d), **own} for u in users]
                table.replace_day(day, rows_of(table.schema, rows), version)
            pairs = [(users[0], users[1], 0.25), (users[0], 9, 0.5), (users[0], 8, 0.25), (users[1], users[0], 1.0)]
            edges = [{"src": s, "dst": t, "weight": w + (version == RETIRED)} for s, t, w in pairs]
            edges = [{**e, "version": version, "ds": day} for e in edges]
            if d < 2 or version == RETIRED:
                lake.edges.replace_day(day, rows_of(lake.edges.schema, edges), version)
            recall = {"kind": "flat", "recall@10": 1.0 - d / 100}
            for name, stats in (("users", recall), ("graph", {"weights": "learned", "hits": 3.0})):
                lake.catalog.add_index(IndexVersion(name, version, checkpoint, day, "x", 2, at(day, 90_000), stats))


def vector(version: str, user: int, day: int) -> list[float]:
    angle = 0.3 * day * user + (version == RETIRED)
    return [float(x) for x in (math.cos(angle), math.sin(angle))]
