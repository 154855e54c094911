"""Logged fetches give the same bytes again, whatever was written, merged or dropped since."""

from __future__ import annotations

import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.fixtures import stores
from tests.fixtures.store_oracle import DAY, Row
from tests.fixtures.stores import arguments, make
from tokenlake.cli import app
from tokenlake.errors import CorruptionError, NotFoundError
from tokenlake.times import NEVER, day_of
from tokenlake.tokens import parity
from tokenlake.tokens.replay import replay
from tokenlake.tokens.store import TokenStore

pytestmark = pytest.mark.usefixtures("place")


def rows(day: int, event: int, count: int = 20) -> list[Row]:
    return [Row(i % 4, day * DAY + i, event + i, 1, day * DAY + 2 * i) for i in range(count)]


def write(store: TokenStore, day: int, event: int) -> None:
    store.write_day(day_of(day * DAY), **arguments(rows(day, event)))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_replays_whatever_came_since(tmp_path: Path, dtype: str) -> None:
    writer = make(tmp_path / "store", dtype)
    log = tmp_path / "log"
    reader = TokenStore.open(writer.path, log=log)
    reader.fetch([1], before=NEVER)  # of an empty store
    for number in range(6):
        write(writer, number, 100 * number)
        reader.fetch([0, 1, 99], before=[NEVER, number * DAY + 7, 5], length=9)
        writer.append(**arguments([Row(1, 9 * DAY + number, number, 1, 0)]))
        reader.fetch([1], before=NEVER, available="daily")
        if number % 2:
            reader.refresh()
    write(writer, 9, 900)  # supersedes tail rows, so the tail has a new log
    reader.fetch([1], before=NEVER)
    writer.append(**arguments([Row(1, 11 * DAY, 5, 1, 0)]))
    last = reader.fetch([1], before=NEVER)
    assert last.timestamps[-1] == 11 * DAY  # the old snapshot followed the tail
    writer.compact(keep_days=2)
    write(writer, 2, 7)
    report = replay(log)
    assert (report.fetches, report.queries) == (1 + 6 * 2 + 2, 1 + 6 * 4 + 2)
    assert not report.collected


def test_a_changed_byte_is_found_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "store")
    write(store, 0, 0)
    reader = TokenStore.open(store.path, log=tmp_path / "log", keep_bytes=True)
    reader.fetch([0, 1], before=NEVER)
    monkeypatch.setattr(stores, "TAIL", None)  # a kept state has its tail in files
    other = make(tmp_path / "other")  # the same rows, but for one value of user 1
    changed = [r._replace(event=r.event + 1) if i == 5 else r for i, r in enumerate(rows(0, 0))]
    other.write_day(day_of(0), **arguments(changed))
    place = tmp_path / "log" / "generations" / "00000001"
    shutil.rmtree(place)
    shutil.copytree(other.path, place)
    with pytest.raises(
        CorruptionError,
        match=r"query 1 \(user 1 .*\['values', 'event'\]: first in row 1, byte 7, 0x45 then and 0x46 now",
    ):
        replay(tmp_path / "log")
    run = CliRunner().invoke(app, ["verify", str(store.path), "--parity", str(tmp_path / "log")])
    assert isinstance(run.exception, CorruptionError) or run.exit_code == 1


def replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: int) -> None:
    """Put a state in the place of generation 1 that differs in the value of one event."""
    monkeypatch.setattr(stores, "TAIL", None)  # a kept state has its tail in files
    other = make(tmp_path / "other")
    changed = [r._replace(event=r.event + 1) if i == event else r for i, r in enumerate(rows(0, 0))]
    other.write_day(day_of(0), **arguments(changed))
    place = tmp_path / "log" / "generations" / "00000001"
    shutil.rmtree(place)
    shutil.copytree(other.path, place)


def test_without_bytes_the_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "store")
    write(store, 0, 0)
    reader = TokenStore.open(store.path, log=tmp_path / "log")
    reader.fetch([0, 1], before=NEVER)
    replaced(tmp_path, monkeypatch, event=13)
    with pytest.raises(
        CorruptionError,
        match=r"query 1 \(user 1 before .*\['values', 'event'\]: first in row 3 of 5, now of 1970-01-01T00:00:00.000013 ",
    ):
        replay(tmp_path / "log")


def test_fetches_of_keys_are_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "store")
    write(store, 0, 0)
    reader = TokenStore.open(store.path, log=tmp_path / "log")
    users, times = [1, 2, 2, 99], [5, 6, 7, 5]
    answers = [reader.fetch_at(users, times, as_of=as_of) for as_of in (None, 13, [NEVER, 0, 5, 5], 10)]
    assert answers[0].missing is not None
    assert answers[0].missing.tolist() == [False, False, True, True]
    assert [a.known["clicked"].sum() for a in answers] == [0, 2, 1, 0], "labels as known at each time"
    write(store, 0, 50)
    store.append(**arguments([Row(2, 7, 3, 1, 0)]))
    report = replay(tmp_path / "log")
    assert (report.fetches, report.queries) == (4, 16)
    replaced(tmp_path, monkeypatch, event=6)
    with pytest.raises(
        CorruptionError, match=r"fetch 0 .*query 1 \(user 2 at 1970-01-01T00:00:00.000006\) .*first in row 0"
    ):
        replay(tmp_path / "log")


@pytest.mark.parametrize(
    ("dtype", "shape"), [("f2", (64,)), ("f4", (3,)), ("i1", ()), ("i1", (5,)), ("i8", ()), ("?", ())]
)
def test_a_row_is_told_by_any_of_its_bits(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    data = rng.integers(0, 2 if dtype == "?" else 256, (8, size), np.uint8)
    plain = parity.row_sums(data.view(dtype).reshape(8, *shape))
    assert plain.shape == (8,)
    for byte in range(size):
        for bit in range(1 if dtype == "?" else 8):
            other = data.copy()
            other[3, byte] ^= 1 << bit
            differs = parity.row_sums(other.view(dtype).reshape(8, *shape)) != plain
            assert differs.tolist() == [i == 3 for i in range(8)]
    assert parity.row_sums(np.empty((0, *shape), dtype)).shape == (0,)


def test_a_collected_generation_is_said_to_be(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    write(store, 0, 0)
    reader = TokenStore.open(store.path, log=tmp_path / "log")
    reader.fetch([0], before=NEVER)
    write(store, 1, 0)
    reader.refresh()
    reader.fetch([0], before=NEVER)
    shutil.rmtree(tmp_path / "log" / "generations" / "00000001")
    run = CliRunner().invoke(app, ["verify", str(store.path), "--parity", str(tmp_path / "log")])
    assert run.exit_code == 0, run.output
    assert "1 fetches of 1 queries gave the same bytes again" in run.output
    assert "generation 1 was collected: 1 fetches" in run.output
    with pytest.raises(NotFoundError, match="no logged fetches"):
        replay(tmp_path)


def test_a_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "FILE_BYTES", 400)
    monkeypatch.setattr(parity, "FILES", 3)
    store = make(tmp_path / "store")
    reader = TokenStore.open(store.path, log=tmp_path / "log")
    for number in range(8):
        write(store, number, 0)
        reader.refresh()
        for _ in range(3):
            reader.fetch([0], before=NEVER)
    files = sorted((tmp_path / "log").glob("*.fetches"))
    assert len(files) == 3
    kept = {p.name for p in (tmp_path / "log" / "generations").iterdir()}
    assert kept == {p.name.split("-")[0] for p in files}
    assert replay(tmp_path / "log").fetches


def test_strings_processes_and_plain_handles(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    reader = TokenStore.open(store.path, log=tmp_path / "log")
    store.append(**arguments([Row("a", 5, 1, 1, 0)]))
    again = pickle.loads(pickle.dumps(reader))
    assert len(reader.fetch(["a", "b"], before=NEVER).values) == 1
    assert len(again.fetch(np.array(["a"]), before=NEVER).values) == 1
    assert replay(tmp_path / "log").fetches == 2
    assert type(TokenStore.open(store.path)) is TokenStore
    assert "log" not in vars(TokenStore.open(store.path))


def test_appends_of_another_thread_come_before_or_after_a_logged_fetch(tmp_path: Path) -> None:
    writer = make(tmp_path / "store")
    store = TokenStore.open(writer.path, log=tmp_path / "log")

    def append() -> None:
        for number in range(60):
            store.append(**arguments([Row(number % 2, DAY + number, number, 1, 0)]))

    thread = threading.Thread(target=append)
    thread.start()
    asked = 0
    while thread.is_alive():
        store.fetch([0, 1], before=NEVER)
        asked += 1
        if asked % 5 == 0:
            write(writer, 0, asked)
            store.refresh()
    thread.join()
    assert len(store.fetch([0, 1], before=NEVER)) == 2
    assert replay(tmp_path / "log").fetches  # as many as its newest files hold
