"""`tokenlake audit`: clean sets pass, and every planted leak is found, in its row and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.store_oracle import DAY, Row
from tests.fixtures.stores import arguments, make
from tokenlake.audit import audit
from tokenlake.cli import app
from tokenlake.errors import SchemaError, SourceError
from tokenlake.times import day_of
from tokenlake.tokens.store import TokenStore
from tokenlake.torch import SequenceDataset

ROWS = 40


@pytest.fixture(scope="module", params=["float16", "int8"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    rng = np.random.default_rng(0)
    made = make(tmp_path_factory.mktemp("audit") / "store", request.param)
    for day in range(3):
        rows = [
            Row(int(rng.integers(5)), int(t), day * 60 + i, 1, int(t + rng.integers(0, DAY)))
            for i, t in enumerate(np.sort(day * DAY + rng.integers(0, DAY, 60)))
        ]
        made.write_day(day_of(day * DAY), **arguments(rows))
    return made


@pytest.fixture(scope="module", params=["realtime", "daily"])
def written(request: pytest.FixtureRequest, store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    rows = pa.table(
        {
            "user_id": rng.integers(0, 6, ROWS),
            "timestamp": pa.array(rng.integers(DAY, 3 * DAY, ROWS), pa.timestamp("us", "UTC")),
            "clicked": pa.array(rng.integers(0, 2, ROWS), pa.int8()),
            "seen_at": rng.integers(0, 4 * DAY, ROWS),
        }
    )
    path = tmp_path_factory.mktemp("written") / "set.parquet"
    dataset = SequenceDataset(
        rows, store, length=6, available=request.param, targets={"clicked": "seen_at"}, as_of=2 * DAY
    )
    assert dataset.write(path) == ROWS
    return path


def changed(table: pa.Table, column: str, row: int, place: int, change: int) -> pa.Table:
    """The table with one number of one list changed."""
    values = table[column].to_pylist()
    values[row][place] += change
    return table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))


def test_what_the_sdk_writes_is_clean(written: Path, store: TokenStore) -> None:
    report = audit(written, store)
    assert report.clean
    assert report.rows == ROWS
    assert report.tokens > ROWS
    assert report.columns.length == 6
    assert report.leaks.num_rows == 0
    assert audit(written).clean


@settings(max_examples=30)
@given(data=st.data())
def test_every_planted_leak_is_found(written: Path, store: TokenStore, data: st.DataObject) -> None:
    table = pq.read_table(written)
    lengths = [len(x) for x in table["history_timestamps"].to_pylist()]
    row = data.draw(st.sampled_from([i for i, n in enumerate(lengths) if n]))
    place = data.draw(st.integers(0, lengths[row] - 1))
    column = data.draw(st.sampled_from(["timestamps", "tokens", "event", "clicked_known"]))
    if column == "timestamps":
        query = table["timestamp"].cast(pa.int64())[row].as_py()
        late = data.draw(st.integers(0, 3)) + query - table["history_timestamps"][row][place].as_py()
        leaking = changed(table, "history_timestamps", row, place, late)
        report = audit(leaking)
        assert set(report.leaks["row"].to_pylist()) == {row}
        assert report.leaks["what"][0].as_py() == "token not before the row's time"
        assert audit(leaking, store).leaks["row"].to_pylist() == [row, row]
        return
    if column == "clicked_known":
        values = table["history_clicked_known"].to_pylist()
        values[row][place] = not values[row][place]
        leaking = table.set_column(
            table.column_names.index("history_clicked_known"), "history_clicked_known", pa.array(values)
        )
    else:
        leaking = changed(table, f"history_{column}", row, place, 1)
    assert audit(leaking).clean  # nothing tells, without the store
    report = audit(leaking, store)
    assert report.leaks["row"].to_pylist() == [row]
    assert report.leaks["column"].to_pylist() == [f"history_{column}"]


def test_a_token_of_the_own_day_leaks_where_tokens_come_daily(written: Path, store: TokenStore) -> None:
    dataset = SequenceDataset(pq.read_table(written, columns=["user_id", "timestamp"]), store, length=6)
    dataset.write(written.with_name("realtime.parquet"))
    report = audit(written.with_name("realtime.parquet"), available="daily")
    assert not report.clean
    table = pq.read_table(written.with_name("realtime.parquet"))
    queries = table["timestamp"].cast(pa.int64()).to_pylist()
    wanted = [
        i
        for i, times in enumerate(table["history_timestamps"].to_pylist())
        for t in times
        if t >= queries[i] // DAY * DAY
    ]
    assert report.leaks["row"].to_pylist() == wanted


def test_missing_and_foreign_tokens_differ(written: Path, store: TokenStore) -> None:
    table = pq.read_table(written)
    row = next(i for i, times in enumerate(table["history_timestamps"].to_pylist()) if times)
    users = table["user_id"].to_pylist()
    users[row] = 999
    report = audit(table.set_column(0, "user_id", pa.array(users)), store)
    assert report.leaks["row"].to_pylist() == [row]


def test_targets_and_known_at(written: Path) -> None:
    table = pq.read_table(written)
    late = table["seen_at"].to_pylist()
    leaking = table.set_column(table.column_names.index("clicked"), "clicked", pa.array([1] * ROWS, pa.int8()))
    report = audit(leaking)  # targets and as_of are in the file's own description
    assert report.leaks["row"].to_pylist() == [i for i in range(ROWS) if late[i] >= 2 * DAY]
    queries = table["timestamp"].cast(pa.int64()).to_pylist()
    inputs = audit(leaking, known_at={"clicked": "seen_at"}, as_of=9 * DAY)
    assert inputs.leaks["row"].to_pylist() == [i for i in range(ROWS) if late[i] >= queries[i]]
    lists = [[None if n % 2 else q for n in range(3)] for q in queries]
    flat = pa.table(
        {"timestamp": queries, "timestamps": [[0, 0, 0]] * ROWS, "liked": [[1, 1, None]] * ROWS, "at": lists}
    )
    # A null time is never known; a null label tells nothing.
    assert audit(flat, known_at={"liked": "at"}).leaks["row"].to_pylist() == sorted([*range(ROWS)] * 2)


def test_flat_rows_and_feast_names() -> None:
    flat = pa.table({"user": ["a", "a", "b"], "event_timestamp": [10, 10, 10], "seen": [9, 10, 11]})
    report = audit(flat, timestamps=["seen"])
    assert report.leaks.select(["row", "user"]).to_pylist() == [{"row": 1, "user": "a"}, {"row": 2, "user": "b"}]
    feast = pa.table(
        {
            "user_id": [1],
            "event_timestamp": [10],
            "iat__timestamps": [[1, 10]],
            "other__timestamps": [[None, 3]][:0] or [[3]],
        }
    )
    assert audit(feast).leaks["column"].to_pylist() == ["iat__timestamps"]
    assert audit(feast.set_column(2, "iat__timestamps", pa.array([None], pa.list_(pa.int64())))).clean


def test_command(written: Path, store: TokenStore, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["audit", str(written), "--lake", str(store.path)])
    assert run.exit_code == 0, run.output
    assert "nothing was known later, and all is as in the store" in run.output
    table = pq.read_table(written)
    leaking = table.set_column(table.column_names.index("clicked"), "clicked", pa.array([1] * ROWS, pa.int8()))
    pq.write_table(leaking, tmp_path / "leaking.parquet")
    out = tmp_path / "leaks.parquet"
    run = CliRunner().invoke(app, ["audit", str(tmp_path / "leaking.parquet"), "--out", str(out), "--show", "2"])
    assert run.exit_code == 1, run.output
    assert "target not" in run.output
    assert pq.read_table(out).equals(audit(leaking).leaks)
    run = CliRunner().invoke(app, ["audit", str(written), "--known-at", "clicked"])
    assert run.exit_code == 2
    assert "LABEL=COLUMN" in run.output


def test_clear_errors(written: Path, store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        audit(tmp_path / "nowhere.parquet")
    with pytest.raises(SchemaError, match="--time"):
        audit(pa.table({"a": [1]}))
    with pytest.raises(SchemaError, match="--timestamps"):
        audit(pa.table({"timestamp": [1]}))
    with pytest.raises(SchemaError, match="no columns"):
        audit(written, user="uid")
    with pytest.raises(SchemaError, match="--user"):
        audit(pa.table({"timestamp": [1], "timestamps": [[0]]}), store)
    with pytest.raises(SchemaError, match="--as-of"):
        audit(pa.table({"timestamp": [1], "y": [0], "z": [0]}), targets={"y": "z"})
    with pytest.raises(SchemaError, match="choose another prefix"):
        SequenceDataset(pq.read_table(written), store).write(tmp_path / "x.parquet")
