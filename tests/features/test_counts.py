from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features.tables import config_of, table_of
from tokenlake.config import Config
from tokenlake.errors import CorruptionError, NotFoundError, SchemaError
from tokenlake.features.counts import STRENGTH, Counts, count_names
from tokenlake.storage.arrays import read_arrays
from tokenlake.times import DAY_US, day_of, day_start

FIRST = dt.date(2017, 3, 1)
START = day_start(FIRST)
CONFIG = config_of({"tags": "multi"}, {"clicked": {}, "bought": {"known_at": "at", "window": "2d"}})
Row = dict[str, Any]

# Instants that meet: day boundaries, their neighbours, and a few inside.
INSTANTS = st.builds(
    lambda day, offset: START + day * DAY_US + offset,
    st.integers(0, 3),
    st.sampled_from([0, 1, 2, DAY_US // 2, DAY_US // 2 + 1, DAY_US - 1]),
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    timestamp = draw(INSTANTS)
    delay = draw(st.sampled_from([None, -5, 0, 1, DAY_US // 2, DAY_US, 2 * DAY_US]))
    return {
        "user_id": draw(st.integers(0, 2)),
        "item_id": draw(st.integers(0, 2)),
        "timestamp": timestamp,
        "tags": draw(st.none() | st.lists(st.none() | st.sampled_from("abc"), max_size=3)),
        "clicked": draw(st.sampled_from([None, 0, 1])),
        "bought": draw(st.sampled_from([None, 0, 1])),
        "bought_known_at": None if delay is None else timestamp + delay,
        "late": draw(st.booleans()),
    }


LOGS = st.lists(rows(), max_size=25)


def oracle(log: list[Row], query: Row, config: Config) -> list[float]:
    """Everything that the query may see, counted one row at a time."""
    past = [row for row in log if row["timestamp"] < query["timestamp"]]

    def seen(label: str) -> Iterator[tuple[Row, int]]:
        for row in past:
            at = row.get(f"{label}_known_at", row["timestamp"])
            if row[label] is not None and at is not None and at < query["timestamp"]:
                yield row, row[label]

    def occurrences(row: Row, group: str) -> int:
        if group in ("user", "item"):
            return int(row[f"{group}_id"] == query[f"{group}_id"])
        return sum(mine == theirs is not None for mine in query[group] or [] for theirs in row[group] or [])

    out = []
    for group in ("user", "item", *config.events.of_kind("multi")):
        out.append(math.log1p(sum(occurrences(row, group) for row in past)))
        for label in config.events.labels:
            values = [value for _, value in seen(label)]
            prior = (sum(values) + 1) / (len(values) + 2)
            known = sum(occurrences(row, group) for row, _ in seen(label))
            positives = sum(occurrences(row, group) * value for row, value in seen(label))
            out += [(positives + STRENGTH * prior) / (known + STRENGTH), math.log1p(known)]
    return out


def by_day(log: list[Row]) -> dict[dt.date, list[Row]]:
    days: dict[dt.date, list[Row]] = {}
    for row in sorted(log, key=lambda row: day_of(row["timestamp"])):
        days.setdefault(day_of(row["timestamp"]), []).append(row)
    return days


def rolled(log: list[Row], config: Config = CONFIG, ids: pa.DataType | None = None) -> Counts:
    counts = Counts.empty(config)
    for day, events in by_day(log).items():
        counts.advance(day, table_of(events, config, ids))
    return counts


def contents(counts: Counts) -> dict[str, Any]:
    """The state as it is saved, as plain values, whatever the order in which keys came."""
    with TemporaryDirectory() as folder:
        counts.save(Path(folder) / "counts.arrow")
        arrays, header = read_arrays(Path(folder) / "counts.arrow")
    out: dict[str, Any] = {}
    for group in {name.rpartition(".")[0] for name in arrays}:
        keys = arrays[f"{group}.keys"].to_pylist()
        totals = arrays[f"{group}.totals"].to_numpy().reshape(len(keys), 1 + 2 * len(header["labels"]))
        out[group] = dict(zip(keys, totals.tolist(), strict=True))
        for label in range(len(header["labels"])):
            pending = (arrays[f"{group}.{name}_{label}"].to_pylist() for name in ("when", "codes", "positive"))
            out[group, label] = sorted((at, keys[code], known) for at, code, known in zip(*pending, strict=True))
    return out


@given(LOGS)
@settings(max_examples=150, deadline=None)
def test_features_are_what_a_double_loop_counts(log: list[Row]) -> None:
    counts = Counts.empty(CONFIG)
    for day, events in by_day(log).items():
        table = table_of(events, CONFIG)
        expected = [oracle(log, row, CONFIG) for row in events]
        np.testing.assert_allclose(counts.features(table), expected, rtol=1e-6)
        counts.advance(day, table)


@given(LOGS, LOGS)
@settings(max_examples=75, deadline=None)
def test_queries_that_are_no_events(log: list[Row], queries: list[Row]) -> None:
    counts = Counts.empty(CONFIG)
    events_of = by_day(log)
    for day, asked in by_day(queries).items():
        for earlier in sorted(events_of):
            if earlier < day and (counts.day is None or counts.day <= earlier):
                counts.advance(earlier, table_of(events_of[earlier], CONFIG))
        today = table_of(events_of.get(day, []), CONFIG)
        bare = table_of(asked, CONFIG).drop_columns(["clicked", "clicked_known_at", "bought", "bought_known_at"])
        expected = [oracle(log, row, CONFIG) for row in asked]
        np.testing.assert_allclose(counts.features(today, bare), expected, rtol=1e-6)


@given(LOGS, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_of_rows_changes_nothing(log: list[Row], random: Any) -> None:
    counts = Counts.empty(CONFIG)
    for day, events in by_day(log).items():
        order = list(range(len(events)))
        random.shuffle(order)
        table = table_of(events, CONFIG)
        np.testing.assert_array_equal(counts.features(table)[order], counts.features(table.take(order)))
        one_by_one = [counts.features(table, table.slice(i, 1))[0] for i in range(len(events))]
        np.testing.assert_array_equal(counts.features(table), one_by_one)
        counts.advance(day, table)


@given(LOGS)
@settings(max_examples=75, deadline=None)
def test_late_events_are_as_if_they_had_been_in_time(log: list[Row]) -> None:
    counts = rolled([row for row in log if not row["late"]])
    counts.add_late(table_of([row for row in log if row["late"]], CONFIG))
    assert contents(counts) == contents(rolled(log))
    assert counts.day == rolled(log).day


@given(LOGS)
@settings(max_examples=40, deadline=None)
def test_saved_and_loaded_is_the_same(log: list[Row]) -> None:
    import tempfile

    counts = rolled(log)
    with tempfile.TemporaryDirectory() as folder:
        counts.save(Path(folder) / "state")
        loaded = Counts.load(Path(folder) / "state")
    assert contents(loaded) == contents(counts)
    assert (loaded.day, loaded.names) == (counts.day, counts.names)
    tomorrow = [{**row, "timestamp": START + 4 * DAY_US + 1} for row in log]
    table = table_of(tomorrow, CONFIG)
    np.testing.assert_array_equal(loaded.features(table), counts.features(table))
    loaded.advance(FIRST + dt.timedelta(days=4), table)


@given(LOGS)
@settings(max_examples=30, deadline=None)
def test_string_ids_count_as_integer_ids_do(log: list[Row]) -> None:
    named = [{**row, "user_id": f"u{row['user_id']}", "item_id": str(row["item_id"])} for row in log]
    if not log:
        return
    *_, (last, events) = by_day(log).items()
    as_integers = rolled([row for row in log if day_of(row["timestamp"]) < last])
    as_strings = rolled([row for row in named if day_of(row["timestamp"]) < last], ids=pa.string())
    np.testing.assert_array_equal(
        as_integers.features(table_of(events, CONFIG)),
        as_strings.features(table_of(by_day(named)[last], CONFIG, pa.large_string())),
    )


@pytest.mark.parametrize(("known_at", "seen"), [(START + DAY_US - 1, 1), (START + DAY_US, 0), (START + DAY_US + 1, 0)])
def test_a_label_known_at_midnight_is_not_known_to_midnights_query(known_at: int, seen: int) -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": START, "bought": 1, "bought_known_at": known_at}
    counts = rolled([row])
    query = table_of([{**row, "timestamp": START + DAY_US}], CONFIG)
    column = counts.names.index("user_bought_known")
    assert counts.features(query)[0, column] == np.float32(math.log1p(seen))


def test_a_label_matures_while_days_without_events_go_by() -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": START, "bought": 1, "bought_known_at": START + 2 * DAY_US}
    counts = rolled([row])
    query = table_of([{**row, "timestamp": START + 9 * DAY_US}], CONFIG)
    assert counts.features(query)[0, counts.names.index("user_bought_known")] == np.float32(math.log1p(1))


def test_late_events_of_a_day_that_had_none() -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": START}
    counts = rolled([row])
    counts.add_late(table_of([{**row, "timestamp": START + 2 * DAY_US}], CONFIG))
    assert counts.day == FIRST + dt.timedelta(days=3)


def test_names_without_labels() -> None:
    assert count_names(config_of({"tags": "multi", "price": "numeric"})) == ("user_count", "item_count", "tags_count")
    assert Counts.empty(CONFIG).names == count_names(CONFIG)


def test_a_tag_column_may_be_called_item() -> None:
    config = config_of({"item": "multi"})
    row = {"user_id": 1, "item_id": 1, "timestamp": START, "item": ["a", "b"]}
    query = table_of([{**row, "timestamp": START + DAY_US, "item_id": 2}], config)
    expected = np.log1p(np.array([[1, 0, 2]], np.float32))
    np.testing.assert_array_equal(rolled([row], config).features(query), expected)


def test_no_rows_no_features() -> None:
    counts = Counts.empty(CONFIG)
    assert counts.features(table_of([], CONFIG)).shape == (0, len(counts.names))
    counts.advance(FIRST, table_of([], CONFIG))
    assert counts.day == FIRST + dt.timedelta(days=1)
    counts.add_late(table_of([], CONFIG))


def test_days_are_kept_apart() -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": START}
    tomorrow = {**row, "timestamp": START + DAY_US}
    counts = rolled([row])
    with pytest.raises(SchemaError, match="one day at a time"):
        Counts.empty(CONFIG).features(table_of([row, tomorrow], CONFIG))
    with pytest.raises(SchemaError, match="in the state already"):
        counts.features(table_of([row], CONFIG))
    with pytest.raises(SchemaError, match="in the state already"):
        counts.advance(FIRST, table_of([row], CONFIG))
    with pytest.raises(SchemaError, match="pass the events of that day"):
        counts.advance(FIRST + dt.timedelta(days=2), table_of([tomorrow], CONFIG))


def test_ids_of_another_type_are_refused() -> None:
    counts = rolled([{"user_id": 1, "item_id": 1, "timestamp": START}])
    query = table_of([{"user_id": "1", "item_id": "1", "timestamp": START + DAY_US}], CONFIG, pa.string())
    with pytest.raises(SchemaError, match="int64"):
        counts.features(query)


def test_nulls_among_ids_are_refused() -> None:
    with pytest.raises(SchemaError, match="user_id: 1 nulls"):
        Counts.empty(CONFIG).features(table_of([{"user_id": None, "item_id": 1, "timestamp": START}], CONFIG))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(NotFoundError, match="state"):
        Counts.load(path)
    rolled([{"user_id": 1, "item_id": 1, "timestamp": START}]).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptionError, match=str(path)):
        Counts.load(path)


def test_a_copy_goes_its_own_way() -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": START, "bought": 1, "bought_known_at": START + 3 * DAY_US}
    counts = rolled([row])
    before, copy = contents(counts), counts.copy()
    assert contents(copy) == before
    copy.advance(
        FIRST + dt.timedelta(days=5), table_of([{**row, "user_id": 2, "timestamp": START + 5 * DAY_US}], CONFIG)
    )
    assert contents(counts) == before != contents(copy)
    assert counts.day == FIRST + dt.timedelta(days=1)


def test_a_long_backlog_is_kept_in_few_runs() -> None:
    """Labels that take months: more runs than are kept apart."""
    log: list[Row] = [
        {
            "user_id": i % 3,
            "item_id": 1,
            "timestamp": START + i * DAY_US,
            "tags": ["a"],
            "clicked": None,
            "bought": i % 2,
            "bought_known_at": START + (150 - i) * DAY_US,
        }
        for i in range(80)
    ]
    counts = rolled(log)
    # Only speed tells how many runs are kept apart: nothing public shows it.
    assert all(len(backlog._runs) <= 32 for tally in counts._totals.values() for backlog in tally._pending)
    for day in (85, 120, 200):
        query = {**log[0], "timestamp": START + day * DAY_US}
        np.testing.assert_allclose(counts.features(table_of([query], CONFIG))[0], oracle(log, query, CONFIG), rtol=1e-6)
