import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.fixtures.fake_lake import FakeLake
from tokenlake.errors import ConfigError, ConflictError, CorruptionError, SchemaError
from tokenlake.lake.ingest import ingest
from tokenlake.lake.open_tables import open_tables
from tokenlake.lake.schema import TIMESTAMP, IdTypes, events_schema, label_columns
from tokenlake.lake.tables import Table

D1, D2, D3 = dt.date(2020, 1, 1), dt.date(2020, 1, 2), dt.date(2020, 1, 3)
SCHEMA = pa.schema([("a", pa.int64()), ("t", pa.list_(pa.float32())), ("version", pa.string()), ("ds", pa.date32())])


@pytest.fixture
def versioned(tmp_path: Path) -> Table:
    return Table(tmp_path / "tokens", SCHEMA, ("version", "ds"), tmp_path / "locks")


def rows(*a: int) -> pa.Table:
    return pa.table({"t": pa.array([[1.0, 2.0]] * len(a), pa.list_(pa.float32())), "a": pa.array(a, pa.int64())})


def values(table: Table, **where: object) -> list[int]:
    return sorted(table.read(**where)["a"].to_pylist())  # type: ignore[arg-type]  # tests pass what read takes


def test_nothing_written_reads_as_an_empty_table(versioned: Table) -> None:
    assert versioned.read().schema == SCHEMA
    assert versioned.read(columns=["t", "a"]).schema.names == ["t", "a"]
    assert (versioned.exists, versioned.count(), versioned.commit_version(), versioned.newest("t")) == (
        False,
        0,
        None,
        0,
    )
    assert versioned.days() == []
    assert versioned.uris() == []
    assert list(versioned.batches()) == []


def test_a_partition_is_replaced_alone(versioned: Table) -> None:
    versioned.replace_day(D1, rows(1, 2), "v'1")
    versioned.replace_day(D2, rows(3), "v'1")
    versioned.replace_day(D1, rows(4), "v2")
    versioned.replace_day(D1, rows(5, 6, 7), "v'1")
    assert values(versioned) == [3, 4, 5, 6, 7]
    assert values(versioned, version="v'1", day=D1) == [5, 6, 7]
    assert values(versioned, between=(D2, D3)) == [3]
    assert values(versioned, filter=pc.field("a") > 5) == [6, 7]
    assert versioned.days("v'1") == [D1, D2]
    assert versioned.days("v2") == [D1]
    assert versioned.count(day=D1) == 4
    assert versioned.read().schema == SCHEMA
    assert sum(b.num_rows for b in versioned.batches(rows=2)) == 5
    assert pq.read_table(versioned.uris(day=D2, version="v'1")[0], partitioning=None)["a"].to_pylist() == [3]


def test_no_rows_empty_a_day_and_twice_is_no_commit(versioned: Table) -> None:
    versioned.replace_day(D1, rows(1), "v")
    versioned.replace_day(D1, rows(), "v")
    before = versioned.commit_version()
    versioned.replace_day(D1, rows(), "v")
    assert versioned.commit_version() == before
    assert (versioned.days(), versioned.count()) == ([], 0)


def test_an_old_table_sees_another_writer(versioned: Table, tmp_path: Path) -> None:
    versioned.replace_day(D1, rows(1), "v")
    Table(versioned.path, SCHEMA, ("version", "ds"), tmp_path / "locks").replace_day(D2, rows(2), "v")
    assert values(versioned) == [1, 2]


def test_wrong_rows_are_refused(versioned: Table) -> None:
    for data, version, message in (
        (rows(1), None, "partitioned by"),
        (rows(1).drop_columns(["t"]), "v", "missing"),
        (rows(1).append_column("x", [[1]]), "v", "unknown"),
        (rows(1).append_column("ds", pa.array([D2])), "v", "ds is not 2020-01-01"),
        (pa.table({"a": ["x"], "t": [[1.0]]}), "v", "expected"),
    ):
        with pytest.raises(SchemaError, match=message):
            versioned.replace_day(D1, data, version)
    assert not versioned.exists
    with pytest.raises(SchemaError, match="no columns"):
        versioned.read(columns=["nope"])
    versioned.replace_day(D1, rows(1), "v")
    with pytest.raises(SchemaError, match="both"):
        versioned.read(day=D1, between=(D1, D2))


def test_columns_of_a_newer_config_read_as_null(tmp_path: Path, versioned: Table) -> None:
    versioned.replace_day(D1, rows(1), "v")
    wider = Table(versioned.path, SCHEMA.insert(1, pa.field("new", pa.string())), ("version", "ds"), tmp_path / "locks")
    assert wider.read()["new"].to_pylist() == [None]
    wider.replace_day(D2, rows(2).append_column("new", [["x"]]), "v")
    assert sorted(wider.read()["new"].to_pylist(), key=str) == [None, "x"]
    assert values(versioned) == [1, 2]
    other = Table(versioned.path, SCHEMA.set(0, pa.field("a", pa.string())), ("version", "ds"), tmp_path / "locks")
    with pytest.raises(SchemaError, match="another name"):
        other.read()


def test_a_lost_race_is_a_conflict(versioned: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake.exceptions import CommitFailedError

    def lose(*_: object, **__: object) -> None:
        raise CommitFailedError("somebody was faster")

    monkeypatch.setattr("tokenlake.lake.tables.write_deltalake", lose)
    with pytest.raises(ConflictError, match="faster"):
        versioned.append(rows(1).append_column("version", [["v"]]).append_column("ds", pa.array([D1])))


def test_ids_follow_the_first_ingest(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path, {"labels": ["c"]})
    assert lake.tables["instance_tokens"].schema.field("user_id").type == pa.int64()
    ids = IdTypes(user=pa.string())
    schema = events_schema(lake.config, ids)
    other = Table(lake.events.path, schema, ("ds",), tmp_path / "locks")
    row = {"event_id": 1, "user_id": "u", "item_id": 2, "timestamp": dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "ds": D1}
    other.append(pa.Table.from_pylist([row], schema))
    for name in ("events", "instance_tokens", "predictions"):
        assert open_tables(lake)[name].schema.field("user_id").type == pa.string()
        assert lake.tables[name].schema.field("user_id").type == pa.string()
    assert label_columns(lake.config) == ("c", "c_known_at")
    assert schema.field("c_known_at").type == TIMESTAMP
    with pytest.raises(SchemaError, match="int64 or string"):
        IdTypes(user=pa.int32())


def test_damage_is_told(tmp_path: Path) -> None:
    """A file that is gone or cut short, and a log that is no JSON; also where id types are looked up."""
    lake = FakeLake(tmp_path / "lake")
    rows = {"user_id": [1], "item_id": [2], "timestamp": pa.array([1_700_000_000_000_000], pa.timestamp("us", "UTC"))}
    ingest(lake, pa.table(rows))
    [file] = lake.events.uris()
    whole = Path(file).read_bytes()
    for damage in (whole[:50], None):
        Path(file).unlink()
        if damage is not None:
            Path(file).write_bytes(damage)
        for read in (lake.events.read, lambda: list(lake.events.batches())):
            with pytest.raises(CorruptionError, match=r"events: a file of the table .* restore it"):
                read()
    [log] = (lake.events.path / "_delta_log").glob("*0.json")
    log.write_text("{bad")
    again = FakeLake(tmp_path / "lake")
    for read in (again.events.days, lambda: again.events.schema):
        with pytest.raises(CorruptionError, match="_delta_log cannot be read"):
            read()


@pytest.mark.parametrize("name", ["a[1]", "a%20b"])
def test_folders_that_delta_cannot_write_to_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="choose a folder without it"):
        FakeLake(tmp_path / name)
