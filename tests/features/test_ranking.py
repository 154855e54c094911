"""What a ranker reads of the past, beside a slow oracle in plain Python; and that it reads nothing at or after its time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features.tables import config_of, table_of
from tests.fixtures.lakes import day, make_events, make_lake
from tokenlake.config import Config, RankerSequence
from tokenlake.features.activity import EventDay, EventLog
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.features.profiles import Profiles
from tokenlake.features.ranker_sequences import EventSteps, TokenSteps
from tokenlake.features.ranking import RankerFeaturizer
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.times import DAY_US, day_of, day_start
from tokenlake.tokens.store import TokenStore

CONFIG = config_of({"kind": "categorical"}, {"clicked": {}, "bought": {"known_at": "at", "window": "2d"}})
HOUR = DAY_US // 24
LENGTHS = (1, 2, 5)

EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.integers(0, 2),
            "item_id": st.integers(0, 3),
            "timestamp": st.integers(0, 60).map(lambda hours: hours * HOUR),
            "kind": st.none() | st.sampled_from("xy"),
            "clicked": st.none() | st.integers(0, 1),
            "bought": st.none() | st.integers(0, 1),
            "delay": st.integers(0, 30),
        }
    ),
    max_size=12,
)
QUERIES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 62)), min_size=1, max_size=5)


def rows_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**event, "event_id": i, "bought_known_at": event["timestamp"] + event["delay"] * HOUR}
        for i, event in enumerate(events)
    ]


def log_of(rows: list[dict[str, Any]], config: Config = CONFIG) -> EventLog:
    table = table_of(rows, config)
    days = sorted({day_of(row["timestamp"]) for row in rows})
    parts = []
    for number, of in enumerate(days):
        chosen = [i for i, row in enumerate(rows) if day_of(row["timestamp"]) == of]
        parts.append(EventDay(of, f"day {number}", table.take(chosen)))
    return EventLog(config, table.schema, parts)


def state(row: dict[str, Any], label: str, at: int) -> int:
    """0 unknown, 1 no, 2 yes: as known strictly before an instant."""
    known_at = max(row["bought_known_at"] if label == "bought" else row["timestamp"], row["timestamp"])
    return 0 if row[label] is None or known_at >= at else 1 + row[label]


@settings(max_examples=150, deadline=None)
@given(
    EVENTS,
    QUERIES,
    st.sampled_from(LENGTHS),
    st.sampled_from([(), ({"label": "bought"},), ({"feature": "kind", "is": "x"},)]),
)
def test_steps_of_events_are_what_was_known_strictly_before(
    events: list[dict[str, Any]], queries: list[tuple[int, int]], length: int, only: tuple[dict[str, str], ...]
) -> None:
    rows = rows_of(events)
    spec = RankerSequence.model_validate(
        {"of": "events", "length": length, "only": only, "features": ["item_id", "kind"]}
    )
    log, vocabulary = log_of(rows), Vocabulary()
    vocabulary.grow("item_id", pa.array(range(4)))
    vocabulary.grow("kind", pa.array(["x", "y"]))
    users, at = pa.array([user for user, _ in queries]), np.array([hour * HOUR for _, hour in queries])
    steps = EventSteps(log, spec, ("clicked", "bought"), ("item_id", "kind"), vocabulary, users, at)
    chosen = np.arange(len(queries))[::-1].copy()
    got = steps.batch(chosen)
    for place, query in enumerate(chosen):
        user, now = queries[query][0], int(at[query])
        past = [row for row in rows if row["user_id"] == user and row["timestamp"] < now]
        if only and "label" in only[0]:
            past = [row for row in past if state(row, "bought", now) == 2]
            # The newest by the instant from which each is known, then in order of time.
            past.sort(
                key=lambda row: (max(row["bought_known_at"], row["timestamp"]), row["timestamp"], row["event_id"])
            )
            past = past[-length:]
        elif only:
            past = [row for row in past if row["kind"] == "x"]
        past.sort(key=lambda row: (row["timestamp"], row["event_id"]))
        past = past[-length:]
        span = slice(int(got.offsets[place]), int(got.offsets[place + 1]))
        assert got.timestamps[span].tolist() == [row["timestamp"] for row in past]
        assert got.labels[span].tolist() == [[state(row, "clicked", now), state(row, "bought", now)] for row in past]
        assert got.categorical["item_id"][span].tolist() == [row["item_id"] + 1 for row in past]
        assert got.categorical["kind"][span].tolist() == [{"x": 1, "y": 2}.get(row["kind"], 0) for row in past]


def test_steps_of_tokens_are_what_the_store_gives_but_on_days_of_the_bootstrap_chunk(tmp_path: Path) -> None:
    store = TokenStore.create(tmp_path / "store", dim=2, side={"clicked": "int8"}, known_at=["clicked"])
    first = dt.date(2024, 3, 1)
    for number in range(3):
        start = day_start(first) + number * DAY_US
        store.write_day(
            first + dt.timedelta(days=number),
            [7, 7],
            [start + HOUR, start + 5 * HOUR],
            np.full((2, 2), number, np.float32),
            side={"clicked": [0, 1]},
            known_at={"clicked": [start + HOUR, start + 30 * HOUR]},
        )
    at = np.array([day_start(first) + hours * HOUR for hours in (2, 26, 54, 54)])
    steps = TokenSteps(store, 3, ("clicked", "other"), pa.array([7, 7, 7, 8]), at, [first])
    got = steps.batch(np.array([2, 1, 0, 3]))
    assert got.offsets.diff().tolist() == [
        3,
        3,
        0,
        0,
    ]  # the third is a query of the first day, whose tokens saw its labels
    assert got.tokens is not None
    assert got.tokens[:, 0].tolist() == [1, 2, 2, 0, 0, 1]
    assert got.labels.tolist() == [[0, 0], [1, 0], [0, 0], [1, 0], [0, 0], [1, 0]]
    assert (got.timestamps < torch.from_numpy(np.repeat(at[[2, 1]], 3))).all()


MODEL = """
models:
  ranker:
    width: 16
    embedding: 4
    sequences:
      recent: {of: events, length: 5, width: 8}
      bought: {of: events, only: {label: bought}, length: 5, width: 8}
"""


def test_rows_of_a_query_stand_together_in_order_of_time(tmp_path: Path) -> None:
    from tests.fixtures.lakes import CONFIG as LAKE

    lake = make_lake(tmp_path, LAKE + MODEL)
    lake.ingest(make_events(days=2))
    features = lake.shared(DayFeatureCache).read(day(1), lake.watermark())
    featurizer, vocabulary = RankerFeaturizer(lake, lake.config.rankers["ranker"]), Vocabulary()
    featurizer.grow(vocabulary, features.events)
    data = featurizer.data(features, vocabulary, lake.watermark())
    users = np.array(features.events["user_id"].to_pylist())[data.order]
    times = data.instances.timestamps.numpy()
    queries = [(int(times[a]), int(users[a])) for a in data.offsets[:-1].tolist()]
    assert len(queries) == len(set(queries))
    assert [at for at, _ in queries] == sorted(at for at, _ in queries)
    for number, (at, user) in enumerate(queries):
        rows = slice(int(data.offsets[number]), int(data.offsets[number + 1]))
        assert (times[rows] == at).all()
        assert (users[rows] == user).all()
    batch = data.batch(torch.tensor([3, 0]))
    assert batch.as_of.tolist() == [queries[3][0], queries[0][0]]
    assert len(batch.instances) == int(batch.offsets[-1])


@settings(max_examples=100, deadline=None)
@given(EVENTS, QUERIES)
def test_a_profile_is_the_last_event_strictly_before(
    events: list[dict[str, Any]], queries: list[tuple[int, int]]
) -> None:
    rows = rows_of(events)
    log = log_of(rows)
    profiles = Profiles(log, "item")
    found = profiles.rows_before(
        pa.array([item for item, _ in queries]), np.array([hour * HOUR for _, hour in queries])
    )
    for (item, hour), row in zip(queries, found.tolist(), strict=True):
        past = [r["timestamp"] for r in rows if r["item_id"] == item and r["timestamp"] < hour * HOUR]
        if not past:
            assert row == -1
        else:
            assert log.timestamps[row] == max(past)
            assert log.column("item_id")[row].as_py() == item


def test_the_counts_of_midnight_are_those_of_the_day_before(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    events = make_events(days=3)
    lake.ingest(events)
    cache = lake.shared(DayFeatureCache)
    got = cache.read_as_of_midnight(day(2), lake.watermark())
    only_earlier = make_lake(tmp_path / "earlier")
    only_earlier.ingest(
        events.filter(pa.compute.less(events["timestamp"], pa.scalar(day_start(day(2)), pa.timestamp("us", "UTC"))))
    )
    began = pa.repeat(pa.scalar(day_start(day(2)), pa.timestamp("us", "UTC")), len(got.events))
    rows = got.events.set_column(got.events.column_names.index("timestamp"), "timestamp", began)
    expected = only_earlier.shared(DayFeatureCache).counts_of(rows, rows.slice(0, 0), day(2), only_earlier.watermark())
    assert np.array_equal(got.counts, expected)
    assert not np.array_equal(got.counts, cache.read(day(2), lake.watermark()).counts)
