from __future__ import annotations

import datetime as dt
import json
from contextlib import suppress
from pathlib import Path

from click.testing import CliRunner

from tests.fixtures.servers import Server
from tests.sql.events import DAY
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import OrderError
from tokenlake.times import day_start
from tokenlake.tokens.store import TokenStore


def show(lake: Lake, *arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["status", str(lake.root), *arguments], catch_exceptions=False
    )
    assert result.exit_code == 0
    return result.output


def test_an_empty_lake(empty: Lake) -> None:
    assert "No events yet: tokenlake ingest" in show(empty)
    facts = json.loads(show(empty, "--json"))
    assert facts["freshness"] == {
        "last_event_day": None,
        "last_published_day": None,
        "days_behind": 0,
        "last_published_at": None,
    }
    assert [table["rows"] for table in facts["tables"]] == [0, 0]


def test_what_is_there_and_what_is_missing(lake: Lake) -> None:
    version = lake.resolve()
    with lake.catalog.run("publish", DAY, version):
        pass
    with suppress(OrderError), lake.catalog.run("train", DAY + dt.timedelta(2), version):
        raise OrderError("must wait for [2017-03-02]")
    lake.catalog.mark_rerun([DAY], "late events")
    store = TokenStore.create(lake.store_path(version), dim=2, side={"clicked": "int8"})
    store.write_day(DAY, [1], [day_start(DAY)], [[1.0, 0.0]], side={"clicked": [0]})
    store.append([1], [0], [[0.0, 1.0]], side={"clicked": [1]})

    facts = json.loads(show(lake, "--json"))
    serving = next(v for v in facts["versions"] if v["state"] == "serving")
    assert serving["version"] == version
    assert serving["missing"] == ["2017-03-02", "2017-03-03"]
    assert serving["rerun"] == serving["bootstrap"] == ["2017-03-01"]
    assert serving["store"]["tail_rows"] == 1
    assert facts["freshness"]["days_behind"] == 2
    assert facts["freshness"]["last_published_day"] == "2017-03-01"
    rows = {(table["table"], table["version"]): table["rows"] for table in facts["tables"]}
    assert rows["events", None] == rows["instance_tokens", version] == rows["predictions", version] == 18
    assert [error["kind"] for error in facts["errors"]] == ["transient"]

    shown = show(lake)
    assert "must wait for [2017-03-02]" in shown
    assert "1/3" in shown
    assert "published up to 2017-03-01" in shown
    assert "2 days with events are not published, 1 wait to be run again: tokenlake backfill" in shown


def test_a_tail_whose_server_is_away(lake: Lake, tmp_path: Path) -> None:
    server = Server(tmp_path)
    store = TokenStore.create(lake.store_path(lake.resolve()), dim=2, tail=server.url)
    store.append([1], [0], [[0.0, 1.0]])
    facts = json.loads(show(lake, "--json"))
    assert facts["versions"][0]["store"]["tail"] == server.url
    server.kill()
    assert "unreachable" in show(lake)
    facts = json.loads(show(lake, "--json"))
    assert "does not answer" in facts["versions"][0]["store"]["unreachable"]


def test_a_mended_error_is_not_told(lake: Lake) -> None:
    with suppress(OSError), lake.catalog.run("encode", DAY, "v"):
        raise OSError("disk")
    assert "disk" in show(lake)
    with lake.catalog.run("encode", DAY, "v"):
        pass
    assert json.loads(show(lake, "--json"))["errors"] == []
    assert "disk" not in show(lake)


def test_the_embeddings_lineage(lake: Lake) -> None:
    version, folder = lake.config.embedding_version, lake.data / "retrieval"
    for d in range(2):
        with lake.catalog.run("embed", DAY + dt.timedelta(d), version):
            pass
    facts = json.loads(show(lake, "--json"))["embeddings"]
    assert not folder.exists()
    expected = {
        "version": version,
        "embedded": 2,
        "missing": ["2017-03-03"],
        "last_embedded_day": "2017-03-02",
        "index_day": "2017-03-03",
        "index_kind": "flat",
        "recall@10": {"users": 0.98},
        "index_current": False,
        "graph_day": "2017-03-03",
        "graph_weights": "learned",
    }
    assert {name: facts[name] for name in expected} == expected
    assert [(run["job"], run["day"]) for run in facts["last_runs"]] == [("embed", "2017-03-02")]
    shown = show(lake)
    assert "Embedded up to 2017-03-02" in shown
    assert "users 0.980" in shown
    assert "2017-03-03 (learned)" in shown


def test_a_lake_without_embeddings_shows_none(empty: Lake) -> None:
    file = empty.root / "tokenlake.yaml"
    file.write_text(file.read_text().replace("embeddings: {}", ""))
    assert json.loads(show(empty, "--json"))["embeddings"] is None
    assert "recall@10" not in show(empty)
