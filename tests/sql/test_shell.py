"""The prompt without its terminal: questions, commands and errors."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import threading
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlake._lake import Lake
from tokenlake.commands._questions import cut
from tokenlake.commands._shell import Shell
from tokenlake.commands._shell_commands import ALIASES, COMMANDS
from tokenlake.lake.database import Database


class Told:
    """A shell that was fed, and the rows of its answers."""

    def __init__(self, lake: Lake) -> None:
        self.answers: list[list[tuple[object, ...]]] = []
        self.shell = Shell(Database(lake), lambda relation: self.answers.append(relation.fetchall()))

    def feed(self, *lines: str) -> Told:
        for line in lines:
            self.shell.feed(line)
        return self


@pytest.fixture
def told(still: Lake) -> Told:
    return Told(still)


# Where a question ends.

ONE = {
    "several lines": ["select 1", "as a;"],
    "a comment after the end": ["select 1 as a; -- one"],
    "a long comment after the end": ["select 1 as a; /* one; */"],
    "a comment that ends with ;": ["select 1 -- first;", "as a;"],
    "a ; in nested comments": ["select /* a; /* b; */ c;", "d; */ 1 as a;"],
    "a ; in a $$ text": ["select length($$x;", "y$$) - 3 as a;"],
    "a ; in a tagged text": ["select length($t$;$$;", "$t$) - 4 as a;"],
    "a ; in a text": ["select length('it''s;", "') - 5 as a;"],
    "a ; in a text with escapes": [r"select length(e'\';", "') - 2 as a;"],
    "a ; in a quoted name": ['select ";', '" from (select 1 as ";', '");'],
    "a ; on a line of its own": ["select 1", "", "as a", ";"],
    "empty questions around it": [";; select 1 as a;;", ";"],
    "a comment that ends later": ["select 1 as a; /* it", "ends; here */ ;"],
    "letters of several bytes": ["select length('日本;') - 2 as a; -- é;"],
}


@pytest.mark.parametrize("lines", ONE.values(), ids=ONE)
def test_one_question(told: Told, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(*lines)
    assert told.answers == [[(1,)]]
    assert not told.shell.pending
    assert capsys.readouterr().err == ""


def test_questions_of_one_line_are_answered_in_order(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed("select 1; select 2; select", "3; select error('four'); select 5;")
    assert told.answers == [[(1,)], [(2,)], [(3,)]]
    assert "four" in capsys.readouterr().err
    assert not told.shell.pending


_PIECES = st.sampled_from(
    [
        "select 1",
        ";",
        "\n",
        " ",
        "'a;'",
        "'",
        '"',
        '"x;"',
        "--",
        "-- c;\n",
        "/*",
        "*/",
        "/* ; */",
        "$$",
        "$t$",
        "$1",
        "é",
        "e'\\'",
    ]
)


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_the_lines_of_a_text_are_cut_as_the_whole(text: str) -> None:
    whole, rest = cut(text)
    asked: list[str] = []
    pending = ""
    for line in text.split("\n"):  # what the shell does
        found, pending = cut(f"{pending}\n{line}" if pending else line)
        asked += found
    assert [_bare(each) for each in asked] == [_bare(each) for each in whole]
    assert bool(pending.strip()) == bool(rest.strip())


@given(
    st.lists(
        st.sampled_from(["select 1", "select ';'", "select $$;$$", "-- c;\n", "/* ; */", ";", " "]), max_size=8
    ).map("".join)
)
def test_questions_are_duckdbs_statements(text: str) -> None:
    try:
        statements = duckdb.extract_statements(f"{text}\n;")
    except duckdb.ParserException:
        return
    questions, rest = cut(f"{text}\n;")
    assert rest == ""
    assert [_bare(each) for each in questions] == [_bare(each.query) for each in statements]


def _bare(question: str) -> str:
    """A question without comments, blanks and its `;`."""
    starts = [*duckdb.tokenize(question), (len(question.encode()), duckdb.token_type.comment)]
    raw = question.encode()
    words = [
        raw[start:end].decode().strip()
        for (start, kind), (end, _) in itertools.pairwise(starts)
        if kind != duckdb.token_type.comment
    ]
    return " ".join(word for word in words if word != ";")


# Errors.

MISTAKES = [
    "drop view events;",
    "selec 1;",
    "select nothing from events;",
    "select error('x');",
    "update extensions;",
    "select '\ud800';",
    "\ud800",
    f"select {'(' * 3000}1{')' * 3000};",
    f"select {' + '.join(['1'] * 20_000)};",
    "select (case when i = 30000 then 'x' else '1' end)::int from range(40000) t(i);",
    "select $day;",
    ".nothing",
    ".run",
    ".run x",
    ".run days m=1",
    ".run days n",
    ".schema no",
    ".tables no_such",
    ".mode x",
    ".mode",
    ".maxrows x",
    ".maxwidth -1",
    ".timer x",
    ".read no.sql",
    ".read 'x",
    ".last",
    ".save x",
    ".param x",
    ".help x",
    ".once /no/folder/../tokenlake\0",
    ".output /no/folder/x.csv",
    ".output x.parquet",
    "\\x",
]


@pytest.mark.parametrize("line", MISTAKES, ids=range(len(MISTAKES)))
def test_no_mistake_ends_the_prompt(told: Told, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(line)
    told.answers.clear()
    assert capsys.readouterr().err.strip()
    assert not told.shell.pending
    assert told.feed("select 'still here';").answers == [[("still here",)]]
    assert not told.shell.done


@pytest.mark.parametrize(
    "error", [RecursionError, MemoryError, OSError(28, "No space left"), ValueError("x"), RuntimeError(), KeyError("k")]
)
def test_whatever_an_answer_raises_is_a_message(
    still: Lake, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(_: object) -> None:
        raise error

    shell = Shell(Database(still), show)
    shell.feed("select 1;")
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not shell.pending


def test_control_characters_of_an_error_are_written_out(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed("select error('a' || chr(27) || '[2J' || chr(7));")
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\x07" not in err
    assert r"a\x1b[2J\x07" in err


def test_refusals_begin_with_what_matters(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed("copy (select 1) to 'x.csv';")
    assert capsys.readouterr().err.startswith("COPY is not admitted")


def test_ctrl_c_ends_the_question(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    told.feed("select count(*) from range(100000000000) where range % 7 = sin(range);")
    timer.join()
    assert "interrupted" in capsys.readouterr().err
    assert told.feed("select 42;").answers == [[(42,)]]


# Commands.


def test_tables(told: Told) -> None:
    (every,) = told.feed(".tables;").answers
    assert {("events", "view"), ("tokens_before", "macro")} <= {row[:2] for row in every}
    assert all(row[2] for row in every)
    for pattern in ("user%", "user*", "USER_%", "user"):
        told.answers.clear()
        (found,) = told.feed(f".tables {pattern} ; ").answers
        assert {"user_embeddings", "user_statistics"} <= {row[0] for row in found} < {row[0] for row in every}


def test_schema_of_a_view(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    for asked in (".schema EVENTS;", "\\d events", '.schema "events"'):
        told.answers.clear()
        (columns,) = told.feed(asked).answers
        assert ("event_id", "BIGINT", "") in columns
        assert ("bought_known_at", "TIMESTAMP WITH TIME ZONE", "bought_at") in columns
        assert "every accepted event" in capsys.readouterr().out.lower()


def test_schema_of_a_macro_and_of_all(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(".schema tokens_before")
    printed = capsys.readouterr().out
    assert "tokens_before(user, t, n := 256, available := 'realtime')" in printed
    assert "strictly before t" in printed
    told.feed(".schema index_versions")  # a view and a macro
    printed = capsys.readouterr().out
    assert "view index_versions\n" in printed
    assert "macro index_versions()" in printed
    assert ("name", "VARCHAR", "") in told.answers.pop()
    (every,) = told.feed(".schema").answers
    assert {"events", "freshness()"} <= {row[0] for row in every}


def test_temporary_tables_are_listed(told: Told) -> None:
    told.feed("create temp table mine as select 1 as q;", ".tables mine", ".schema mine")
    assert told.answers == [[("mine", "table", "")], [("q", "INTEGER", "")]]


def test_modes(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(".mode csv", "select 1 as a;")
    assert capsys.readouterr().out == "a\n1\n"
    told.feed(".mode JSON;", "select 1 as a;")
    assert json.loads(capsys.readouterr().out) == [{"a": 1}]
    told.feed(".mode line", "select 1 as a;", ".mode box", "select 2 as b;", ".mode markdown", "select 3 as c;")
    assert re.findall(r"\b[123]\b", capsys.readouterr().out)
    assert told.answers == []


def test_most_rows(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(".maxrows 3", "from range(1000, 1100);")
    assert len(re.findall(r"\b10\d\d\b", capsys.readouterr().out)) == 3
    told.feed(".maxrows 0", "from range(1000, 1100);")
    assert len(re.findall(r"\b10\d\d\b", capsys.readouterr().out)) == 100
    told.feed(".maxrows 3", ".last")
    assert len(re.findall(r"\b10\d\d\b", capsys.readouterr().out)) == 100


def test_once(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(f".once {tmp_path}/a.parquet", "from range(100);", "select 2 as b;")
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 100
    assert told.answers == [[(2,)]]
    told.feed(f".once '{tmp_path}/a b.csv';", "select 2 as b;")
    assert (tmp_path / "a b.csv").read_text() == "b\n2\n"
    assert f"written to {tmp_path}/a b.csv" in capsys.readouterr().err


def test_output(told: Told, tmp_path: Path) -> None:
    told.feed(f".output {tmp_path}/all.csv", "select 1 as a;", "select 2 as b;", ".output", "select 3 as c;")
    assert (tmp_path / "all.csv").read_text() == "a\n1\nb\n2\n"
    assert told.answers == [[(3,)]]


def test_files_are_not_replaced_without_a_terminal(
    told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")
    told.feed("select 1;", f".once {file}", f".output {file}", f".last {file}")
    assert len(re.findall("exists", capsys.readouterr().err)) == 3
    assert file.read_text() == "old"


def test_no_file_in_the_lake(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(lake).feed("select 1;")
    before = sorted(lake.root.rglob("*"))
    for line in (".once", ".output", ".last"):
        told.feed(f"{line} {lake.root}/x.csv", f"{line} {lake.root}/catalog.sqlite", "select 2;")
    assert len(re.findall("lies inside the lake", capsys.readouterr().err)) == 6
    assert sorted(lake.root.rglob("*")) == before


def test_last(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(".param n 3", "select $n::int as a;", "set threads = 1;", f".last {tmp_path}/x.csv")
    assert (tmp_path / "x.csv").read_text() == "a\n3\n"
    assert "asked again" in capsys.readouterr().err


def test_parameters(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(
        ".param $day 2017-03-01",
        ".param t 'a  b'",
        ".param",
        "select $day::date::varchar, $t;",
        ".param day;",
        "select $day;",
    )
    assert told.answers == [[("2017-03-01", "a  b")]]
    printed = capsys.readouterr()
    assert printed.out == "$day = 2017-03-01\n$t = a  b\n"
    assert ".param day VALUE" in printed.err


def test_read(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.sql").write_text(f"select 1\nas a; -- one\n.read '{tmp_path}/b c.sql'\nselect 3 -- no end")
    (tmp_path / "b c.sql").write_text("\ufeffselect 2;")
    told.feed(f".read {tmp_path}/a.sql")
    assert told.answers == [[(1,)], [(2,)], [(3,)]]
    assert not told.shell.pending
    (tmp_path / "b c.sql").write_text(f".read {tmp_path}/a.sql")
    told.feed(f".read {tmp_path}/a.sql")
    assert "reads itself" in capsys.readouterr().err


def test_reading_what_ends_too_early(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.sql").write_text("select 1;\r\n.timer off\r\nselect 'x;")
    told.feed(f".read {tmp_path}/a.sql")
    assert told.answers == [[(1,)]]
    assert "ends within a text" in capsys.readouterr().err
    assert not told.shell.pending


def test_the_timer(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(".timer on", "select 1;", ".timer off", "select 2;")
    assert len(re.findall(r"[\d.]+ s \(CPU [\d.]+ s\)", capsys.readouterr().err)) == 1


def test_help_tells_every_command(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    for asked in (".help", "help", "help;", "\\?"):
        told.feed(asked)
        printed = capsys.readouterr().out
        assert all(name in printed for name in COMMANDS)
    told.feed(".help once")
    assert capsys.readouterr().out.split()[:2] == [".once", "FILE"]
    assert set(ALIASES.values()) <= set(COMMANDS)


@pytest.mark.parametrize("line", [".quit", ".exit;", "exit", "QUIT;", " quit ; ", "\\q"])
def test_leaving(told: Told, line: str) -> None:
    assert told.feed(line).shell.done


def test_words_of_a_question_are_no_commands(told: Told) -> None:
    told.feed("select", "exit", "from (select 1 as exit);", ".5 + 1;")
    assert told.answers == [[(1,)]]
    assert not told.shell.done


def test_an_unknown_command_names_the_nearest(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed(".shcema events")
    assert "did you mean .schema?" in capsys.readouterr().err
    told.feed(".schema evnts")
    assert "did you mean events?" in capsys.readouterr().err


def test_statements_without_an_answer_print_nothing(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.feed("set threads = 1;", "create temp table t as select 1;")
    assert told.answers == []
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_what_is_remembered(still: Lake) -> None:
    remembered: list[str] = []
    shell = Shell(Database(still), lambda relation: None, remember=remembered.append)
    for line in ("select 1", "as a; -- one", ".tables ;", "", "selec;", "select 1; select", "2;"):
        shell.feed(line)
    assert remembered == ["select 1\nas a; -- one", ".tables ;", "selec;", "select 1;", "select\n2;"]
