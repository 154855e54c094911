from __future__ import annotations

import datetime as dt
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.catalog_checks import DAY
from tests.fixtures.patience import HANG_S
from tokenlake.catalog import Catalog, connect, models
from tokenlake.catalog.connect import as_url, scrub, to_json
from tokenlake.catalog.models import HEAD, Instant
from tokenlake.catalog.runs import is_alive, process_started
from tokenlake.errors import ConfigError, ConflictError, CorruptionError, StorageError, TerminalError

# No shell: our own interpreter on our own text.
OPEN = "import sys; from tokenlake.catalog import Catalog; print(len(Catalog.open(sys.argv[1]).versions()))"
HANG = """
import sys, time, datetime
from tokenlake.catalog import Catalog
with Catalog.open(sys.argv[1]).run("train", datetime.date(2017, 3, 1), "v1"):
    print("running", flush=True)
    time.sleep(36_000)
"""


def test_head_is_the_newest_migration() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(connect.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_concurrent_first_opens(tmp_path: Path) -> None:
    path = tmp_path / "new" / "catalog.sqlite"
    openers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", OPEN, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [opener.communicate(timeout=HANG_S)[0] for opener in openers] == ["0\n"] * 4
    assert sqlite3.connect(path).execute("pragma journal_mode").fetchone() == ("wal",)


def test_the_run_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    catalog = Catalog.open(path)
    process = subprocess.Popen([sys.executable, "-c", HANG, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "running\n"
        assert catalog.last_runs(1)[0].status == "running"
        process.send_signal(signal.SIGKILL)
    (run,) = catalog.last_runs(1)
    assert (run.status, run.error_kind) == ("killed", "transient")
    assert run.ended_at is not None
    assert catalog.done("v1", "train") == set()


def test_a_pid_given_to_another_process_is_not_alive() -> None:
    started = process_started(os.getpid())
    assert is_alive(os.getpid(), started)
    assert is_alive(os.getpid(), "")
    if started:  # Linux
        assert not is_alive(os.getpid(), "1")
    assert process_started(2**22 + 1) == ""
    assert not is_alive(2**22 + 1, "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mysql://u:hunter2@h/db", "'mysql' given"),
        ("sqlite://", "forgotten"),
        ("postgresql://u:hunter2@h:port/db", "not a SQLAlchemy URL"),
    ],
)
def test_urls_that_cannot_be(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        as_url(given)
    assert "hunter2" not in str(caught.value)


def test_no_password_is_told(tmp_path: Path) -> None:
    url = as_url("postgres://user:hunter2@localhost:1/db")
    assert url.drivername.startswith("postgresql+psycopg")
    assert "hunter2" not in repr(url)
    assert scrub("refused for user:hunter2", url) == "refused for user:***"
    catalog = Catalog.open(tmp_path / "c.sqlite")
    assert repr(catalog) == f"Catalog('sqlite:///{tmp_path}/c.sqlite')"


def test_a_newer_catalog_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    Catalog.open(path)
    with sqlite3.connect(path) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    connection.close()
    with pytest.raises(TerminalError, match="newer Tokenlake"):
        Catalog.open(path)


def test_files_that_are_no_catalog(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(CorruptionError, match="not a database"):
        Catalog.open(path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        Catalog.open(tmp_path / "file" / "c.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(StorageError, match="unable to open"):
        Catalog.open(tmp_path / "folder.sqlite")


def test_a_busy_catalog_is_a_transient_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.sqlite"
    catalog = Catalog.open(path)
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("begin immediate")
    with pytest.raises(ConflictError, match="try again"):
        catalog.mark_rerun([DAY], "late")
    assert catalog.restatements() == []  # readers go on
    blocker.close()


def test_json_of_numpy_and_nan() -> None:
    import numpy as np

    assert to_json({"b": np.float32(0.5), "a": [float("nan"), np.int64(3), None, True, DAY]}) == (
        '{"a": [null, 3, null, true, "2017-03-01"], "b": 0.5}'
    )


def test_instants_are_utc(tmp_path: Path) -> None:
    from sqlalchemy.dialects import sqlite

    east = dt.datetime(2017, 3, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    bound = Instant().process_bind_param(east, sqlite.dialect())
    assert bound == dt.datetime(2017, 3, 1)  # noqa: DTZ001  SQLite stores it so
    assert models.Instant().process_result_value(bound, sqlite.dialect()) == east
