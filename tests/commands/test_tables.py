"""No table cuts what tells rows apart, however narrow the terminal is."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import tokenlake.commands
from tests.fixtures.lakes import make_lake
from tests.fixtures.store_oracle import Row
from tests.fixtures.stores import T0, arguments, make
from tokenlake import cli
from tokenlake.commands._tables import WholeTable, print_tables
from tokenlake.commands.neighbors import table_of_neighbors
from tokenlake.retrieval.edges import EdgeModel
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.identity import Identity

LONG = "a-name-that-is-longer-than-the-terminal-is-wide-and-so-must-be-broken-somewhere-"
NARROW = pytest.mark.parametrize("columns", [40, 80])


def drawn(table: WholeTable, width: int) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@given(st.data())
@settings(max_examples=25)
def test_every_letter_of_every_cell_is_shown(data: st.DataObject) -> None:
    """Each name and each cell is a letter of its own, so many times."""
    columns = data.draw(st.integers(1, 9), label="columns")
    lengths = data.draw(
        st.lists(st.lists(st.integers(1, 90), min_size=columns, max_size=columns), min_size=2, max_size=4),
        label="lengths",
    )
    letters = iter(map(chr, range(ord("Ā"), ord("Ā") + 100)))
    cells = [[next(letters) * length for length in row] for row in lengths]
    table = WholeTable(*cells[0], title=next(letters) * data.draw(st.integers(1, 120), label="title"))
    for row in cells[1:]:
        table.add_row(*row)
    width = data.draw(st.sampled_from([40, 80, 140]), label="width")
    text = drawn(table, width)
    repeats = 1 if "│" in text else len(cells) - 1  # where each row is a list, it names its cells itself
    for name in cells[0]:
        assert text.count(name[0]) == len(name) * repeats
    for cell in (cell for row in cells[1:] for cell in row):
        assert text.count(cell[0]) == len(cell)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_brackets_are_no_markup() -> None:
    table = WholeTable("[bold]", title="[red]")
    table.add_row("[a]")
    text = drawn(table, 80)
    assert all(word in text for word in ("[bold]", "[red]", "[a]"))


def test_a_pipe_gets_every_line_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = WholeTable("user")
    table.add_row(LONG * 4)
    print_tables(table)
    assert LONG * 4 in capsys.readouterr().out


def test_every_table_is_one_of_these() -> None:
    files = {path.name: path.read_text() for path in Path(tokenlake.commands.__file__).parent.glob("*.py")}
    made = {name for name, text in files.items() if re.search(r"rich\.table import|(?<!Whole)Table\(", text)}
    assert made == {"_tables.py"}


@NARROW
def test_versions_and_status(columns: int, tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake")
    for last in "ΩΨ":
        lake.catalog.add_version(LONG + last, "iat", {})
    for command in ("versions", "status"):
        said = CliRunner().invoke(cli.app, [command, str(lake.root)], env={"COLUMNS": str(columns)})
        assert said.exit_code == 0
        whole = re.sub(r"\s", "", said.output)
        assert all(LONG + last in whole for last in "ΩΨ")


@NARROW
def test_fetch(columns: int, tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    store.write_day(dt.date(2017, 3, 1), **arguments([Row(LONG + "Ω", T0 + 1, 1, 1, T0 + 2)]))
    asked = ["fetch", str(store.path), LONG + "Ω", "--before", "2024-01-01"]
    said = CliRunner().invoke(cli.app, asked, env={"COLUMNS": str(columns)})
    assert said.exit_code == 0, said.output
    whole = re.sub(r"\s", "", said.output)
    assert LONG + "Ω" in whole


@NARROW
def test_neighbors(columns: int) -> None:
    """Of three users, each like the two others."""
    users = pa.array([LONG + last for last in "ΩΨΦ"])
    targets = np.array([1, 2, 0, 2, 0, 1])
    graph = Graph(
        Identity("v", "c", dt.date(2024, 3, 1)),
        users,
        np.arange(0, 7, 2),
        targets,
        np.full(6, 0.5),
        np.ones(3),
        EdgeModel(),
    )
    text = re.sub(r"[\s│]", "", drawn(table_of_neighbors(graph, users[:1], 2), columns))
    assert all(LONG + last in text for last in "ΩΨΦ")
