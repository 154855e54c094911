"""Answers in a real IPython, which draws each object in the forms that it has."""

from __future__ import annotations

import json
import subprocess
import sys

from tokenlake._lake import Lake

NOTEBOOK = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("import duckdb, tokenlake; lake = tokenlake.open(sys.argv[1])".replace("sys.argv[1]", repr(sys.argv[1])))
print(json.dumps([shell.display_formatter.format(shell.ev(code))[0] for code in json.loads(sys.argv[2])]))
"""


def drawn(lake: Lake, *cells: str) -> list[dict[str, str]]:
    """What IPython draws of the value of each cell."""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, str(lake.root), json.dumps(cells)], capture_output=True, text=True, check=True
    )
    forms: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return forms


def test_answers_are_tables_of_html(still: Lake) -> None:
    ours, harmful, theirs = drawn(
        still,
        "lake.sql('select user_id, count(*) as n from events group by 1 order by 1')",
        'lake.sql("select \'<b>x</b>\' as \\"<i>a</i>\\"")',
        "duckdb.sql('select 7 as a')",
    )
    html = ours["text/html"]
    assert html.count("<tr>") == 3
    assert "user_id" in html
    assert 'title="bigint"' in html.lower()
    assert "text/plain" in ours
    assert "<b>" not in harmful["text/html"]
    assert "<i>" not in harmful["text/html"].replace("<i>null</i>", "")
    assert "dataframe" in theirs["text/html"], "other relations are shown as DuckDB shows them"
