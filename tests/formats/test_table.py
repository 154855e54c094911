from __future__ import annotations

import io

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.formats.oracle import written
from tokenlake.errors import SchemaError
from tokenlake.formats import FORMATS, Answer, Layout, terminal, write


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(query: str, width: int | None = None, rows: int | None = 50) -> str:
    return written(duckdb.sql(query), "table", rows, width)


def cells_of(table: str, line: str = "│") -> list[list[str]]:
    found = [each for each in table.splitlines() if each.startswith(line)]
    return [[cell.strip() for cell in each.strip(line).split(line)] for each in found]


def test_a_table() -> None:
    assert drawn("SELECT 7 AS id, 'a' AS name, NULL AS nothing, 1.25 AS x UNION ALL SELECT 12, 'bc', NULL, -10") == (
        "┏━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━┓\n"
        "┃      id ┃ name    ┃ nothing ┃             x ┃\n"
        "┃ INTEGER ┃ VARCHAR ┃ NULL    ┃ DECIMAL(12,2) ┃\n"
        "┡━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━┩\n"
        "│       7 │ a       │ null    │          1.25 │\n"
        "│      12 │ bc      │ null    │        -10.00 │\n"
        "└─────────┴─────────┴─────────┴───────────────┘\n"
        "2 rows\n"
    )


def test_the_footer_tells_whether_more_rows_follow() -> None:
    assert drawn("FROM range(50)").endswith("\n50 rows\n")
    assert drawn("FROM range(51)").endswith("\n50 rows shown, more follow (.maxrows 0, or -o FILE, gives all)\n")
    assert drawn("FROM range(1)").endswith("\n1 row\n")
    assert len(cells_of(drawn("FROM range(120)", rows=None))) == 120


def test_the_rest_of_the_rows_is_not_computed() -> None:
    shown = drawn("SELECT CASE WHEN i = 300000 THEN error('computed') ELSE i::VARCHAR END AS a FROM range(400000) t(i)")
    assert len(cells_of(shown)) == 50
    assert "more follow" in shown


def test_long_text_is_cut_in_its_middle_first() -> None:
    shown = drawn("SELECT 1234567890 AS id, repeat('a', 30) || repeat('z', 30) AS t, DATE '2024-01-01' AS d", width=60)
    assert cells_of(shown) == [["1234567890", "aaaaaaaaaaaaaaa…zzzzzzzzzzzzzz", "2024-01-01"]]
    assert all(len(line) == 60 for line in shown.splitlines()[:-1])
    assert "not shown" not in shown


def test_columns_of_the_middle_are_left_out_next() -> None:
    shown = drawn("SELECT " + ", ".join(f"{number}000000000000 AS c{number}" for number in range(1, 27)), width=80)
    (names, _), (row,) = cells_of(shown, "┃"), cells_of(shown)
    assert names == ["c1", "c2", "…", "c25", "c26"]
    assert row == ["1000000000000", "2000000000000", "…", "25000000000000", "26000000000000"]
    assert shown.endswith("1 row\n… 22 columns of 26 not shown; .mode line or .maxwidth 0 shows all\n")


def test_what_tells_rows_apart_is_never_cut() -> None:
    shown = drawn("SELECT 12345678901234567890 AS id, uuid '00000000-0000-0000-0000-00000000000a' AS u", width=20)
    assert "12345678901234567890" in shown


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "漢字", "🦆", "e\u0301", "long text here", "\x1b[2J", "\u202e", "\n"]), max_size=12),
    st.integers(24, 120),
)
def test_every_line_is_as_wide_as_the_others_and_fits(words: list[str], width: int) -> None:
    relation = duckdb.sql(
        "SELECT 1 AS id, $a AS a, $b AS b, $a || $b AS c, 9 AS last",
        params={"a": "".join(words), "b": "b" * len(words)},
    )
    lines = written(relation, "table", width=width).splitlines()
    table = [line for line in lines if line[0] in "┏┃┡│└"]
    assert len({cell_len(line) for line in table}) == 1
    assert cell_len(table[0]) <= width
    assert "\x1b" not in "".join(lines)


def test_long_lists_are_shortened() -> None:
    shown = drawn(
        "SELECT list_transform(range(64), lambda x: x / 3)::FLOAT[] AS v, [1.5, NULL] AS w, range(8) AS r, ['a\"b'] AS t"
    )
    assert "[0.0, 0.3333, 0.6667, 1.0, 1.3333, 1.6667, ... 64 in all]" in shown
    assert "[1.5, null]" in shown
    assert "[0, 1, 2, 3, 4, 5, 6, 7]" in shown
    assert '["a\\"b"]' in shown


_BAD = "SELECT 'a' || chr(27) || '[31m' || chr(8238) || chr(155) || 'b' AS \"n\x1b]0;x\x07\", E'two\\nlines' AS t"


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "parquet"])
def test_a_terminal_gets_no_control_characters(form: str) -> None:
    file = Terminal()
    write(Answer.of(duckdb.sql(_BAD)), form, file, Layout())
    text = file.getvalue().replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert not set(text) & set("\x1b\u202e\x9b\x07")
    assert "n\\u001" in text if form == "json" else "\\x1b]0;x\\x07" in text.replace("\\\\", "\\").replace("\\]", "]")


def test_files_of_csv_hold_what_the_data_is() -> None:
    assert "a\x1b[31m\u202e\x9bb" in written(duckdb.sql(_BAD), "csv")


def test_nulls_and_types_are_dim_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = Terminal()
    write(Answer.of(duckdb.sql("SELECT NULL AS a")), "table", file)
    assert "│ \x1b[2mnull\x1b[0m │" in file.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    file = Terminal()
    write(Answer.of(duckdb.sql("SELECT NULL AS a")), "table", file)
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize("form", ["table", "line"])
def test_plans_are_plain_text(form: str) -> None:
    shown = written(duckdb.sql("EXPLAIN SELECT * FROM range(4)"), form)
    assert "RANGE" in shown
    assert "explain_key" not in shown
    assert "row" not in shown.splitlines()[-1]


def test_lines() -> None:
    shown = written(duckdb.sql("SELECT 1 AS id, NULL AS longer, E'x\\ny' AS t FROM range(2)"), "line", rows=1)
    assert shown == (
        "    id = 1\nlonger = null\n     t = x\\ny\n\n1 row shown, more follow (.maxrows 0, or -o FILE, gives all)\n"
    )


def test_markdown() -> None:
    shown = written(duckdb.sql("SELECT 1 AS a_b, 'x|y<b>\n*' AS t, NULL AS n"), "markdown")
    assert shown == "| a\\_b | t | n |\n| ---: | --- | --- |\n| 1 | x\\|y\\<b\\>\\\\n\\* | null |\n"


def test_html_is_never_markup_from_data() -> None:
    shown = written(duckdb.sql('SELECT \'<script>"x"&\' AS "<b>", 1 AS n, NULL::VARCHAR AS t'), "html")
    assert "<script>" not in shown
    assert "<b>" not in shown
    assert '<th title="VARCHAR">&lt;b&gt;</th><th title="INTEGER" style="text-align: right">n</th>' in shown
    assert "<td>&lt;script&gt;&quot;x&quot;&amp;</td>" in shown
    assert ">null<" in shown
    assert "<p>1 row</p>" in shown


def test_box_is_a_table_and_others_are_unknown() -> None:
    relation = duckdb.sql("SELECT 1 AS a")
    assert written(relation, "box") == written(relation, "table")
    with pytest.raises(SchemaError, match="no format 'xml'; there are table, line"):
        written(relation, "xml")


@pytest.mark.parametrize(
    ("text", "most", "cut"),
    [("abcdefgh", 8, "abcdefgh"), ("abcdefgh", 5, "ab…gh"), ("abcdefgh", 4, "ab…h"), ("abc", 1, "…"), ("abc", 0, ""), ("漢字漢字", 5, "漢…字")],
)  # fmt: skip
def test_cutting_keeps_both_ends(text: str, most: int, cut: str) -> None:
    assert terminal.cut(text, most) == cut


def test_importing_is_cheap() -> None:
    import subprocess
    import sys

    code = (
        "import sys, duckdb, tokenlake.formats as f, io; f.write(f.Answer.of(duckdb.sql('SELECT 1 AS a')), 'table', io.StringIO());"
        "print(*(name for name in ('pandas', 'rich', 'sqlalchemy') if name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
