"""`tokenlake counts` as a person uses it: one row, the rows of a file, and what is told of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from tests.fixtures.lakes import CONFIG, day, make_events, make_lake
from tokenlake._lake import Lake
from tokenlake.commands.counts import command
from tokenlake.features.aggregations import Aggregations
from tokenlake.times import day_start

COUNTS = """
counts:
  pair: {by: [user, item], as: [count, recency]}
  tag: {by: tags, of: {label: clicked}, as: [known, mean]}
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("counts"), CONFIG + COUNTS)
    lake.ingest(make_events(days=4))
    return lake


def run(lake: Lake, *arguments: str) -> Result:
    return CliRunner().invoke(command, [str(lake.root), *arguments])


def test_one_row(lake: Lake) -> None:
    options = ("--user", "3", "--item", "5", "--set", "tags=t1,t2", "--at", "2024-03-04")
    (answer,) = json.loads(run(lake, *options, "--json").output)
    keys = {"user_id": [3], "item_id": [5], "tags": [["t1", "t2"]]}
    assert answer == lake.counts(keys, day_start(day(3))).to_pylist()[0]
    shown = run(lake, *options).output
    assert "at 2024-03-04T00:00:00+00:00" in shown
    assert "tag_mean" in shown
    assert list(json.loads(run(lake, "--user", "3", "--item", "5", "--json").output)[0]) == [
        "pair_count",
        "pair_recency",
    ]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_rows_of_a_file(lake: Lake, tmp_path: Path, ending: str) -> None:
    at = pa.array([day_start(day(2)) + i for i in range(60)], pa.timestamp("us", "UTC"))
    rows = pa.table({"user_id": [i % 12 for i in range(60)], "item_id": [i % 20 for i in range(60)], "timestamp": at})
    file = tmp_path / f"rows.{ending}"
    (pq.write_table if ending == "parquet" else csv.write_csv)(rows, file)
    answers = json.loads(run(lake, "--rows", str(file), "--name", "pair", "--json").output)
    assert answers == lake.counts(rows, names=["pair"]).to_pylist()
    assert "the first 50 of 60 rows" in run(lake, "--rows", str(file)).output


def test_what_is_declared(lake: Lake) -> None:
    lake.shared(Aggregations).roll_on(lake.watermark())
    pair, tag = json.loads(run(lake, "--explain", "--json").output)
    events = lake.events.read().num_rows
    assert (pair["name"], pair["contributions"], pair["added"]) == ("pair", events, events)
    assert pair["bytes"] > 16 * events
    assert [column["name"] for column in tag["columns"]] == ["tag_known", "tag_mean"]
    assert "tag_mean" in run(lake, "--explain", "--name", "tag").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of: --explain; --user, --item and --set; --rows FILE"),
        (("--explain", "--user", "3"), "give one of"),
        (("--set", "tag=t1"), "there are genre, tags"),
        (("--set", "tags"), "write FEATURE=VALUE"),
        (("--rows", "nosuch.csv"), "nosuch.csv is no .parquet or .csv file"),
        (("--user", "3", "--at", "soon"), "--at"),
    ],
)
def test_mistakes_are_told(lake: Lake, arguments: tuple[str, ...], message: str) -> None:
    result = run(lake, *arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--user", "anna", "--item", "5"), "user id is no integer"),
        (("--user", "3", "--item", "5", "--name", "pears"), "no declared counts 'pears'; `counts:` declares pair, tag"),
        (("--user", "3"), "pair needs item_id; tag needs tags"),
    ],
)
def test_bad_keys_are_told(lake: Lake, arguments: tuple[str, ...], message: str) -> None:
    assert message in str(run(lake, *arguments).exception)
