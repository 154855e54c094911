"""What Tab offers, without a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sql.events import YAML
from tokenlake._lake import Lake
from tokenlake.commands._shell import Shell
from tokenlake.commands._shell_completion import DELIMITERS, candidates
from tokenlake.lake.database import Database


@pytest.fixture
def shell(still: Lake) -> Shell:
    return Shell(Database(still), lambda relation: None)


def tab(shell: Shell, line: str) -> list[str]:
    """What is offered at the `|` of a line."""
    before, _, after = line.partition("|")
    start = max(before.rfind(each) for each in DELIMITERS) + 1
    return candidates(shell, before + after, start, before[start:])


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("select * from ev|", ["events", "events_before("]),
        ("SELECT * FROM EV|", ["events", "events_before("]),
        ("from index_v|", ["index_versions", "index_versions("]),
        ("sel|", ["select"]),
        ("SEL|", ["SELECT"]),
        ("select clicked_k| from events", ["clicked_known_at"]),
        ("select CLICKED_K| from Events", ["clicked_known_at"]),
        ("select clicked_k| from edges", []),
        ("select events.clicked_k| from events", ["events.clicked_known_at"]),
        ("select e.clicked_k| from events e", ["e.clicked_known_at"]),
        ("select g.sr|, e.it from events as e join edges g on true", ["g.src"]),
        ("select e.sr| from events as e join edges g on true", []),
        ("select x.sr| from events", []),
        ("select count(clicked_k|) from events", ["clicked_known_at"]),
        (".mo|", [".mode"]),
        (".MO|", [".mode"]),
        ("\\|", ["\\q", "\\?", "\\h", "\\d", "\\dt", "\\i"]),
        (".mode ma|", ["markdown"]),
        (".mode line ma|", []),
        (".timer o|", ["on", "off"]),
        (".schema user_s|", ["user_statistics"]),
        ("\\d user_s|", ["user_statistics"]),
        (".tables user_s|", ["user_statistics"]),
        (".run last_t|", ["last_tokens"]),
        (".run last_tokens b|", ["before="]),
        (".run nothing b|", []),
        (".help onc|", ["once"]),
        (".maxrows |", []),
    ],
)
def test_what_is_offered(shell: Shell, line: str, offered: list[str]) -> None:
    assert tab(shell, line) == offered


def test_columns_come_first(shell: Shell) -> None:
    assert tab(shell, "select us| from events")[0] == "user_id"


def test_tables_of_earlier_lines(shell: Shell) -> None:
    shell.feed("select * from events as e")
    assert tab(shell, "where e.clicked_k|") == ["e.clicked_known_at"]
    assert tab(shell, ".mo|") == []


def test_tables_of_the_session_and_quoted_columns(shell: Shell) -> None:
    shell.feed('create temp table mine as select 1 as "recall@10", 2 as "Plain";')
    assert tab(shell, "from mi|") == ["mine"]
    assert tab(shell, "select reca| from mine") == ['"recall@10"']
    assert tab(shell, 'select m."rec| from mine m') == ['m."recall@10"']


def test_files(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "a.sql").touch()
    # For readline, a word begins after each `/`.
    assert tab(shell, f".read {tmp_path}/as|") == ["asked/"]
    assert tab(shell, f".once {tmp_path}/asked/|") == ["a.sql"]


def test_nothing_of_the_lake_is_opened_before_tab(tmp_path: Path) -> None:
    (tmp_path / "tokenlake.yaml").write_text(YAML)
    database = Database(Lake.open(tmp_path))
    Shell(database, lambda relation: None)
    assert database._opened is None
