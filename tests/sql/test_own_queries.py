"""Saved queries of a lake's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import tokenlake_sql
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.commands._own_queries import saved_queries
from tokenlake.commands._shell import Shell
from tokenlake.errors import SchemaError
from tokenlake.lake.database import Database


@pytest.fixture
def answers() -> list[object]:
    return []


@pytest.fixture
def shell(lake: Lake, answers: list[object]) -> Shell:
    return Shell(Database(lake), lambda relation: answers.append(relation.fetchall()))


def tell(shell: Shell, *lines: str) -> None:
    for line in lines:
        shell.feed(line)


def test_saving_and_asking_again(lake: Lake, shell: Shell, answers: list[object]) -> None:
    tell(
        shell,
        ".param n 2",
        "select $n::int -- a; comment",
        "as a;",
        ".save twice Two of them;",
        ".run twice",
        ".run twice n=5",
    )
    assert answers == [[(2,)], [(2,)], [(5,)]]
    assert (lake.root / "queries" / "twice.sql").read_text() == (
        "-- Two of them\n-- $n = 2: as given when it was saved\n\nselect $n::int -- a; comment\nas a\n"
    )
    told = CliRunner().invoke(app, ["sql", str(lake.root), "-q", "twice", "-p", "n=7", "--format", "csv"])
    assert told.output == "a\n7\n"


def test_they_are_listed(lake: Lake, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    tell(shell, "select 1;", ".save mine", ".queries")
    assert "mine" in capsys.readouterr().out
    listed = CliRunner().invoke(app, ["sql", str(lake.root), "--queries", "--json"]).output
    assert {"name": "mine", "title": "mine", "parameters": []} in json.loads(listed)
    assert len(json.loads(listed)) == len(tokenlake_sql.queries()) + 1


@pytest.mark.parametrize("name", ["days", "a-b", "../x", "1a", "é", "a.sql", "a b"])
def test_names_that_are_refused(lake: Lake, shell: Shell, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tell(shell, "select 1;", f".save '{name}'")
    assert repr(name) in capsys.readouterr().err
    assert not (lake.root / "queries").exists()


def test_one_of_tokenlakes_is_not_hidden(lake: Lake) -> None:
    (lake.root / "queries").mkdir()
    (lake.root / "queries" / "days.sql").write_text("select 1")
    assert saved_queries(lake.root)["days"] == tokenlake_sql.queries()["days"]


def test_one_is_replaced_only_by_its_owner(lake: Lake, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    tell(shell, "select 1;", ".save mine", "select 2;", ".save mine")
    assert "exists" in capsys.readouterr().err
    assert saved_queries(lake.root)["mine"].sql == "select 1"


def test_values_that_no_comment_can_hold(lake: Lake, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    tell(shell, ".param d 'a: b'", "select $d;", ".save mine")
    assert "can be no default of $d" in capsys.readouterr().err
    assert "mine" not in saved_queries(lake.root)


@pytest.mark.parametrize(
    "text",
    [
        "select 1 as a",
        "select 1 as a;\n",
        "-- A title\nselect 1 as a\n",
        "\ufeff-- A title\n-- More.\n\nselect 1 as a;",
    ],
)
def test_files_written_by_hand(lake: Lake, shell: Shell, answers: list[object], text: str) -> None:
    (lake.root / "queries").mkdir()
    (lake.root / "queries" / "hand.sql").write_text(text)
    tell(shell, ".run hand")
    assert answers == [[(1,)]]


def test_a_file_of_another_encoding(lake: Lake) -> None:
    (lake.root / "queries").mkdir()
    (lake.root / "queries" / "hand.sql").write_bytes(b"select '\xe9'")
    with pytest.raises(SchemaError, match=r"hand.sql is not UTF-8"):
        saved_queries(lake.root)


def test_a_lake_without_any(lake: Lake, tmp_path: Path) -> None:
    assert saved_queries(lake.root) == dict(tokenlake_sql.queries())
