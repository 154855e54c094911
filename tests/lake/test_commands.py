from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import tokenlake
from tests.lake.events import dense
from tokenlake.cli import app
from tokenlake.config import Config
from tokenlake.errors import ConfigError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_init_guesses_and_ingest_reports(tmp_path: Path) -> None:
    sample, lake = tmp_path / "events.parquet", tmp_path / "lake"
    rows = dense(100)
    tags, images = [["x|y"] * 100], [[[0.5, 1.0]] * 100]
    rows = rows.append_column("tags", tags).append_column("image", images).append_column("day of week", [["Mo"] * 100])
    pq.write_table(rows, sample)
    run("init", lake, "--from", sample)
    events = Config.load(lake / "tokenlake.yaml").events
    assert {name: f.kind for name, f in events.features.items()} == {
        "kind": "categorical",
        "tags": "multi",
        "image": "vector",
        "day of week": "categorical",
    }
    assert list(events.labels) == ["clicked"]
    said = run("ingest", lake, sample, "--dry-run")
    assert "nothing was changed" in said
    assert "integers read as seconds" in said
    assert sorted(path.name for path in lake.iterdir()) == ["feature_repo", "feature_store", "tokenlake.yaml"]
    assert "100 accepted" in run("ingest", lake, sample)
    assert "100 duplicates" in run("ingest", lake, sample)


def test_init_overwrites_nothing_unasked(tmp_path: Path) -> None:
    run("init", tmp_path / "on")
    assert Config.load(tmp_path / "on" / "tokenlake.yaml").project == "on"
    with pytest.raises(ConfigError, match="--force"):
        run("init", tmp_path / "on")
    run("init", tmp_path / "on", "--force")


def test_how_text_is_written_can_be_told(tmp_path: Path) -> None:
    (tmp_path / "tokenlake.yaml").write_text("project: p\nevents: {user: u, item: i, timestamp: t}\n")
    (tmp_path / "log.tsv").write_bytes('u\ti\tt\n"é"\tx\t2024-01-01\n'.encode("latin-1"))
    asked = ["ingest", str(tmp_path), str(tmp_path / "log.tsv"), "--encoding", "latin-1"]
    for more in ([], ["--quotes"]):
        run = CliRunner().invoke(app, [*asked, *more])
        assert run.exit_code == 0, run.output
    lake = tokenlake.open(tmp_path)
    assert {user for (user,) in lake.sql("select user_id from events").fetchall()} == {"é", '"é"'}
