from __future__ import annotations

import json
import os
import signal
import stat
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import tokenlake_sql
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.commands._shell import Shell
from tokenlake.errors import ForbiddenError, NotFoundError, SchemaError, TokenlakeError
from tokenlake.lake.database import Database


def ask(lake: Lake, *arguments: str, text: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["sql", str(lake.root), *arguments], input=text)
    if isinstance(result.exception, TokenlakeError):
        raise result.exception
    return result


def test_a_table_for_people(lake: Lake) -> None:
    shown = ask(lake, "-c", 'select user_id, [1.5, null] as l, null as "[x]" from events order by 1 limit 2').output
    assert "[1.5, null]" in shown
    assert "[x]" in shown
    assert "null" in shown
    assert "2 rows" in shown
    assert "50 rows shown, more follow" in ask(lake, "-c", "from range(60)").output


def test_csv_and_json(lake: Lake) -> None:
    query = (
        "select event_id, ds, token, 'a,\"b' as t, null as n from instance_tokens order by version, event_id limit 2"
    )
    csv = ask(lake, "--format", "csv", "-c", query).output.splitlines()
    assert csv[0] == "event_id,ds,token,t,n"
    assert csv[1] == '0,2017-03-01,"[1.0, 0.0]","a,""b",'
    rows = json.loads(ask(lake, "--format", "json", "-c", query).output)
    assert rows[1] == {"event_id": 1, "ds": "2017-03-01", "token": [1.0, 1.0], "t": 'a,"b', "n": None}
    assert json.loads(ask(lake, "--format", "json", "-c", "select 1 where false").output) == []


def test_json_says_what_json_has_no_type_for(lake: Lake) -> None:
    query = (
        "select 'NaN'::double as n, [1.5, 'inf'::double] as l, sum(9007199254740993) as h, 1.5::decimal(5, 2) as d, "
        "'\\xff\\x41'::blob as y, timestamptz '2024-01-01 00:00:00+02' as t, timestamp '2024-01-01' as u, "
        "interval 1 day as i, date '2024-01-01' as a, 1 as a, 2 as a"
    )
    (row,) = json.loads(ask(lake, "--json", "-c", query).output)
    assert row == {
        "n": None,
        "l": [1.5, None],
        "h": 9007199254740993,
        "d": 1.5,
        "y": "\\xffA",
        "t": "2023-12-31T22:00:00.000000Z",
        "u": "2024-01-01T00:00:00.000000",
        "i": [0, 1, 0],
        "a": "2024-01-01",
        "a_1": 1,
        "a_2": 2,
    }
    assert ask(lake, "--format", "csv", "-c", "select 1 as a, 2 as a").output == "a,a\n1,2\n"


def test_parquet_is_what_the_relation_is(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    ask(lake, "-c", "from instance_tokens order by version, event_id", "-o", str(file))
    want = lake.sql("from instance_tokens order by version, event_id").to_arrow_table()
    assert pq.read_table(file).cast(want.schema) == want
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["out.parquet"]
    with pytest.raises(SchemaError, match="add -o FILE"):
        ask(lake, "-c", "select 1", "--format", "parquet")


def test_the_suffix_tells_the_format(lake: Lake, tmp_path: Path) -> None:
    ask(lake, "-c", "select 1 as a", "-o", str(tmp_path / "x.json"))
    assert json.loads((tmp_path / "x.json").read_text()) == [{"a": 1}]
    ask(lake, "-c", "select 1 as a", "-o", str(tmp_path / "x.txt"))
    assert "1 row" in (tmp_path / "x.txt").read_text()


def test_several_questions_and_files(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "ask.sql"
    file.write_text("-- two\nselect 'one' as a;\nselect 'two; too' as b;\n")
    for given in (ask(lake, "-f", str(file)), ask(lake, text=file.read_text())):
        assert "one" in given.output
        assert "two; too" in given.output
    with pytest.raises(SchemaError, match="2 questions given"):
        ask(lake, "-f", str(file), "-o", str(tmp_path / "x.csv"))
    assert "give one of them" in ask(lake, "-f", str(file), "-c", "select 1").output


def test_saved_queries(lake: Lake) -> None:
    listed = ask(lake, "--queries").output
    assert all(name in listed for name in tokenlake_sql.queries())
    rows = json.loads(ask(lake, "-q", "last_tokens", "-p", "user=1", "-p", "n=2", "--format", "json").output)
    assert [row["event_id"] for row in rows] == [22, 24]
    with pytest.raises(NotFoundError, match="there are active_users"):
        ask(lake, "-q", "nothing")
    with pytest.raises(NotFoundError, match="no parameters"):
        ask(lake, "-q", "last_tokens", "-p", "usr=1")
    with pytest.raises(NotFoundError, match="write name=value"):
        ask(lake, "-q", "last_tokens", "-p", "user")


def test_what_is_refused(lake: Lake, tmp_path: Path) -> None:
    for query in ("drop view events", "copy (select 1) to 'x.csv'", "select 1; drop view events"):
        with pytest.raises(ForbiddenError):
            ask(lake, "-c", query)
    with pytest.raises(ForbiddenError, match="the lake's own files"):
        ask(lake, "-c", "select 1", "-o", str(lake.data / "tables" / "events" / "x.csv"))
    wrong = ask(lake, "-c", "select nothing from events")
    assert wrong.exit_code == 1
    assert "nothing" in wrong.output


def test_an_output_that_fails_leaves_the_old_file(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")
    failed = ask(lake, "-c", "select error('later') from range(3)", "-o", str(file))
    assert failed.exit_code == 1
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x.csv"]
    with pytest.raises(TokenlakeError, match="cannot be written"):
        ask(lake, "-c", "select 1", "-o", str(tmp_path / "no" / "folder.csv"))


def test_the_shell(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[list[tuple[object, ...]]] = []
    shell = Shell(Database(lake), lambda relation: shown.append(relation.fetchall()))
    for line in (
        "select 'a;' as x,",
        "",
        "  2 as y;",
        "",
        ".run days n=1",
        ".schema events",
        ".tables",
        ".queries",
        ".help",
    ):
        shell.feed(line)
    assert shown[0] == [("a;", 2)]
    assert len(shown[1]) == 1
    assert ("event_id", "BIGINT") in shown[2]
    assert ("serving_tokens", 12) in shown[3]
    printed = capsys.readouterr()
    assert "tokens_before" in printed.out
    assert "Every day at a glance" in printed.out
    assert ".run NAME" in printed.out
    assert printed.err == ""


def test_an_error_ends_the_question_not_the_shell(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[list[tuple[object, ...]]] = []
    shell = Shell(Database(lake), lambda relation: shown.append(relation.fetchall()))
    for line in (
        "drop view events;",
        "selec 1;",
        "select error('x');",
        ".nothing",
        ".run",
        ".run x",
        ".schema",
        ".schema no",
    ):
        shell.feed(line)
    assert len(capsys.readouterr().err.splitlines()) >= 8
    shell.feed("select ';")
    assert shell.pending
    shell.feed("';")
    assert shown == [[(";\n",)]]
    shell.feed(".quit")
    assert shell.done


def test_history_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readline = pytest.importorskip("readline")
    from tokenlake.commands import _shell

    monkeypatch.setattr("click.get_app_dir", lambda name: str(tmp_path / name))
    with _shell.history(["events"]):
        readline.clear_history()
        readline.add_history("select 1;")
        complete = readline.get_completer()
        assert complete is not None
        assert complete("even", 0) == "events"
    file = tmp_path / "tokenlake" / "sql_history"
    assert "select 1;" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_ctrl_c_ends_the_question(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[object] = []
    shell = Shell(Database(lake), lambda relation: shown.append(relation.fetchall()))
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    shell.feed("select count(*) from range(100000000000) where range % 7 = sin(range);")
    timer.join()
    assert "interrupted" in capsys.readouterr().err
    shell.feed("select 42;")
    assert shown == [[(42,)]]
