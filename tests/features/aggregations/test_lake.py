"""Declared aggregations of a lake: `lake.counts`, the state on the disk, and what the nightly jobs read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tokenlake
from tests.fixtures import count_oracle
from tests.fixtures.kills import ended
from tests.fixtures.lakes import CONFIG, day, make_events, make_lake, of_day, plays, tokens_of
from tokenlake._lake import Lake
from tokenlake.errors import ConfigError, SchemaError
from tokenlake.features.aggregations import Aggregations
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.times import as_micros, day_start

COUNTS = """
counts:
  pair: {by: [user, item], of: {where: [{label: bought}, {feature: genre, is: g1}]}, as: [count, recency], windows: [all, 36h]}
  genre: {by: [user, genre], of: {label: bought}, as: [count, known, mean, recency], windows: [all, 2d], decay: 1d}
  tag: {by: tags, as: count, decay: 12h}
  price: {by: item, of: {numeric: price}, as: [sum, mean, min, max, last], windows: 3d}
"""
DECLARED = CONFIG.replace("plain: {scheme", "declared: {counts: all, scheme") + COUNTS


def oracle_log(lake: Lake) -> list[dict[str, Any]]:
    """The lake's events as plain rows, times in microseconds."""
    out = []
    for row in lake.events.read().to_pylist():
        known = {name: row[f"{name}_known_at"] for name in ("clicked", "bought")}
        times = {f"{name}_known_at": at and int(pd.Timestamp(at).value // 1000) for name, at in known.items()}
        out.append({**row, "timestamp": int(pd.Timestamp(row["timestamp"]).value // 1000), **times})
    return out


def assert_right(lake: Lake, found: pa.Table, rows: pa.Table, at: list[int]) -> None:
    expected = count_oracle.answers(oracle_log(lake), rows.to_pylist(), at, lake.config.definitions)
    assert found.column_names == list(expected)
    for name, numbers in expected.items():
        right = np.array([np.nan if number is None else number for number in numbers])
        close = {"rtol": 1e-5, "atol": 1e-5} if "price" in name or "decay" in name else {"rtol": 1e-12}
        np.testing.assert_allclose(found[name].to_numpy(), right, err_msg=name, **close)


def values(lake: Lake, rows: pa.Table, watermark: int) -> dict[str, Any]:
    at = np.array(as_micros(rows["timestamp"]))
    return lake.shared(Aggregations).features(rows, at, watermark)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name, numbers in one.items():
        np.testing.assert_array_equal(numbers, other[name], err_msg=name)


def rebuilt(lake: Lake, tmp_path: Path) -> Lake:
    """A copy of the lake without its count state."""
    target = tmp_path / "rebuilt"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(lake.root, target, ignore=shutil.ignore_patterns("aggregations"))
    return tokenlake.open(target)


def test_counts_are_those_of_a_loop_over_the_events(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, DECLARED)
    lake.ingest(make_events(days=4, per_day=20))
    rows = lake.events.read().slice(0, 40)
    at = as_micros(rows["timestamp"])
    assert_right(lake, lake.counts(rows), rows, at.tolist())
    later = day_start(day(3)) + 5
    assert_right(lake, lake.counts(rows, later), rows, [later] * 40)


def test_rows_come_in_many_forms(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, DECLARED)
    lake.ingest(make_events(days=3))
    keys = {"user_id": [1, 2], "item_id": [3, 7], "genre": ["g1", "g3"], "tags": [["t1"], []]}
    at = [day_start(day(2)), day_start(day(3))]
    found = lake.counts(keys, at)
    assert found.equals(lake.counts(pa.table(keys), pa.array(at)))
    assert found.equals(lake.counts(pd.DataFrame(keys), pd.to_datetime(at, unit="us")))
    assert found.equals(
        lake.counts(keys | {"user_id": ["1", "2"], "timestamp": pa.array(at, pa.timestamp("us", "UTC"))})
    )
    assert lake.counts(keys, at, names=["pair"]).column_names == [
        "pair_count",
        "pair_recency",
        "pair_count_36h",
        "pair_recency_36h",
    ]
    assert lake.counts(pa.table(keys).slice(0, 0), day_start(day(2))).num_rows == 0


@pytest.mark.parametrize(
    ("rows", "at", "names", "message"),
    [
        ({"user_id": [1]}, 0, ["pair"], "counts need a column 'item_id'; the rows have user_id"),
        ({"user_id": [1], "item_id": [1]}, 0, ["pears"], "no declared counts 'pears'"),
        ({"user_id": ["anna"], "item_id": [1]}, 0, ["pair"], "row 0: user id is no integer"),
        ({"user_id": [1], "item_id": [None]}, 0, ["pair"], "row 0: item id is missing"),
        ({"user_id": [1], "item_id": [1]}, [1, 2], ["pair"], "at: shape"),
        ({"user_id": [1], "item_id": [1]}, None, ["pair"], "counts need a column 'timestamp'"),
        ({"user_id": [1], "item_id": [1, 2]}, 0, ["pair"], "no table"),
        ([1], 0, None, "rows: list given"),
    ],
)
def test_bad_rows_are_told(tmp_path: Path, rows: Any, at: Any, names: Any, message: str) -> None:
    lake = make_lake(tmp_path, DECLARED)
    lake.ingest(make_events(days=2))
    with pytest.raises(SchemaError, match=message):
        lake.counts(rows, at, names=names)


def test_a_lake_without_events_or_without_the_block(tmp_path: Path) -> None:
    empty = make_lake(tmp_path / "empty", DECLARED)
    found = empty.counts({"user_id": [1], "item_id": [1], "genre": ["g"], "tags": [["t"]]}, 0)
    assert found["pair_count"].to_pylist() == [0]
    assert found["pair_recency"].to_pylist() == [None]
    assert found["genre_mean"].to_pylist() == [0.5]
    assert found["price_mean_3d"].to_pylist() == [None]
    plain = make_lake(tmp_path / "plain")
    plain.ingest(make_events(days=2))
    found = plain.counts({"user_id": [1], "item_id": [1], "tags": [["t1"]]}, day_start(day(2)))
    assert found.column_names[:3] == ["user_count", "user_clicked_mean", "user_clicked_known"]


def test_rolled_on_day_by_day_is_made_at_once(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake", DECLARED)
    events, late = make_events(days=12, per_day=15), make_events(days=12, per_day=15, seed=5)
    seen = []
    for i in range(12):
        lake.ingest(of_day(events, i))
        if i % 3 == 2:
            lake.ingest(of_day(late, i - 2))  # two days late
        lake.shared(Aggregations).roll_on(lake.watermark())
        rows = lake.events.read(day=day(i))
        seen.append((rows, lake.watermark(), values(lake, rows, lake.watermark())))
    files = list((lake.data / "aggregations").glob("*/*.arrow"))
    streams = len({path.parent for path in files})
    assert len(files) <= 8 * streams  # merged on the way
    everything = lake.events.read()
    fresh = rebuilt(lake, tmp_path)
    assert_same(values(lake, everything, lake.watermark()), values(fresh, everything, lake.watermark()))
    # A re-run of any day sees what its first run saw: by the chain on the disk, and without it.
    for rows, watermark, first in seen:
        assert_same(first, values(lake, rows, watermark))
        assert_same(first, values(rebuilt(lake, tmp_path), rows, watermark))


def test_the_future_changes_nothing(tmp_path: Path) -> None:
    whole, cut = make_lake(tmp_path / "whole", DECLARED), make_lake(tmp_path / "cut", DECLARED)
    events, moment = make_events(days=4), day_start(day(2)) + 7 * 3_600_000_000
    past = np.array(as_micros(events["timestamp"])) < moment
    bought_at = events["bought_at"].cast(pa.int64()).fill_null(0).to_numpy()
    unknown = past & (bought_at >= moment)
    whole.ingest(events)
    kept = events.filter(pa.array(past))
    # What is known from the moment on is deleted: labels become missing.
    late = pa.array(np.where(unknown[past], None, kept["bought"].to_numpy()), pa.int8())
    cut.ingest(kept.set_column(kept.schema.get_field_index("bought"), "bought", late))
    rows = whole.events.read(day=day(2))
    assert whole.counts(rows, moment).equals(cut.counts(rows, moment))


def test_nightly_inputs_and_encode_read_the_same(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, DECLARED)
    lake.ingest(make_events(days=6))
    lake.backfill()
    version = lake.config.version_of("declared")
    found = lake.shared(DayFeatureCache).read(day(4), lake.watermark())
    columns = lake.shared(Aggregations).columns()
    expected = lake.counts(found.events)
    for i, column in enumerate(columns, start=found.counts.shape[1] - len(columns)):
        right = expected[column.name].to_numpy()
        right = np.log1p(right) if column.aggregate in ("count", "known", "recency") else right
        np.testing.assert_array_equal(found.counts[:, i], right.astype(np.float32), err_msg=column.name)
    stored = lake.instance_tokens.read(version=version, day=day(4)).sort_by("event_id")
    again = lake.encode(lake.events.read(day=day(4)).sort_by("event_id"), version="declared")
    np.testing.assert_array_equal(np.stack(stored["token"].to_numpy(zero_copy_only=False)), again)


def test_a_rerun_with_declared_counts_changes_nothing(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, DECLARED)
    events = make_events(days=6)
    for i in range(6):
        lake.ingest(of_day(events, i))
        lake.run(day(i))
    version = lake.config.version_of("declared")
    before = tokens_of(lake, version)
    lake = tokenlake.open(tmp_path)
    lake.run(day(4))
    assert tokens_of(lake, version).equals(before)


def test_new_events_of_a_call_count(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "a", DECLARED)
    events = make_events(days=6)
    lake.ingest(events.filter(pa.array(np.array(as_micros(events["timestamp"])) < day_start(day(4)))))
    lake.backfill()
    encoded = lake.encode(of_day(events, 4), version="declared")
    lake.ingest(of_day(events, 4))
    np.testing.assert_array_equal(lake.encode(of_day(events, 4), version="declared"), encoded)


def test_logs_without_labels(tmp_path: Path) -> None:
    config = """
events: {features: {genre: {kind: categorical, of: item}}}
counts: {pair: {by: [user, genre], as: [count, recency]}}
tokens: {chunk_days: 3, encoders: {iat: {counts: all, dim: 8, width: 16, embedding: 4, history: 8, sit_heads: 2}}}
"""
    lake = make_lake(tmp_path, config)
    lake.ingest(plays(days=5))
    lake.backfill()
    assert lake.instance_tokens.read().num_rows == lake.events.read().num_rows


def test_versions_without_declared_counts_keep_their_digest(tmp_path: Path) -> None:
    plain, declared = make_lake(tmp_path / "plain"), make_lake(tmp_path / "declared", CONFIG + COUNTS)
    for encoder in ("iat", "plain"):
        assert plain.config.version_of(encoder) == declared.config.version_of(encoder)
    assert plain.config.version_of("iat") == "iat-aa936f16"  # of a lake before there were declared counts
    read = make_lake(tmp_path / "read", DECLARED)
    other = make_lake(tmp_path / "other", DECLARED.replace("36h", "37h"))
    assert len({lake.config.version_of("declared") for lake in (read, other)}) == 2


@pytest.mark.slow
def test_a_killed_roll_on_continues(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake", DECLARED)
    events = make_events(days=6, per_day=10)
    lake.ingest(of_day(events, 0))
    lake.shared(Aggregations).roll_on(lake.watermark())
    lake.ingest(events)
    rows, watermark = lake.events.read(), lake.watermark()
    expected = values(rebuilt(lake, tmp_path), rows, watermark)
    ends = ended(lake.root, [*range(1, 60, 7), 10_000], "roll_on")
    assert [code for code, _ in ends][-1] == 0
    assert any(code < 0 for code, _ in ends)
    again = tokenlake.open(lake.root)
    assert_same(values(again, rows, watermark), expected)
    assert not list((lake.data / "aggregations").glob("*/.*"))


def test_a_lost_or_torn_run_is_made_again(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, DECLARED)
    events = make_events(days=6, per_day=10)
    for i in range(6):
        lake.ingest(of_day(events, i))
        lake.shared(Aggregations).roll_on(lake.watermark())
    rows, watermark = lake.events.read(), lake.watermark()
    expected = values(lake, rows, watermark)
    folder = next((lake.data / "aggregations").glob("*/*.arrow")).parent
    sorted(folder.glob("*.arrow"))[2].unlink()
    again = tokenlake.open(tmp_path)
    assert_same(values(again, rows, watermark), expected)
    again.shared(Aggregations).roll_on(watermark)
    assert_same(values(tokenlake.open(tmp_path), rows, watermark), expected)
    torn = sorted(folder.glob("*.arrow"))[0]
    os.truncate(torn, torn.stat().st_size // 2)
    with pytest.raises(tokenlake.errors.CorruptionError, match="delete it: running the job again makes it"):
        values(tokenlake.open(tmp_path), rows, watermark)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("{by: [user, itm]}", "no key 'itm'; did you mean 'item'"),
        ("{by: user, of: {label: boght}}", "no label 'boght'; did you mean 'bought'"),
        ("{by: user, of: {numeric: genre}, as: sum}", "no numeric feature 'genre'; there are price"),
        ("{by: user, of: {where: {feature: gere, is: a}}}", "no categorical feature 'gere'; did you mean 'genre'"),
        ("{by: user, as: [known]}", "there is no 'known' of events; there are count, recency"),
        ("{by: user, as: [cout]}", "Input should be 'count'"),
        ("{by: [user, item, genre, tags]}", "at most 3"),
        ("{by: [user, user]}", "stands there twice"),
        ("{by: user, windows: 0d}", "longer than nothing"),
        ("{by: user, decay: 30m}", "half-life of an hour or more"),
        ("{by: user, as: recency, decay: 1d}", "nothing is left to compute"),
        ("{by: user, oof: events}", "no such setting; did you mean 'of'"),
        ("{by: user, of: {label: bought, numeric: price}}", "name one of them"),
    ],
)
def test_bad_declarations_are_refused(tmp_path: Path, definition: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_lake(tmp_path, CONFIG + f"counts: {{mine: {definition}}}\n")


def test_other_candidates_of_an_instant_change_nothing(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, DECLARED)
    lake.ingest(make_events(days=6))
    lake.backfill()
    instant = pa.scalar(day_start(day(6)) + 3_600_000_000, pa.timestamp("us", "UTC"))
    shown = of_day(make_events(days=6, seed=3), 5).slice(0, 6).drop_columns(["clicked", "bought", "bought_at"])
    same_time = shown.set_column(3, "timestamp", pa.repeat(instant, 6)).set_column(1, "user_id", pa.array([4] * 6))
    together = lake.encode(same_time, version="declared")
    alone = np.concatenate([lake.encode(same_time.slice(i, 1), version="declared") for i in range(6)])
    np.testing.assert_array_equal(together, alone)
