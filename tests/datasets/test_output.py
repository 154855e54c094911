"""The folder of a data set: whole or marked as not, and never written over something else."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenlake.datasets._output import MARKER, DatasetReport, Output
from tokenlake.errors import SourceError

DAY = dt.date(2024, 2, 29)
EVENTS = pa.table({"user": ["a", "b"], "bid": [0.5, 1.5], "tags": [["x"], []]})


def write(folder: Path, **options: int) -> DatasetReport:
    output = Output(folder, "thing", options)
    output.start()
    output.write_day(DAY, [EVENTS, EVENTS])
    output.write_day(DAY, [EVENTS], "truth")
    return output.finish("project: thing\n", users=2, items=1, counts={"x": 3})


def test_report(tmp_path: Path) -> None:
    report = write(tmp_path / "a" / "b", seed=1)
    assert report == DatasetReport("thing", tmp_path / "a" / "b", 4, 2, 1, 1, DAY, DAY, {"x": 3})
    assert pq.read_table(report.folder / "landing/2024-02-29.parquet").equals(pa.concat_tables([EVENTS, EVENTS]))
    found = Output(report.folder, "thing", {"seed": 1}).finished()
    assert found is not None
    assert (found.events, found.counts, found.built) == (4, {"x": 3}, False)


def test_killed_half_way(tmp_path: Path) -> None:
    output = Output(tmp_path / "out", "thing", {})
    output.start()
    output.write_day(DAY - dt.timedelta(days=1), [EVENTS])
    assert Output(tmp_path / "out", "thing", {}).finished() is None
    write(tmp_path / "out")
    assert [file.name for file in (tmp_path / "out/landing").iterdir()] == ["2024-02-29.parquet"]


@pytest.mark.parametrize("file", ["landing/2024-02-29.parquet", "truth/2024-02-29.parquet", "tokenlake.yaml"])
def test_a_file_is_missing(tmp_path: Path, file: str) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / file).unlink()
    assert Output(tmp_path / "out", "thing", {}).finished() is None


def test_what_lies_beside_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / "tables").mkdir()
    (tmp_path / "out" / "landing/2024-02-29.parquet").unlink()
    write(tmp_path / "out")
    assert (tmp_path / "out" / "tables").is_dir()


def test_refusals(tmp_path: Path) -> None:
    write(tmp_path / "out", seed=1)
    with pytest.raises(
        SourceError, match=r"already holds thing with \{'seed': 1\}; asked for was thing with \{'seed': 2\}"
    ):
        Output(tmp_path / "out", "thing", {"seed": 2})
    (tmp_path / "out" / MARKER).write_text("{}")
    with pytest.raises(SourceError, match="cannot be understood"):
        Output(tmp_path / "out", "thing", {"seed": 1})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").touch()
    with pytest.raises(SourceError, match="is not an empty folder"):
        Output(tmp_path / "full", "thing", {})
    with pytest.raises(SourceError, match="is not an empty folder"):
        Output(tmp_path / "full" / "diary.txt", "thing", {})
    (tmp_path / "empty").mkdir()
    assert Output(tmp_path / "empty", "thing", {}).finished() is None
