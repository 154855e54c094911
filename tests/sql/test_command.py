from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import tokenlake_sql
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import ForbiddenError, NotFoundError, SchemaError, TokenlakeError


def ask(lake: Lake, *arguments: str, text: str | bytes | None = None) -> Result:
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
    wrong = ask(lake, "-c", "select nothing from events")
    assert wrong.exit_code == 1
    assert "nothing" in wrong.output


def test_an_output_that_fails_leaves_the_old_file(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")
    failed = ask(lake, "-c", "select error('later') from range(3)", "--yes", "-o", str(file))
    assert failed.exit_code == 1
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x.csv"]
    with pytest.raises(TokenlakeError, match="cannot be written"):
        ask(lake, "-c", "select 1", "-o", str(tmp_path / "no" / "folder.csv"))


def test_parameters_of_any_question(lake: Lake, tmp_path: Path) -> None:
    assert ask(lake, "-c", "select $n::int + 1 as a", "-p", "n=2", "--format", "csv").output == "a\n3\n"
    file = tmp_path / "ask.sql"
    file.write_text("select count(*) as n from events where ds >= $day; select $b || 'x' as b;")
    told = ask(lake, "-f", str(file), "-p", "day=2017-03-02", "-p", "b=é=1", "--format", "csv")
    assert told.output == "n\n12\nb\né=1x\n"
    assert ask(lake, "-c", "select ? as a", "-p", "1=x", "--format", "csv").output == "a\nx\n"


def test_parameters_that_fit_no_question_are_refused(lake: Lake) -> None:
    with pytest.raises(SchemaError, match=r"-p day=1: the question has no \$day; it names none"):
        ask(lake, "-c", "select 1", "-p", "day=1")
    with pytest.raises(SchemaError, match=r"no \$dya; it names \$day"):
        ask(lake, "-c", "select $day", "-p", "dya=1")
    with pytest.raises(SchemaError, match=r"no value: -p day=VALUE"):
        ask(lake, "-c", "select $day")
    with pytest.raises(NotFoundError, match="write name=value"):
        ask(lake, "-c", "select $day", "-p", "day")


def test_files_of_another_encoding(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "ask.sql"
    file.write_bytes("select 'é' as a".encode("latin-1"))
    with pytest.raises(SchemaError, match=r"ask.sql is not UTF-8: byte 9 is 0xe9.*iconv -f ISO-8859-1 -t UTF-8"):
        ask(lake, "-f", str(file))
    with pytest.raises(SchemaError, match="standard input is not UTF-8: byte 9"):
        ask(lake, text=file.read_bytes())
    file.write_bytes("select 'é' as a".encode("utf-16"))
    with pytest.raises(SchemaError, match="iconv -f UTF-16"):
        ask(lake, "-f", str(file))
    file.write_text("select 'é' as a", encoding="utf-8-sig")
    for told in (ask(lake, "-f", str(file), "--format", "csv"), ask(lake, "--format", "csv", text=file.read_bytes())):
        assert told.output == "a\né\n"


@pytest.mark.parametrize(
    "question",
    [
        "select error('\x1b[2J' || 'x')",
        "update extensions",
        "select (case when i = 300000 then 'x' else '1' end)::int from range(400000) t(i)",
        "select '\ud800'",
    ],
)
def test_errors_are_messages_without_control_characters(lake: Lake, question: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tokenlake",
        "sql",
        str(lake.root),
        "--format",
        "csv",
        "-c",
        question.encode("utf-8", "surrogatepass"),
    ]
    told = subprocess.run(command, capture_output=True, check=False)
    assert told.returncode == 1
    assert told.stderr.strip()
    assert b"Traceback" not in told.stderr
    assert b"\x1b" not in told.stderr


def test_statements_without_an_answer(lake: Lake, tmp_path: Path) -> None:
    script = "create temp table t as select 7 as a; set threads = 1; from t;"
    assert ask(lake, "-c", script, "--format", "csv").output == "a\n7\n"
    ask(lake, "-c", script, "-o", str(tmp_path / "t.csv"))
    assert (tmp_path / "t.csv").read_text() == "a\n7\n"
    with pytest.raises(SchemaError, match="0 questions given"):
        ask(lake, "-c", "set threads = 1", "-o", str(tmp_path / "t2.csv"))


@pytest.mark.parametrize("form", ["table", "line", "csv", "json"])
def test_an_error_of_a_row_names_the_line_of_the_question(lake: Lake, form: str) -> None:
    for question, line in (("select 'x'::int from range(3)", 1), ("select 1,\n 'x'::int from range(3)", 2)):
        said = ask(lake, "-c", question, "--format", form)
        assert said.exit_code == 1
        assert f"LINE {line}:" in said.output
