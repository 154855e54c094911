"""`SequenceDataset` beside the same rows fetched one by one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.store_oracle import DAY, Row
from tests.fixtures.stores import DIM, arguments, make
from tokenlake.errors import NotFoundError, SchemaError, SourceError, VersionError
from tokenlake.times import day_of
from tokenlake.tokens.store import TokenStore
from tokenlake.torch import Jagged, SequenceBatch, SequenceDataset
from tokenlake.torch.order import shuffled

USERS, DAYS = 7, 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    rng = np.random.default_rng(0)
    made = make(tmp_path_factory.mktemp("sequences") / "store")
    for day in range(DAYS):
        times = np.sort(day * DAY + rng.integers(0, DAY, 60))
        rows = [
            Row(int(rng.integers(USERS)), int(t), day * 60 + i, i % 2, int(t + rng.integers(0, DAY)))
            for i, t in enumerate(times)
        ]
        made.write_day(day_of(day * DAY), **arguments(rows))
    made.append(**arguments([Row(1, DAYS * DAY + 5, 999, 1, DAYS * DAY + 6)]))
    return made


def make_rows(count: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "row": np.arange(count),
            "user_id": rng.integers(0, USERS + 2, count),  # some are unknown to the store
            "timestamp": pa.array(rng.integers(0, (DAYS + 1) * DAY, count), pa.timestamp("us", "UTC")),
            "clicked": pa.array([None if i % 5 == 0 else i % 2 for i in range(count)], pa.int8()),
            "name": pa.array([f"row {i}" for i in range(count)], pa.string()),
        }
    )


def rows_in(batches: list[SequenceBatch]) -> list[int]:
    return [row for batch in batches for row in batch.columns["row"].tolist()]


def same(batch: SequenceBatch, rows: pa.Table, store: TokenStore, length: int, available: str) -> None:
    """The batch is what fetches of its rows, one by one, give."""
    for i, row in enumerate(batch.columns["row"].tolist()):
        one = rows.slice(row, 1)
        alone = store.fetch(one["user_id"], before=one["timestamp"], length=length, available=available)
        here = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        assert np.array_equal(batch.values[here].numpy(), alone.values)
        assert np.array_equal(batch.timestamps[here].numpy(), alone.timestamps)
        assert all(np.array_equal(batch.side[name][here].numpy(), column) for name, column in alone.side.items())
        assert all(np.array_equal(batch.known[name][here].numpy(), column) for name, column in alone.known.items())
        assert int(batch.before[i]) == one["timestamp"].cast(pa.int64())[0].as_py()
        assert batch.columns["name"][i] == f"row {row}"
        label = one["clicked"][0].as_py()
        assert int(batch.columns["clicked"][i]) == (label or 0)
        assert ("clicked" not in batch.valid and label is not None) or bool(batch.valid["clicked"][i]) == (
            label is not None
        )


@settings(max_examples=25)
@given(
    count=st.integers(0, 60),
    batch_size=st.integers(1, 20),
    ranks=st.integers(1, 4),
    length=st.integers(1, 9),
    available=st.sampled_from(["realtime", "daily"]),
    shuffle=st.booleans(),
    reuse=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_row_once_with_its_own_tokens(
    store: TokenStore, count: int, batch_size: int, ranks: int, length: int, available: Any, *, shuffle: bool,
    reuse: bool, seed: int,
) -> None:  # fmt: skip
    rows = make_rows(count)
    for _ in range(2):
        seen: list[int] = []
        for rank in range(ranks):
            dataset = SequenceDataset(
                rows, store, length=length, available=available, batch_size=batch_size, shuffle=shuffle, seed=seed,
                rank=rank, ranks=ranks, reuse_buffers=reuse,
            )  # fmt: skip
            for batch in dataset:
                same(batch, rows, store, length, available)
                seen += rows_in([batch])
            assert dataset.epoch == 1
        assert sorted(seen) == list(range(count))
        assert shuffle or ranks > 1 or seen == list(range(count))


@settings(max_examples=25)
@given(
    count=st.integers(0, 50),
    batch_size=st.integers(1, 9),
    before=st.integers(1, 3),
    after=st.integers(1, 3),
    taken=st.integers(0, 6),
    epoch=st.integers(0, 3),
    drop=st.booleans(),
)
def test_resumes_with_other_ranks(
    store: TokenStore, count: int, batch_size: int, before: int, after: int, taken: int, epoch: int, *, drop: bool
) -> None:
    rows = make_rows(count)

    def dataset(rank: int, ranks: int) -> SequenceDataset:
        return SequenceDataset(rows, store, batch_size=batch_size, rank=rank, ranks=ranks, length=2, drop_last=drop)

    seen: list[int] = []
    states = []
    for rank in range(before):
        first = dataset(rank, before)
        first.set_epoch(epoch)
        batches = iter(first)
        steps = min(taken, first.batches if drop else count // batch_size // before)
        seen += rows_in([next(batches) for _ in range(steps)])
        states.append(first.state_dict())
    assert all(state == states[0] for state in states)
    steps_left = []
    for rank in range(after):
        second = dataset(rank, after)
        second.load_state_dict(json.loads(json.dumps(states[0])))
        rest = list(second)
        steps_left.append(len(rest))
        seen += rows_in(rest)
        assert second.epoch == epoch + 1
    assert len(set(seen)) == len(seen)
    if drop:
        assert len(set(steps_left)) == 1
        assert count - len(seen) < batch_size * max(before, after)
    else:
        assert sorted(seen) == list(range(count))


@pytest.mark.slow
def test_workers_give_the_same_batches_and_resume(store: TokenStore, tmp_path: Path) -> None:
    pq.write_table(make_rows(101), tmp_path / "rows.parquet")

    def dataset() -> SequenceDataset:
        return SequenceDataset(tmp_path / "rows.parquet", store, batch_size=7, rank=1, ranks=2, length=5)

    alone = dataset()
    expected = [list(alone), list(alone)]
    loader = dataset().loader(workers=2)
    first = list(loader)
    second = []
    for batch in loader:  # broken off: worker processes have read ahead by now
        second.append(batch)
        if len(second) == 3:
            break
    state = loader.state_dict()
    assert state == second[-1].state
    second += list(loader)
    for got, wanted in ((first, expected[0]), (second, expected[1])):
        assert [b.index for b in got] == [b.index for b in wanted]
        assert rows_in(got) == rows_in(wanted)
        for a, b in zip(got, wanted, strict=True):
            assert torch.equal(a.values, b.values)
            assert torch.equal(a.offsets, b.offsets)
    resumed = dataset().loader(workers=1)
    resumed.load_state_dict(state)
    assert rows_in(list(resumed)) == rows_in(expected[1][3:])
    assert rows_in(expected[0]) != rows_in(expected[1])


def test_targets_that_were_not_known_are_null(store: TokenStore) -> None:
    rows = make_rows(20).append_column("known_at", pa.array([i if i % 3 else None for i in range(20)], pa.int64()))
    dataset = SequenceDataset(rows, store, targets={"clicked": "known_at"}, as_of=10, shuffle=False, batch_size=20)
    (batch,) = dataset
    wanted = [bool(i % 3) and i < 10 and i % 5 != 0 for i in range(20)]
    assert batch.valid["clicked"].tolist() == wanted
    assert batch.columns["clicked"].tolist() == [i % 2 if ok else 0 for i, ok in enumerate(wanted)]
    with pytest.raises(SchemaError, match="without as_of"):
        SequenceDataset(rows, store, targets={"clicked": "known_at"})


def test_columns_of_every_kind(store: TokenStore) -> None:
    rows = make_rows(3).drop_columns(["name"])
    rows = rows.append_column("flag", pa.array([True, None, False]))
    rows = rows.append_column("ids", pa.array([[1, 2], [], [3]]))
    rows = rows.append_column("day", pa.array([0, 1, 2], pa.date32()))
    rows = rows.append_column("city", pa.array(["a", None, "b"]).dictionary_encode())
    (batch,) = SequenceDataset(rows, store, shuffle=False)
    assert batch.columns["flag"].tolist() == [True, False, False]
    assert batch.valid["flag"].tolist() == [True, False, True]
    ids = batch.columns["ids"]
    assert isinstance(ids, Jagged)
    assert (ids.values.tolist(), ids.offsets.tolist()) == ([1, 2, 3], [0, 2, 2, 3])
    assert batch.columns["day"].tolist() == [0, 1, 2]
    assert batch.columns["city"] == ["a", None, "b"]
    moved = batch.to("cpu")
    assert torch.equal(moved.values, batch.values)
    assert batch.values.shape[1] == DIM
    assert isinstance(pickle.loads(pickle.dumps(batch)), SequenceBatch)


def test_clear_errors(store: TokenStore, tmp_path: Path) -> None:
    rows = make_rows(5)
    with pytest.raises(SchemaError, match="no column 'uid'"):
        SequenceDataset(rows, store, user="uid")
    with pytest.raises(SchemaError, match="struct"):
        SequenceDataset(rows.append_column("s", pa.array([{"a": 1}] * 5)), store)
    with pytest.raises(SchemaError, match="list given"):
        SequenceDataset([1], store)
    with pytest.raises(SchemaError, match="batch_size=0"):
        SequenceDataset(rows, store, batch_size=0)
    with pytest.raises(SchemaError, match="rank=2"):
        SequenceDataset(rows, store, rank=2, ranks=2)
    with pytest.raises(SchemaError, match="soon"):
        SequenceDataset(rows, store, available="soon")
    with pytest.raises(SourceError, match="nowhere"):
        SequenceDataset(tmp_path / "nowhere.parquet", store)
    with pytest.raises(NotFoundError):
        SequenceDataset(rows, tmp_path / "nothing")
    state = SequenceDataset(rows, store).state_dict()
    with pytest.raises(VersionError, match="batch_size 1024, here 2"):
        SequenceDataset(rows, store, batch_size=2).load_state_dict(state)
    with pytest.raises(VersionError, match="rows"):
        SequenceDataset(make_rows(5, seed=1), store).load_state_dict(state)


@given(st.integers(1, 5000), st.integers(0, 1 << 40), st.integers(0, 1 << 20))
def test_a_shuffle_is_a_permutation(rows: int, seed: int, epoch: int) -> None:
    order = shuffled(np.arange(rows), rows, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(rows))
    assert rows < 20 or not np.array_equal(order, shuffled(np.arange(rows), rows, seed, epoch + 1))


def test_a_shuffle_looks_random() -> None:
    """Neighbours land anywhere: the mean distance of a random permutation is rows / 3."""
    rows = 100_000
    order = shuffled(np.arange(rows), rows, 0, 0)
    assert abs(np.abs(np.diff(order)).mean() / (rows / 3) - 1) < 0.02
    assert abs(np.corrcoef(order, np.arange(rows))[0, 1]) < 0.02
