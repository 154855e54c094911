"""The prompt in a terminal: history, the bar of a long question, and a whole session."""

from __future__ import annotations

import io
import os
import pty
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.patience import wait_until
from tokenlake._lake import Lake
from tokenlake.commands import _shell_prompt, _waiting

readline = pytest.importorskip("readline")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("click.get_app_dir", lambda name: str(tmp_path / name))
    readline.clear_history()
    yield tmp_path / "tokenlake"
    readline.clear_history()


def test_history_has_an_entry_a_question(home: Path) -> None:
    entries = ["select 1;", "select 2\n-- two\nas a;", ".tables", "select 'é';"]
    with _shell_prompt.history() as remember:
        for entry in [*entries, entries[-1]]:
            remember(entry)
    readline.clear_history()
    with _shell_prompt.history():
        recalled = [readline.get_history_item(i + 1) for i in range(readline.get_current_history_length())]
    assert recalled == entries


def test_history_is_private_and_bounded(home: Path) -> None:
    home.mkdir()
    file = home / "sql_history"
    file.write_text("".join(f"select {i};\n" for i in range(5000)))
    with _shell_prompt.history() as remember:
        remember("select 'last';")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = file.read_text().splitlines()
    assert lines[-2:] == ["select 4999;", "select 'last';"]
    assert len(lines) < 2000


def test_a_home_that_cannot_be_written(home: Path) -> None:
    home.touch()
    with _shell_prompt.history() as remember:
        remember("select 1;")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_wiped_by_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiting, "_PATIENCE", 0.0)
    err, out = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", out)
    drawn = threading.Event()

    class Slow:
        def progress(self) -> float:
            drawn.set()
            return 40.0

        def interrupt(self) -> None: ...

    def answer() -> None:
        drawn.wait()
        wait_until(lambda: "40 %" in err.getvalue(), "the bar")
        print("the answer")
        assert err.getvalue().endswith("\r\x1b[K")

    _waiting.interruptible(Slow(), answer)  # type: ignore[arg-type]  # as much of a database as the bar asks
    assert out.getvalue() == "the answer\n"
    assert err.getvalue().endswith("\r\x1b[K")


def test_no_bar_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], still: Lake
) -> None:
    monkeypatch.setattr(_waiting, "_PATIENCE", 0.0)
    from tokenlake.lake.database import Database

    database = Database(still)
    _waiting.interruptible(database, lambda: print(database.sql("select sum(sin(range)) from range(10_000_000)")))
    assert capsys.readouterr().err == ""


#: Takes the standard input for the terminal whose Ctrl-C interrupts, then runs the command of its arguments.
_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Session:
    """`tokenlake sql` on a pseudo-terminal."""

    def __init__(self, lake: Path, home: Path) -> None:
        self._master, slave = pty.openpty()
        environment = os.environ | {"XDG_CONFIG_HOME": str(home), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, sys.executable, "-m", "tokenlake", "sql", str(lake)],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._text += os.read(self._master, 65536).decode("utf-8", "replace")
            except OSError:  # the terminal is closed
                return

    def type(self, keys: str, until: str) -> str:
        """Type keys, wait for a pattern in what comes, and give what came."""
        start = len(self._text)
        os.write(self._master, keys.encode())
        wait_until(lambda: re.search(until, self._text[start:]), f"{until!r} after {keys!r}")
        return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", self._text[start:])

    def end(self, keys: str) -> int:
        os.write(self._master, keys.encode())
        code = self._process.wait()
        self._reader.join()
        os.close(self._master)
        return code


def test_a_session(lake: Lake, tmp_path: Path) -> None:
    session = Session(lake.root, tmp_path)
    prompt = r"tokenlake> $"
    session.type("", prompt)
    session.type("select 40 + 2 as answer\n", r"-> $")
    assert re.search(r"\b42\b", session.type("; -- end\n", prompt))
    # The question of two lines is one entry, which can be edited.
    assert "answer" in session.type("\x1b[A", "-- end")
    assert re.search(r"\b42\b", session.type("\n", prompt))
    assert "clicked_known_at" in session.type("select CLICKED_K from events\x01\x1bf\x1bf\t", "clicked_known_at")
    session.type("\x03", prompt)
    assert "event_id" in session.type("\\d events;\n", prompt)
    assert "no command" in session.type(".nothing\n", prompt)
    assert "ok" in session.type("create temp table t as select 7 as seven;\n", prompt)
    assert "seven" in session.type("from t;\n", prompt)
    session.type("select count(*) from range(100000000000) where range % 7 = sin(range);\n", "Ctrl-C ends it")
    assert "interrupted" in session.type("\x03", prompt)
    file = tmp_path / "x.csv"
    session.type(f"from t;\n.last {file}\n", "written to")
    session.type(f"\n.last {file}\n", r"Replace it\? \[y/N\]")
    session.type("n\n", "nothing was done")
    assert session.end("exit\n") == 0
    entries = (tmp_path / "tokenlake" / "sql_history").read_text().splitlines()
    assert entries[0] == "select 40 + 2 as answer\x01; -- end"


def test_control_d_leaves(lake: Lake, tmp_path: Path) -> None:
    session = Session(lake.root, tmp_path)
    session.type("", r"tokenlake> $")
    assert session.end("\x04") == 0
