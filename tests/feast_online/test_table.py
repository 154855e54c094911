"""The table beneath the online store: newest values, crashes, corruption, many writers. Needs no Feast."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feast_online.helpers import Oracle, Write, rows
from tests.fixtures.patience import HANG_S
from tokenlake.errors import CorruptionError
from tokenlake.feast.online import table as table_module
from tokenlake.feast.online.files import hashes, load
from tokenlake.feast.online.table import OnlineTable

ROOT = Path(__file__).parents[2]
KEYS = [b"", b"a", b"bb", b"12345678", b"123456789", b"a" * 40]
VALUES = st.dictionaries(st.sampled_from(["x", "y"]), st.binary(max_size=200), min_size=1)
WRITES = st.tuples(st.sampled_from(KEYS), st.integers(0, 4), st.none() | st.integers(0, 2), VALUES)


@settings(max_examples=60)
@given(st.lists(st.lists(WRITES, max_size=12), max_size=8), st.sampled_from([0, 2]))
def test_the_newest_value_of_each_feature_stands(batches: list[list[Write]], growth: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "GROWTH", growth)  # 0: runs are never merged
        table, oracle = OnlineTable(Path(folder) / "view"), Oracle()
        for batch in batches:
            table.write(rows(batch))
            oracle.write(batch)
            wanted = [*KEYS, b"never"]
            assert table.read(wanted, ["y", "x", "z"]) == [oracle.read(key, ["y", "x", "z"]) for key in wanted]
        fresh = OnlineTable(Path(folder) / "view")
        assert fresh.read(KEYS, ["x"]) == [oracle.read(key, ["x"]) for key in KEYS]
        table.verify()


def test_keys_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two such keys are known: a hash of one value stands in."""
    for module in (table_module, sys.modules["tokenlake.feast.online.files"]):
        monkeypatch.setattr(module, "hashes", lambda keys: np.zeros(len(keys), np.uint64))
    table, oracle = OnlineTable(tmp_path / "view"), Oracle()
    for time in (1, 2, 1):
        batch: list[Write] = [(bytes([i]), time, None, {"x": bytes([i, time])}) for i in range(time * 3)]
        table.write(rows(batch))
        oracle.write(batch)
    keys = [bytes([i]) for i in range(8)]
    assert table.read(keys, ["x"]) == [oracle.read(key, ["x"]) for key in keys]


def test_a_hash_is_of_the_key_alone() -> None:
    keys = [b"", b"\0", b"\0\0", b"abcdefgh", b"abcdefgh\0", *(bytes([i] * 35) for i in range(50))]
    together = hashes(pa.array(keys, pa.large_binary()))
    assert len(set(together.tolist())) == len(keys)
    assert together.tolist() == [int(hashes(pa.array([key], pa.large_binary()))[0]) for key in keys]
    assert (hashes(pa.array([b"x", *keys], pa.large_binary())[1:]) == together).all()


def test_a_read_touches_few_runs_however_many_writes(tmp_path: Path) -> None:
    table = OnlineTable(tmp_path / "view")
    for i in range(300):
        table.write(rows([(f"user {i % 97}".encode(), i, None, {"x": bytes(500)})]))
        manifest = load(table.folder)
        assert manifest is not None
        assert len(manifest.runs) <= 6
    assert len(list((table.folder / "runs").iterdir())) == len(manifest.runs)


def test_a_reader_sees_what_another_writes_and_a_dropped_table_made_again(tmp_path: Path) -> None:
    reader, writer = OnlineTable(tmp_path / "view"), OnlineTable(tmp_path / "view")
    assert reader.read([b"a"], ["x"]) == [None]
    for time in (1, 2):
        writer.write(rows([(b"a", time, None, {"x": b"%d" % time})]))
        found = reader.read([b"a"], ["x"])[0]
        assert found is not None
        assert (found.event, found.values) == (time, {"x": (b"%d" % time,)})
    writer.drop()
    assert reader.read([b"a"], ["x"]) == [None]
    writer.write(rows([(b"a", 1, None, {"x": b"again"})]))
    found = reader.read([b"a"], ["x"])[0]
    assert found is not None
    assert found.values == {"x": (b"again",)}


def test_a_removed_file_is_named(tmp_path: Path) -> None:
    table = OnlineTable(tmp_path / "view")
    table.write(rows([(b"a", 1, None, {"x": b"1"})]))
    (run,) = (table.folder / "runs").iterdir()
    run.unlink()
    for act in (lambda t: t.read([b"a"], ["x"]), OnlineTable.verify, lambda t: t.write(rows([(b"a", 2, None, {})]))):
        with pytest.raises(CorruptionError, match=run.name):
            act(OnlineTable(table.folder))


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    table, oracle = OnlineTable(tmp_path / "view"), Oracle()
    batch: list[Write] = [(b"key %d" % i, i, i % 3 or None, {"x": bytes([i]) * 40, "y": b"%d" % i}) for i in range(20)]
    batch += [(b"more", 1, None, {"x": b"only"})]
    table.write(rows(batch))
    oracle.write(batch)
    keys = [key for key, _, _, _ in batch]
    (run,) = (table.folder / "runs").iterdir()
    for path in (run, table.folder / "manifest"):
        good = path.read_bytes()
        rng = np.random.default_rng(0)
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            with pytest.raises(CorruptionError, match=path.name):
                OnlineTable(table.folder).verify()
            try:
                found = OnlineTable(table.folder).read(keys, ["x", "y"])
            except CorruptionError:
                continue
            assert found == [oracle.read(key, ["x", "y"]) for key in keys]
        path.write_bytes(good)
    table.verify()


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    table = OnlineTable(tmp_path / "view")
    table.write(rows([(b"a", 1, None, {"x": b"1"})]))
    (run,) = (table.folder / "runs").iterdir()
    run.write_bytes(run.read_bytes()[:-8])
    again = OnlineTable(table.folder)
    with pytest.raises(CorruptionError, match="bytes, the manifest says"):
        again.read([b"a"], ["x"])


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.feast_online.crash", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 100


def _write_many(folder: Path, who: int) -> None:
    table = OnlineTable(folder)
    for i in range(40):
        # Both write `both`; the later event time must win, whoever comes last.
        table.write(
            rows(
                [
                    (b"own %d" % who, i, None, {"x": b"%d" % i}),
                    (b"both", 2 * i + who, None, {"x": b"%d" % (2 * i + who)}),
                ]
            )
        )


def test_two_writers_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "project" / "view"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_many, args=(folder, who)) for who in (0, 1)]
    for writer in writers:
        writer.start()
    table, newest = OnlineTable(folder), -1
    while any(writer.is_alive() for writer in writers):
        (found,) = table.read([b"both"], ["x"])
        if found is not None:
            assert found.values == {"x": (b"%d" % found.event,)}
            assert found.event >= newest, "a read went back in time"
            newest = found.event
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = table.read([b"own 0", b"own 1", b"both"], ["x"])
    assert [f.values["x"] for f in found if f] == [(b"39",), (b"39",), (b"79",)]
    table.verify()
