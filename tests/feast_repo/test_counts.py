"""Declared aggregations through plain Feast, offline and online, against `lake.counts` at the same instant."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import tokenlake
from tests.fixtures.feast_lakes import bring, start, store_of
from tests.fixtures.lakes import CONFIG, day, make_events, make_lake
from tokenlake._lake import Lake
from tokenlake.config import count_states
from tokenlake.errors import ConfigError
from tokenlake.feast import repository
from tokenlake.feast.materialize import close
from tokenlake.pipeline import jobs
from tokenlake.pipeline.count_states import stale_days, tables_of

pytestmark = pytest.mark.filterwarnings("ignore:.*experimental.*:RuntimeWarning")  # what Feast says of on-demand views
DAYS = 6
COUNTS = """
counts:
  visits: {by: user, as: [count, recency], windows: [all, 1d, 36h], decay: 12h}
  sales: {by: item, of: {label: bought}, as: [mean, recency, known], windows: [all, 2d], decay: 1d}
  tag_clicks: {by: tags, of: {label: clicked, where: [{label: bought}, {feature: genre, is: g1}]}, as: [count, mean]}
  spent: {by: genre, of: {numeric: price, unit: 0.01}, as: [count, sum, mean, min, max, last, recency], windows: [all, 1d], decay: 3d}
  pair: {by: [user, item], of: {where: {label: bought}}, as: [count, recency]}
  triple: {by: [user, genre, tags], as: [count, recency], windows: [all, 1d], serve: true}
"""
SERVED = ["visits", "sales", "tag_clicks", "spent", "triple"]
UNKNOWN: dict[str, Any] = {"user_id": 999, "item_id": 999, "genre": "none", "tags": "none"}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("ours", marks=pytest.mark.slow)])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Everything in Feast, of users with numbers in Feast's store and with names in ours; tests only read it."""
    ours = request.param == "ours"
    lake = counted(tmp_path_factory.mktemp(request.param) / "lake", names=ours, seed=int(ours))
    repository.write(lake.root, "tokenlake" if ours else "sqlite")
    bring(lake)
    return lake


def counted(folder: Path, counts: str = COUNTS, *, names: bool = False, seed: int = 0) -> Lake:
    lake = make_lake(folder, CONFIG + counts)
    events = make_events(days=DAYS, users=9, per_day=15, seed=seed)
    if names:
        events = events.set_column(1, "user_id", pc.cast(events["user_id"], pa.string()))
    genre = pa.array([None if i % 11 == 0 else value for i, value in enumerate(events["genre"].to_pylist())])
    odd = {3: None, 5: [], 7: [None], 9: ["t1", "t1", None]}
    tags = pa.array([odd.get(i % 13, value) for i, value in enumerate(events["tags"].to_pylist())])
    places = {name: events.column_names.index(name) for name in ("genre", "tags")}
    lake.ingest(events.set_column(places["genre"], "genre", genre).set_column(places["tags"], "tags", tags))
    return lake


def keys_of(lake: Lake) -> pd.DataFrame:
    """Keys that were met, and one that was not."""
    events = lake.events.read(columns=["user_id", "item_id", "genre", "tags"]).to_pandas().explode("tags").dropna()
    unknown = UNKNOWN | {"user_id": type(events["user_id"].tolist()[0])(999)}
    return pd.concat([events.drop_duplicates(), pd.DataFrame([unknown])], ignore_index=True)


def columns_of(lake: Lake, name: str) -> list[str]:
    return [column.name for column in lake.config.definitions[name].columns(name)]


def references(lake: Lake, names: list[str]) -> list[str]:
    return [f"counts_{name}:{column}" for name in names for column in columns_of(lake, name)]


def direct(lake: Lake, keys: pd.DataFrame, at: dt.datetime, names: list[str]) -> pd.DataFrame:
    rows = pa.Table.from_pandas(keys.assign(tags=keys["tags"].map(lambda tag: [tag])), preserve_index=False)
    return lake.counts(rows, at, names=names).to_pandas()


def offline(lake: Lake, keys: pd.DataFrame, at: dt.datetime, names: list[str]) -> pd.DataFrame:
    store = store_of(lake)
    try:
        asked = keys.assign(event_timestamp=pd.Timestamp(at), at=micros(at))
        found = store.get_historical_features(asked, references(lake, names)).to_df()
    finally:
        close(store)
    assert (found[list(keys.columns)] == keys).all(axis=None), "the rows are in their order"
    return found[[column for name in names for column in columns_of(lake, name)]].astype(float)


def online(lake: Lake, keys: pd.DataFrame, at: dt.datetime, names: list[str]) -> pd.DataFrame:
    store = store_of(lake)
    try:
        rows = keys.assign(at=micros(at)).to_dict("records")
        found = store.get_online_features(references(lake, names), rows).to_dict()
    finally:
        close(store)
    assert not any(name.endswith(("_at_end", "_total")) for name in found), "what a view is made of is not answered"
    return pd.DataFrame({column: found[column] for name in names for column in columns_of(lake, name)}, dtype=float)


def micros(at: dt.datetime) -> int:
    return (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Equal, null where null; decayed numbers up to the fixed point of their weights."""
    assert sorted(found.columns) == sorted(expected.columns)
    for name in expected.columns:
        decayed = {"rtol": 1e-5, "atol": 1e-5} if "_decay_" in name else {"rtol": 0.0, "atol": 0.0}
        np.testing.assert_allclose(found[name], expected[name], err_msg=name, **decayed)


@pytest.mark.parametrize("i", [0, 1, 3, DAYS - 1])
def test_history_at_a_days_end_equals_the_lakes_own_counts(full: Lake, i: int) -> None:
    keys = keys_of(full)
    expected = direct(full, keys, start(i + 1), SERVED)
    same(offline(full, keys, start(i + 1), SERVED), expected)
    assert i == 0 or expected.notna().any().all()
    assert expected.isna().any().any()


def test_online_equals_them_at_the_last_days_end(full: Lake) -> None:
    keys = keys_of(full)
    same(online(full, keys, start(DAYS), SERVED), direct(full, keys, start(DAYS), SERVED))


@pytest.mark.parametrize("hours", [3, 20, 40])
@pytest.mark.parametrize("read", [offline, online])
def test_recency_and_decay_move_on_with_the_request(full: Lake, read: Any, hours: int) -> None:
    keys, at = keys_of(full), start(DAYS) + dt.timedelta(hours=hours, microseconds=1)
    found, expected = read(full, keys, at, ["visits", "spent"]), direct(full, keys, at, ["visits", "spent"])
    moving = [name for name in expected.columns if "recency" in name or "decay" in name]
    same(found[moving], expected[moving])
    at_end = direct(full, keys, start(DAYS), ["visits", "spent"])
    standing = [name for name in expected.columns if name not in moving]
    same(found[standing], at_end[standing])
    assert hours < 40 or found["visits_recency_1d"].isna().all()


def test_a_request_before_the_first_day_was_counted_gets_nothing(full: Lake) -> None:
    found = offline(full, keys_of(full), start(1) - dt.timedelta(microseconds=1), SERVED)
    assert found.isna().all(axis=None)


def test_pairs_are_served_where_they_are_asked_for(full: Lake) -> None:
    store = store_of(full)
    names = {view.name for view in store.list_all_feature_views()}
    close(store)
    for name in full.config.definitions:
        views = {f"counts_{name}", f"count_states_{name}", f"count_totals_{name}"}
        assert (views & names) == (views if name != "pair" else set())


# Which keys a day holds.


def changed_by_hand(lake: Lake, name: str, first: dt.datetime, last: dt.datetime) -> set[tuple[Any, ...]]:
    """Keys of which an event became known from first to before last, or left a window in that time."""
    count = lake.config.definitions[name]
    out = set()
    for event in lake.events.read().to_pylist():
        known = event["timestamp"]
        if count.of.label is not None:
            if event[count.of.label] is None or event[f"{count.of.label}_known_at"] is None:
                continue
            known = max(known, event[f"{count.of.label}_known_at"])
        moments = [known, *(event["timestamp"] + window for window in count.windows if window is not None)]
        # At the very instant at which an event is as old as the window, it is within.
        leaves = [m + dt.timedelta(microseconds=1) for m in moments[1:]]
        if known < last and (first <= known or any(first < m <= last for m in leaves)):
            out.add(tuple(event[column] for column in count_states.key_columns(count)))
    return out


@pytest.mark.parametrize("name", ["visits", "sales"])
def test_a_day_holds_the_keys_that_changed_and_no_others(full: Lake, name: str) -> None:
    states, totals = tables_of(full, name)
    version = full.config.count_version(name)
    assert totals.days(version) == [day(i) for i in range(DAYS)]
    sizes = []
    for i in range(DAYS):
        rows = states.read(day=day(i), version=version)
        keys = list(
            zip(*(rows[c].to_pylist() for c in count_states.key_columns(full.config.counts[name])), strict=True)
        )
        assert len(set(keys)) == len(keys)
        assert set(keys) == changed_by_hand(
            full, name, start(i) if i else dt.datetime.min.replace(tzinfo=dt.UTC), start(i + 1)
        )
        assert set(rows["available_at"].to_pylist()) <= {start(i + 1)}
        sizes.append(len(keys))
    assert min(sizes) < max(sizes)


def test_a_window_that_ran_out_is_pushed(tmp_path: Path) -> None:
    lake = make_lake(
        tmp_path / "lake", CONFIG + "counts: {seen: {by: user, as: [count, recency], windows: [all, 1d]}}\n"
    )
    events = make_events(days=4, users=3, per_day=6)
    users = pa.array([7, 8, 8, 8] + [8] * (events.num_rows - 4))
    lake.ingest(events.sort_by("timestamp").set_column(1, "user_id", users))
    repository.write(lake.root, "tokenlake")
    found = []
    for i in range(4):
        jobs.counts(lake, day(i))
        jobs.materialize(lake, day(i))
        row = online(lake, pd.DataFrame({"user_id": [7]}), start(i + 1), ["seen"]).to_dict("records")[0]
        found.append((row["seen_count"], row["seen_count_1d"], np.isnan(row["seen_recency_1d"])))
    assert found == [(1.0, 1.0, False), *[(1.0, 0.0, True)] * 3]
    held = tables_of(lake, "seen")[0].read().sort_by("ds").filter(pc.field("user_id") == 7)
    assert held["ds"].to_pylist() == [day(0), day(1)], "pushed as it leaves, and not again"


def test_again_writes_the_same(tmp_path: Path) -> None:
    lake = counted(tmp_path / "lake")
    for i in (0, 1, 2, 3):
        assert jobs.counts(lake, day(i)).status == "done"
    before = {name: [table.read() for table in tables_of(lake, name)] for name in SERVED}
    assert jobs.counts(tokenlake.open(lake.root), day(2)).summary["rows"] > 0
    for name, tables in before.items():
        for table, rows in zip(tables_of(lake, name), tables, strict=True):
            order = [(column, "ascending") for column in rows.column_names]
            assert table.read().sort_by(order).equals(rows.sort_by(order))
    assert jobs.counts(lake, day(40)).status == "skipped"


def test_a_day_after_days_that_were_not_counted_holds_what_changed_in_them(tmp_path: Path) -> None:
    lake = counted(tmp_path / "lake")
    repository.write(lake.root)
    for i in (1, 4):
        jobs.counts(lake, day(i))
        jobs.materialize(lake, day(i))
        keys = keys_of(lake)
        same(online(lake, keys, start(i + 1), SERVED), direct(lake, keys, start(i + 1), SERVED))
    same(offline(lake, keys, start(2), SERVED), direct(lake, keys, start(2), SERVED))


def test_a_job_cut_short_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = counted(tmp_path / "lake", "counts: {visits: {by: user}}\n")
    jobs.counts(lake, day(0))
    totals, replace = tables_of(lake, "visits")[1], type(lake.events).replace_day

    def stop(table: Any, *given: Any) -> None:
        if table is totals:
            raise KeyboardInterrupt
        replace(table, *given)

    with monkeypatch.context() as patched:
        patched.setattr(type(totals), "replace_day", stop)
        with pytest.raises(KeyboardInterrupt):
            jobs.counts(lake, day(1))
    days = lake.events.days()
    assert stale_days(lake, days) == days[1:]
    for each in days[1:]:
        jobs.counts(lake, each)
    assert stale_days(lake, days) == []


def test_late_events_are_counted_by_the_next_back_fill(tmp_path: Path) -> None:
    lake = counted(tmp_path / "lake", "counts: {visits: {by: user, windows: [all, 1d]}}\n")
    repository.write(lake.root, "tokenlake")
    bring(lake)
    late = make_events(days=2, users=9, per_day=3, seed=5)
    assert lake.ingest(late).accepted == 6
    days = lake.events.days()
    assert stale_days(lake, days) == days
    assert [result.job for result in bring(lake).results] == ["statistics"] * DAYS + ["counts"] * DAYS + ["materialize"]
    assert bring(lake).results == []
    keys = keys_of(lake)
    for i in (1, 3, DAYS):
        same(offline(lake, keys, start(i), ["visits"]), direct(lake, keys, start(i), ["visits"]))
    same(online(lake, keys, start(DAYS), ["visits"]), direct(lake, keys, start(DAYS), ["visits"]))


def test_late_events_come_online_with_the_next_day(tmp_path: Path) -> None:
    lake = counted(tmp_path / "lake", "counts: {visits: {by: user, windows: [all, 1d, 3d]}}\n")
    repository.write(lake.root, "tokenlake")
    for i in range(DAYS - 1):
        jobs.counts(lake, day(i))
    assert lake.ingest(make_events(days=2, users=9, per_day=3, seed=5)).accepted == 6
    jobs.counts(lake, day(DAYS - 1))
    jobs.materialize(lake, day(DAYS - 1))
    keys = keys_of(lake)
    same(online(lake, keys, start(DAYS), ["visits"]), direct(lake, keys, start(DAYS), ["visits"]))


def test_a_changed_definition_leaves_no_old_number_behind(tmp_path: Path) -> None:
    lake = counted(tmp_path / "lake", "counts: {visits: {by: user, as: count}}\n")
    repository.write(lake.root)
    bring(lake)
    other = make_lake(lake.root, CONFIG + "counts: {visits: {by: user, of: {where: {label: clicked}}, as: count}}\n")
    keys = keys_of(other)
    jobs.materialize(other, day(DAYS - 1))
    assert online(other, keys, start(DAYS), ["visits"]).isna().all(axis=None)
    bring(other)
    expected = direct(other, keys, start(DAYS), ["visits"])
    same(online(other, keys, start(DAYS), ["visits"]), expected)
    assert not expected.equals(direct(lake, keys, start(DAYS), ["visits"]))
    make_lake(lake.root, CONFIG + "counts: {visits: {by: user, of: {where: {label: clicked}}, serve: false}}\n")
    jobs.materialize(tokenlake.open(lake.root), day(DAYS - 1))
    store = store_of(lake)
    assert not [view.name for view in store.list_all_feature_views() if "visits" in view.name]
    close(store)


# Lakes without a block.


def test_a_lake_without_a_block_gets_no_views_no_tables_and_no_job(tmp_path: Path) -> None:
    lake = counted(tmp_path / "lake", "")
    repository.write(lake.root)
    assert jobs.counts(lake, day(0)).status == "skipped"
    assert [result.job for result in bring(lake).results] == ["statistics"] * DAYS + ["materialize"]
    store = store_of(lake)
    assert {view.name for view in store.list_all_feature_views()} == {
        "user_statistics",
        "instance_tokens",
        "instance_labels",
    }
    assert {entity.name for entity in store.list_entities()} == {"user", "item"}
    close(store)
    assert not [path.name for path in (lake.data / "tables").iterdir() if "count" in path.name]


def test_a_key_called_as_the_request_is_refused(tmp_path: Path) -> None:
    config = CONFIG.replace("genre: {", "at: {column: genre, ") + "counts: {visits: {by: at}}\n"
    lake = make_lake(tmp_path / "lake", config)
    repository.write(lake.root)
    with pytest.raises(ConfigError, match=r"counts\.visits: a key called 'at' cannot be served"):
        jobs.materialize(lake, day(0))
