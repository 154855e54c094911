import datetime as dt
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.fake_lake import FakeLake
from tests.fixtures.patience import HANG_S
from tests.lake.events import EVENTS, SCHEMA, T0, dense, simple, table
from tokenlake.errors import LockedError, SchemaError, StorageError
from tokenlake.lake.ingest import ingest
from tokenlake.storage.locks import hold

row_values = st.tuples(
    st.one_of(st.integers(0, 3), st.none()),
    st.integers(0, 3),
    st.integers(0, 5).map(lambda k: T0 + k * 40_000),
    st.sampled_from("ab"),
    st.sampled_from([0, 1, 2]),
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(row_values, max_size=25), cut=st.integers(0, 25), seed=st.integers(0, 9))
def test_order_and_cuts_do_not_matter(
    rows: list[tuple[Any, ...]], cut: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, shuffled, pieces = (FakeLake(tmp_path_factory.mktemp("lake"), EVENTS) for _ in range(3))
    report = ingest(whole, table(rows))
    assert report.accepted + report.duplicates + report.quarantined == len(rows)
    good = {row for row in rows if row[0] is not None and row[4] != 2}
    assert report.accepted == len(good) == whole.events.count()
    mixed = rows.copy()
    random.Random(seed).shuffle(mixed)
    ingest(shuffled, table(mixed))
    ingest(pieces, table(rows[cut:]))
    ingest(pieces, table(rows[:cut]))
    assert whole.rows() == shuffled.rows() == pieces.rows()
    versions = (whole.events.commit_version(), whole.quarantine.commit_version())
    again = ingest(whole, table(rows))
    assert (again.accepted, again.duplicates, again.days) == (0, len(rows) - report.quarantined, ())
    assert (whole.events.commit_version(), whole.quarantine.commit_version()) == versions


def test_declared_ids(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, EVENTS | {"id": "id"})
    first = simple(10).append_column("id", [[f"e{i}" for i in range(10)]])
    assert ingest(lake, first).accepted == 10
    assert lake.events.schema.field("event_id").type == pa.string()
    moved = first.slice(0, 2).set_column(2, "timestamp", [[T0 + 10 * 86_400] * 2])  # another day, the same ids
    twice = pa.concat_tables([first.slice(0, 1), moved, first.slice(9).set_column(0, "user_id", [[99]])])
    report = ingest(lake, twice)
    assert (report.accepted, report.duplicates, report.quarantined) == (0, 1, 3)
    assert report.reasons == {"event id stands for another event already": 3}
    assert lake.quarantine.read()["row_number"].to_pylist() == [2, 3, 4]
    assert '"user_id": 99' in lake.quarantine.read()["row"].to_pylist()[2]
    version = lake.quarantine.commit_version()
    assert ingest(lake, twice).quarantined == 3
    assert lake.quarantine.commit_version() == version


def test_within_one_source_the_first_stands(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, EVENTS | {"id": "id"})
    source = simple(3).append_column("id", [[5, 5, 5]])
    report = ingest(lake, pa.concat_tables([source, source.slice(0, 1)]))
    assert (report.accepted, report.duplicates, report.quarantined) == (1, 1, 2)
    assert lake.rows()[0]["item_id"] == 0


def test_late_events_mark_published_days(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, EVENTS)
    ingest(lake, simple(48))
    day = dt.date(2017, 3, 1)
    lake.catalog.published = {day, dt.date(2017, 3, 2)}
    assert ingest(lake, simple(48)).reruns == ()
    assert lake.catalog.marked == []
    late = table([(1, 1, T0 + 1, "late", 0)])
    assert ingest(lake, late, dry_run=True).reruns == (day,)
    assert lake.catalog.marked == []
    report = ingest(lake, late)
    assert (report.days, report.reruns, set(lake.catalog.marked)) == ((day,), (day,), {day})
    ingested = sorted(set(lake.events.read(day=day)["ingested_at"].to_pylist()))
    assert len(ingested) == 2
    assert lake.events.newest("ingested_at") == int(ingested[-1].timestamp() * 1_000_000)


def test_ingested_at_grows_though_the_clock_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> dt.datetime:  # type: ignore[override]  # the clock always says the same
            return dt.datetime(2020, 1, 1, tzinfo=tz)

    monkeypatch.setattr("tokenlake.lake.ingest.dt.datetime", Frozen)
    lake = FakeLake(tmp_path, EVENTS)
    seen = []
    for i in range(3):
        ingest(lake, table([(i, 1, T0, "a", 0)]))
        seen.append(lake.events.newest("ingested_at"))
    assert seen == sorted(set(seen))


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path / "lake", EVENTS)
    source = pa.concat_tables([simple(5), table([(None, 1, T0, "a", 0)])])
    dry = ingest(lake, source, dry_run=True)
    assert not lake.data.exists()
    assert "timestamp: integers read as seconds" in dry.notes
    assert dry.samples[0][0] == "user id is missing"
    assert dry == ingest(lake, source)


def test_new_columns_of_the_config(tmp_path: Path) -> None:
    ingest(FakeLake(tmp_path, EVENTS), simple(5))
    wider = FakeLake(tmp_path, EVENTS | {"features": {"kind": "categorical", "tags": "multi", "image": "vector"}})
    rows = simple(2).append_column("tags", [["x|y", None]]).append_column("image", pa.array([[1.0, 2.0], None]))
    assert ingest(wider, rows.set_column(0, "user_id", [[50, 51]])).accepted == 2
    table_ = wider.events.read().sort_by("user_id")
    assert table_.schema == wider.events.schema
    assert table_["tags"].to_pylist() == [None] * 5 + [["x", "y"], None]


def test_ragged_vectors_and_nan(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, {"features": {"image": "vector"}})
    images = [[1.0, 2.0], [1.0], [1.0, float("nan")], None, [3.0, 4.0], [float("inf"), 1.0], [None, 1.0]]
    source = pa.table({"user_id": range(7), "item_id": range(7), "timestamp": [T0] * 7, "image": images})
    report = ingest(lake, source)
    assert (report.accepted, report.quarantined) == (3, 4)
    assert set(report.reasons) == {"image has another length than 2", "image holds NaN, infinity or a missing number"}
    longer = pa.table({"user_id": [9] * 3, "item_id": [1, 2, 3], "timestamp": [T0] * 3, "image": [[1.0, 2.0, 3.0]] * 3})
    assert ingest(lake, longer).quarantined == 3


def test_typed_ids_of_another_type(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, EVENTS)
    ingest(lake, simple(3))
    strings = simple(3).set_column(0, "user_id", [["1", "2", "x"]])
    with pytest.raises(SchemaError, match=r"user ids are string.*int64 since its first"):
        ingest(lake, strings)
    with pytest.raises(SchemaError, match="a lake holds one"):
        ingest(FakeLake(tmp_path / "new", EVENTS), [simple(3), strings])
    assert lake.events.count() == 3


def test_streams_and_batches(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, EVENTS)
    told: list[tuple[str, int, int]] = []
    reader = pa.RecordBatchReader.from_batches(SCHEMA, simple(100).to_batches(max_chunksize=9))
    report = ingest(lake, [reader, simple(20).to_batches()[0]], progress=lambda *a: told.append(a))
    assert (report.accepted, report.duplicates) == (100, 20)
    assert told[-1][0] == "writing"
    assert ("reading", 120, 120) in told
    assert not (tmp_path / "ingest.tmp").exists()


def test_nothing_but_bad_rows(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, EVENTS)
    report = ingest(lake, table([(None, 1, T0, "a", 0)] * 3))
    assert (report.accepted, report.quarantined, report.days) == (0, 3, ())
    assert not lake.events.exists
    assert lake.quarantine.count() == 3


def test_another_ingest_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenlake.lake.ingest.PATIENCE_S", 0.0)
    lake = FakeLake(tmp_path, EVENTS)
    with hold(tmp_path / "locks" / "ingest.lock", "ingest"), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        ingest(lake, simple(3))


# Disks that refuse, and processes that die.


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file where the folder should be")
    lake = FakeLake(tmp_path / "lake", EVENTS)
    with pytest.raises(StorageError):
        ingest(lake, simple(3))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "tables").write_text("in the way")
    with pytest.raises(StorageError, match="two"):
        ingest(FakeLake(tmp_path / "two", EVENTS), simple(3))


_FULL = """
import resource, sys
from pathlib import Path
from tests.fixtures.fake_lake import FakeLake
from tests.lake.events import EVENTS, dense
from tokenlake.errors import StorageError
from tokenlake.lake.ingest import ingest
lake = FakeLake(Path(sys.argv[1]), EVENTS)
ingest(lake, dense(10))
lake.events.read()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    ingest(lake, dense(50_000))
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [2_000, 200_000])
def test_a_full_disk(tmp_path: Path, size: int) -> None:
    """No file may grow past a size: what a full disk looks like to the writer."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path), str(size)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert "no event was added" in done.stdout, done
    lake = FakeLake(tmp_path, EVENTS)
    assert lake.events.count() == 10
    assert ingest(lake, dense(50_000)).accepted == 49_990


_WORK = """
import sys
from pathlib import Path
from tests.fixtures.fake_lake import FakeLake
from tests.lake.events import EVENTS, dense
from tokenlake.lake.ingest import ingest
lake = FakeLake(Path(sys.argv[1]), EVENTS)
first, last = int(sys.argv[2]), int(sys.argv[3])
print("go", flush=True)
print(ingest(lake, dense(last).slice(first)).accepted, flush=True)
"""


def work(path: Path, first: int, last: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _WORK, str(path), str(first), str(last)], stdout=subprocess.PIPE)


@pytest.mark.parametrize("after", [0.02, 0.1, 0.3])
def test_a_killed_ingest_is_completed_by_the_next(tmp_path: Path, after: float) -> None:
    ingest(FakeLake(tmp_path, EVENTS), dense(10))
    with work(tmp_path, 0, 20_000) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
    lake = FakeLake(tmp_path, EVENTS)
    assert lake.events.count() in {10, 20_000}
    assert lake.events.read().num_rows == lake.events.count()
    report = ingest(lake, dense(20_000))
    assert report.accepted + report.duplicates == 20_000
    assert lake.events.count() == 20_000
    assert not (tmp_path / "ingest.tmp").exists()


def test_a_failure_between_the_files_and_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = FakeLake(tmp_path, EVENTS)
    ingest(lake, simple(10))
    before = sorted(p for p in tmp_path.rglob("*.parquet"))
    monkeypatch.setattr(
        type(lake.events), "commit_files", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StorageError, match="No space left"):
        ingest(lake, simple(20))
    assert sorted(p for p in tmp_path.rglob("*.parquet")) == before
    monkeypatch.undo()
    assert ingest(lake, simple(20)).accepted == 10


def test_two_processes_at_once(tmp_path: Path) -> None:
    with work(tmp_path, 0, 600) as one, work(tmp_path, 300, 900) as two:
        counts = [int(p.communicate(timeout=HANG_S)[0].split()[-1]) for p in (one, two)]
    assert sum(counts) == 900
    assert FakeLake(tmp_path, EVENTS).events.count() == 900
