"""Writers to one offline source: no acknowledged row is lost, and of rows of one time the last written is seen everywhere."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import write_deltalake
from feast import PushSource, RepoConfig
from feast.data_format import DeltaFormat
from feast.data_source import PushMode
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tests.feast_offline.repositories import OURS, FeatureStore, FeatureView, Field, FileSource, Int64, entity
from tokenlake.errors import ConfigError, LockedError, StorageError
from tokenlake.feast.offline import write
from tokenlake.storage import locks

START = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
END = START + dt.timedelta(days=2)
US = pa.timestamp("us", "UTC")
#: user, hour, hour of creation or None, what is said.
Row = tuple[int, int, int | None, int]


def at(hour: int | None) -> dt.datetime | None:
    return None if hour is None else START + dt.timedelta(hours=hour)


def arrow(rows: list[Row], *, created: bool) -> pa.Table:
    columns = {"u": pa.array([r[0] for r in rows], pa.int64()), "ts": pa.array([at(r[1]) for r in rows], US)}
    if created:
        columns["made"] = pa.array([at(r[2]) for r in rows], US)
    return pa.table(columns | {"x": pa.array([r[3] for r in rows], pa.int64())})


def source_of(folder: Path, kind: str, first: list[Row], *, created: bool) -> FileSource:
    """A source of some kind that holds some rows."""
    table, place, how = arrow(first, created=created), folder / "source", {}
    if kind == "file":
        place = folder / "source.parquet"
        pq.write_table(table, place)
    elif kind == "delta":
        write_deltalake(place, table)
        how = {"file_format": DeltaFormat()}
    elif kind == "hive":
        pq.write_to_dataset(table.append_column("part", pa.array([7] * len(first))), place, partition_cols=["part"])
    else:
        place.mkdir()
        pq.write_table(table, place / kind)
    made = {"created_timestamp_column": "made"} if created else {}
    return FileSource(name="source", path=str(place), timestamp_field="ts", **how, **made)


def repository(folder: Path, source: FileSource, *, engine: str = "local", latest: bool = False) -> FeatureStore:
    user, schema = entity("u"), [Field(name="x", dtype=Int64)]
    config = RepoConfig(
        project="p",
        provider="local",
        repo_path=str(folder),
        registry=str(folder / "registry.db"),
        offline_store={"type": OURS},
        online_store={"type": "tokenlake.feast.TokenlakeOnlineStore", "path": f"online-{uuid.uuid4().hex}"},
        batch_engine={"type": engine},
        materialization={"pull_latest_features": latest},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    push = PushSource(name="push", batch_source=source)
    store.apply([user, FeatureView(name="v", entities=[user], schema=schema, source=push)])
    return store


def newest(rows: list[Row], user: int, *, created: bool, until: int = 99) -> int | None:
    """What is seen of a user: the newest event, of equal ones the last created, of equal ones the last written."""
    own = [
        (row[1], (-1 if row[2] is None else row[2]) if created else 0, number, row[3])
        for number, row in enumerate(rows)
        if row[0] == user and row[1] <= until
    ]
    return max(own)[3] if own else None


USERS = [0, 1, 2, 3]
#: How `feast materialize` may be set: the default, the newest rows alone, and by our engine.
ENGINES = [("local", False), ("local", True), ("tokenlake.feast.TokenlakeComputeEngine", False)]
KINDS = ["file", "part-0.parquet", "zz.parquet", "ä.parquet", "hive", "delta"]
_row = st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from([None, 0, 1]))
_pushes = st.lists(st.lists(_row, min_size=1, max_size=4), min_size=1, max_size=4)


# An example takes seconds: none is spent on shrinking.
@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.sampled_from(KINDS), st.booleans(), _pushes)
@example("file", False, [[(1, 0, None)], [(1, 0, None), (1, 0, None)], [(2, 0, None)]])
@example("part-0.parquet", True, [[(1, 0, 0)], [(1, 0, None)], [(1, 0, 0)], [(1, 0, 0)]])
@example("zz.parquet", False, [[(1, 1, None)], [(1, 1, None)], [(1, 1, None)]])
@example("delta", False, [[(1, 1, None)], [(1, 1, None)], [(1, 1, None)], [(0, 0, None)]])
@example("hive", True, [[(0, 0, 0)], [(0, 0, 0)]])
def test_of_one_time_the_last_push_wins(kind: str, created: bool, pushes: list[list[tuple[int, int, Any]]]) -> None:
    rows: list[Row] = [(0, 0, 0, 1000), (3, 0, 0, 1003)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = source_of(folder, kind, rows, created=created)
        store = repository(folder, source)
        for push in pushes:
            said = [(user, hour, made, len(rows) + i) for i, (user, hour, made) in enumerate(push)]
            rows += said
            frame = arrow(said, created=created).to_pandas()
            if kind == "hive":
                frame["part"] = 7
            store.push("push", frame, to=PushMode.ONLINE_AND_OFFLINE)
        assert seen(store) == [newest(rows[2:], user, created=created) for user in USERS], "online, of what was pushed"
        want = [newest(rows, user, created=created) for user in USERS]
        for hour in (0, 1):
            asked = pd.DataFrame({"u": USERS, "event_timestamp": [at(hour)] * len(USERS)})
            found = store.get_historical_features(asked, ["v:x"]).to_df()["x"]
            told = [newest(rows, user, created=created, until=hour) for user in USERS]
            assert [None if pd.isna(x) else int(x) for x in found] == told, "offline"
        pull = store.provider.offline_store.pull_latest_from_table_or_query(
            store.config, source, ["u"], ["x"], "ts", "made" if created else None, START, END
        )
        latest = {row["u"]: row["x"] for row in pull.to_arrow().to_pylist()}
        assert [latest.get(user) for user in USERS] == want
        for engine, newest_only in ENGINES:
            other = repository(folder, source, engine=engine, latest=newest_only)
            other.materialize(START, END)
            assert seen(other) == want, f"materialized by {engine}, pull_latest_features: {newest_only}"
        store.materialize(START, END)
        assert seen(store) == want, "materialized over what was pushed"


def seen(store: FeatureStore) -> list[Any]:
    found: list[Any] = store.get_online_features(["v:x"], [{"u": user} for user in USERS]).to_dict()["x"]
    return found


def test_many_rows_of_one_time(tmp_path: Path) -> None:
    """More than a sort of a few keeps in order."""
    source = source_of(tmp_path, "file", [(9999, 0, None, 0)], created=False)
    store = repository(tmp_path, source)
    for push in (1, 2, 3):
        frame = arrow([(user, 0, None, 10 * user + push) for user in range(200)], created=False).to_pandas()
        store.write_to_offline_store("v", frame.sample(frac=1, random_state=push, ignore_index=True))
    store.materialize(START, END)
    found = store.get_online_features(["v:x"], [{"u": user} for user in range(200)]).to_dict()["x"]
    assert found == [10 * user + 3 for user in range(200)]


def _push(folder: str, first: int, pushes: int) -> None:
    """What each of several writers does, in a store of its own."""
    store = FeatureStore(repo_path=folder)
    for user in range(first, first + pushes):
        store.write_to_offline_store("v", arrow([(user, 1, None, user)], created=False).to_pandas())


@pytest.mark.parametrize("kind", ["file", pytest.param("part-0.parquet", marks=pytest.mark.slow)])
def test_writers_lose_nothing_of_each_other(tmp_path: Path, kind: str) -> None:
    """Two threads of each of two processes, all at once."""
    source = source_of(tmp_path, kind, [(0, 0, None, 0)], created=False)
    repository(tmp_path, source)
    (tmp_path / "feature_store.yaml").write_text(
        yaml.safe_dump(
            {
                "project": "p",
                "provider": "local",
                "registry": str(tmp_path / "registry.db"),
                "offline_store": {"type": OURS},
                "online_store": {"type": "sqlite", "path": str(tmp_path / "online.db")},
                "entity_key_serialization_version": 3,
            }
        )
    )
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_push, args=(str(tmp_path), 1000 * n, 6)) for n in (1, 2)]
    threads = [threading.Thread(target=_push, args=(str(tmp_path), 1000 * n, 6)) for n in (3, 4)]
    for worker in (*others, *threads):
        worker.start()
    for worker in (*others, *threads):
        worker.join()
    assert [process.exitcode for process in others] == [0, 0]
    held = sorted(pq.read_table(source.path)["u"].to_pylist())
    assert held == [0, *(1000 * n + k for n in (1, 2, 3, 4) for k in range(6))]
    assert not list(tmp_path.rglob("*.new"))


def test_a_source_that_others_hold_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(tmp_path, "file", [(0, 0, None, 0)], created=False)
    store = repository(tmp_path, source)
    before = (tmp_path / "source.parquet").read_bytes()
    frame = arrow([(1, 1, None, 1)], created=False).to_pandas()
    monkeypatch.setattr(write, "PATIENCE_S", 0.05)
    with (
        locks.hold(tmp_path / ".source.parquet.lock", "a long write"),
        pytest.raises(LockedError, match="a long write"),
    ):
        store.write_to_offline_store("v", frame)
    monkeypatch.undo()

    def fails(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device", "source.parquet")

    monkeypatch.setattr(pq, "write_table", fails)
    with pytest.raises(StorageError, match="No space"):
        store.write_to_offline_store("v", frame)
    monkeypatch.undo()
    assert (tmp_path / "source.parquet").read_bytes() == before
    assert not list(tmp_path.glob(".*.new"))
    several = FileSource(name="several", path=str(tmp_path / "*.parquet"), timestamp_field="ts")
    user = entity("u")
    store.apply([user, FeatureView(name="w", entities=[user], schema=[Field(name="x", dtype=Int64)], source=several)])
    view = store.get_feature_view("w")
    with pytest.raises(ConfigError, match="stands for several files"):
        write.append(store.config, view, arrow([(1, 1, None, 1)], created=False))
