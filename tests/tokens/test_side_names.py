"""Side columns may have any names, those of a store's own columns and of other labels' instants among them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenlake import TokenStore
from tokenlake.audit.run import audit
from tokenlake.times import DAY_US
from tokenlake.tokens import view
from tokenlake.tokens.replay import replay
from tokenlake.torch import SequenceDataset

SIDES = ["timestamp", "token", "scale", "scale_", "user", "a", "a_known_at", "a known", "a_known", "values", "timestamps",
         "scales", "known a", "tokens", "tokens_", "offsets", "it's \"q\".[b]"]  # fmt: skip
LABELS = ["a", "a_known", "scale", "tokens", "timestamp"]
ROWS = 60


@pytest.fixture(params=["float16", "int8"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TokenStore:
    return TokenStore.create(
        tmp_path / "store", dim=4, dtype=request.param, side=dict.fromkeys(SIDES, "int32"), known_at=LABELS
    )


def arguments(day: int) -> dict[str, object]:
    """Row i of a day has the value 1000 * day + 100 * i + its number in each side column; half of the labels come late."""
    rows = np.arange(ROWS)
    times = day * DAY_US + rows * 1_000_000
    return {
        "users": rows % 5,
        "timestamps": times,
        "tokens": np.full((ROWS, 4), day, np.float32),
        "side": {name: 10_000 * day + 100 * rows + i for i, name in enumerate(SIDES)},
        "known_at": {name: times + (rows % 2 + i % 3) * DAY_US for i, name in enumerate(LABELS)},
    }


def check(store: TokenStore, days: list[int]) -> None:
    before = 3 * DAY_US
    batch = store.fetch(np.arange(5), before=before, length=1000)
    rows = np.concatenate([np.arange(user, ROWS, 5) for user in range(5) for _ in days])
    day = np.concatenate([np.full(ROWS // 5, d) for _ in range(5) for d in days])
    assert batch.timestamps.tolist() == (day * DAY_US + rows * 1_000_000).tolist()
    for i, name in enumerate(SIDES):
        expected = 10_000 * day + 100 * rows + i
        if name in LABELS:
            known = batch.timestamps + (rows % 2 + LABELS.index(name) % 3) * DAY_US < before
            assert batch.known[name].tolist() == known.tolist()
            expected = np.where(known, expected, 0)
        assert batch.side[name].tolist() == expected.tolist()


@pytest.mark.parametrize("compiled", [True, False])
def test_every_side_column_stays_itself(store: TokenStore, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(view, "library", lambda: None)
    store.write_day("1970-01-01", **arguments(0))  # type: ignore[arg-type]  # of their names
    assert store.append(**arguments(1)) == ROWS  # type: ignore[arg-type]
    check(store, [0, 1])
    store.write_day("1970-01-02", **arguments(1))  # type: ignore[arg-type]
    store.compact()
    check(TokenStore.open(store.path), [0, 1])
    store.verify()


def test_an_arrow_reader_finds_each_under_a_name_of_its_own(store: TokenStore) -> None:
    store.write_day("1970-01-01", **arguments(0))  # type: ignore[arg-type]
    (file,) = (store.path / "segments").iterdir()
    rows = pa.ipc.open_file(pa.memory_map(os.fspath(file))).get_batch(0).column("rows").values
    names = [field.name for field in rows.type]
    assert len(set(names)) == len(names)
    assert rows.field("a known").to_numpy().min() % 100 == SIDES.index("a known")
    assert rows.field("scale__").to_numpy().min() % 100 == SIDES.index("scale")
    assert rows.field("a_known_at_").type == pa.int64()


def test_logged_fetches_are_asked_again(store: TokenStore, tmp_path: Path) -> None:
    store.write_day("1970-01-01", **arguments(0))  # type: ignore[arg-type]
    TokenStore.open(store.path, log=tmp_path / "log", keep_bytes=True).fetch([1, 2], before=DAY_US)
    assert replay(tmp_path / "log").queries == 2


def test_training_sets_hold_each_and_are_audited(store: TokenStore, tmp_path: Path) -> None:
    store.write_day("1970-01-01", **arguments(0))  # type: ignore[arg-type]
    rows = pa.table({"user_id": [1, 2], "timestamp": pa.array([DAY_US, DAY_US // 2], pa.timestamp("us", "UTC"))})
    SequenceDataset(rows, store, shuffle=False).write(tmp_path / "set.parquet")
    assert audit(tmp_path / "set.parquet", store).clean
    table, batch = pq.read_table(tmp_path / "set.parquet"), store.fetch([1, 2], before=rows["timestamp"])
    assert table["history_tokens__"].combine_chunks().flatten().to_pylist() == batch.side["tokens"].tolist()
    assert table["history_a_known"].combine_chunks().flatten().to_pylist() == batch.side["a_known"].tolist()
    assert table["history_a_known_"].combine_chunks().flatten().to_pylist() == batch.known["a"].tolist()
    place = table.column_names.index("history_tokens__")
    wrong = table.set_column(place, "history_tokens__", table["history_scales"])
    assert set(audit(wrong, store).leaks["column"].to_pylist()) == {"history_tokens__"}
