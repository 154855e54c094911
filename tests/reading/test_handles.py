"""Files that are replaced, written or taken away while they are read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenlake.errors import ChangedError, DamagedSourceError, SourceError, TransientError
from tokenlake.reading.handles import HELD, steady
from tokenlake.reading.source import open_source

ROWS = 2000


def table(k: int) -> pa.Table:
    return pa.table({"x": [k] * ROWS, "y": [k] * ROWS})


def write(path: Path, k: int) -> None:
    """In place, as most programs do."""
    if path.suffix == ".csv":
        path.write_text("x,y\n" + f"{k},{k}\n" * ROWS)
    else:
        pq.write_table(table(k), path, row_group_size=500)


def replace(path: Path, k: int) -> None:
    """By another file of the same name."""
    other = path.with_name(f".{path.name}.new{path.suffix}")
    write(other, k)
    other.replace(path)


def seen(path: Path, between: Callable[[], None]) -> tuple[set[int], set[int]]:
    """The values of two columns, one read after the other."""
    source = open_source(path)
    one = set(source.read(["x"])["x"].to_pylist())
    between()
    two = set(source.read(["y"])["y"].to_pylist())
    source.check()
    return one, two


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_a_file_that_is_replaced_gives_the_old_rows(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, 1)
    for given in (tmp_path / name, tmp_path):
        assert seen(given, lambda: replace(tmp_path / name, 2)) == ({1}, {1})
        replace(tmp_path / name, 1)
    assert seen(tmp_path / name, (tmp_path / name).unlink) == ({1}, {1})


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_a_file_that_is_written_in_place_is_read_anew(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, 1)
    times: Iterator[int] = iter(range(9))

    def meddle() -> None:
        if next(times) == 0:
            write(tmp_path / name, 2)

    assert steady(lambda: seen(tmp_path / name, meddle)) == ({2}, {2})
    with pytest.raises(ChangedError, match=name) as caught:
        steady(lambda: seen(tmp_path / name, lambda: write(tmp_path / name, 3)))
    assert isinstance(caught.value, TransientError)


def test_a_file_of_very_many_that_is_replaced(tmp_path: Path) -> None:
    for k in range(HELD + 1):
        pq.write_table(pa.table({"x": [1], "y": [1]}), tmp_path / f"{k:03}.parquet")
    last, times = tmp_path / f"{HELD:03}.parquet", iter(range(9))

    def meddle() -> None:
        if next(times) == 0:
            pq.write_table(pa.table({"x": [2], "y": [2]}), tmp_path / ".new")
            (tmp_path / ".new").replace(last)

    assert steady(lambda: seen(tmp_path, meddle)) == ({1, 2}, {1, 2})
    with pytest.raises(ChangedError):
        seen(tmp_path, last.unlink)


def test_files_that_come_while_a_folder_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenlake.reading import source

    write(tmp_path / "a.parquet", 1)
    write(tmp_path / "b.parquet", 1)
    find, calls = source.find, iter(range(9))

    def meddling(*given: object) -> object:
        found = find(*given)
        if next(calls) == 0:
            (tmp_path / "a.parquet").unlink()
            write(tmp_path / "c.parquet", 2)
        return found

    monkeypatch.setattr(source, "find", meddling)
    assert set(steady(lambda: open_source(tmp_path).read())["x"].to_pylist()) == {1, 2}


def test_damage_that_nobody_mends_is_damage(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 1)
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(DamagedSourceError):
        steady(lambda: open_source(tmp_path).read())


@pytest.mark.parametrize("how", [replace, write])
def test_readers_beside_a_writer_see_whole_files(how: Callable[[Path, int], None], tmp_path: Path) -> None:
    path, stop = tmp_path / "a.parquet", threading.Event()
    write(path, 0)

    def keep_writing() -> None:
        k = 0
        while not stop.is_set():
            k += 1
            how(path, k)
            stop.wait(0.01 * (k % 20))  # pauses of all lengths, so that a slow reader too sees a file that stays

    thread = threading.Thread(target=keep_writing)
    thread.start()
    told = whole = 0
    try:
        while whole < 20:
            try:
                one, two = steady(lambda: seen(path, lambda: None))
            except (ChangedError, SourceError):
                # A file that is written in place is empty or cut at times; one that is replaced never is.
                told += 1
            else:
                assert one == two
                assert len(one) == 1
                whole += 1
    finally:
        stop.set()
        thread.join()
    assert told == 0 or how is write
