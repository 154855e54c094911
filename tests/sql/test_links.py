"""A lake whose folders lie behind links reads in SQL as in Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import tokenlake
from tests.sql.events import DAY
from tokenlake._lake import Lake
from tokenlake.errors import CorruptionError
from tokenlake.lake.database import Database

COUNT = "select (select count(*) from events), (select sum(token[1]) from instance_tokens)"
ANSWER = [(18, 54.0)]
FOLDERS = {
    "all tables": "tables",
    "a table": "tables/events",
    "a day": f"tables/events/ds={DAY}",
    "a version": "tables/instance_tokens/version={version}",
    "a day of a version": f"tables/instance_tokens/version={{version}}/ds={DAY}",
}


def behind_a_link(lake: Lake, kind: str, at: Path) -> Path:
    """Move a folder of a lake to another place, and link it back."""
    folder = lake.data / FOLDERS[kind].format(version=lake.resolve())
    folder.rename(at)
    folder.symlink_to(at)
    return folder


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_link_from_before(lake: Lake, tmp_path: Path, kind: str) -> None:
    behind_a_link(lake, kind, tmp_path / "moved")
    linked = tokenlake.open(lake.root)
    assert linked.sql(COUNT).fetchall() == ANSWER
    assert linked.events.count() == 18


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_link_that_appears_later(lake: Lake, tmp_path: Path, kind: str) -> None:
    database = Database(lake)
    assert database.sql(COUNT).fetchall() == ANSWER
    behind_a_link(lake, kind, tmp_path / "moved")
    assert database.sql(COUNT).fetchall() == ANSWER


def test_a_session_keeps_what_it_has(lake: Lake, tmp_path: Path) -> None:
    database = Database(lake)
    with database.engine().connect() as tool:
        for make in (database.sql, tool.exec_driver_sql):
            make("create temp table own as select [1, 2] as a, {'x': 1.5::float} as b, 3::utinyint as c")
            make("create temp view seen as select count(*) as n from events")
            make("set timezone = 'Asia/Tokyo'")
        behind_a_link(lake, "a day", tmp_path / "moved")
        own = "select a, b.x, typeof(c), n, current_setting('TimeZone') from own, seen"
        want = ([1, 2], 1.5, "UTINYINT", 18, "Asia/Tokyo")
        assert database.sql(own).fetchall() == [want]
        assert database.sql(COUNT).fetchall() == ANSWER
        assert [tuple(row) for row in tool.exec_driver_sql(own)] == [want]
        assert [tuple(row) for row in tool.exec_driver_sql(COUNT)] == ANSWER


@pytest.mark.parametrize("kind", [kind for kind in FOLDERS if kind != "all tables"])
@pytest.mark.parametrize("before", [True, False])
def test_a_link_to_nothing_is_told(lake: Lake, tmp_path: Path, kind: str, *, before: bool) -> None:
    database = Database(lake)
    if before:
        assert database.sql(COUNT).fetchall() == ANSWER
    folder = behind_a_link(lake, kind, tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "gone")
    with pytest.raises(CorruptionError, match=f"{folder} is a link to {tmp_path}/moved, and nothing is there"):
        database.sql(COUNT)
    with pytest.raises(CorruptionError), database.engine().connect() as tool:
        tool.exec_driver_sql(COUNT)
    (tmp_path / "gone").rename(tmp_path / "moved")
    assert database.sql(COUNT).fetchall() == ANSWER
