"""`tokenlake audit` of training sets that Feast built: one that is clean, and ones that leak in ways people leak."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from feast import FeatureStore
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from tests.fixtures.feast_lakes import store_of
from tests.fixtures.feast_sequences import LABELS, TOKENS, lake_of
from tests.fixtures.lakes import day
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.feast.apply import register
from tokenlake.feast.materialize import close
from tokenlake.times import DAY_US, day_start

HALF = pd.Timedelta(hours=12)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return lake_of(tmp_path_factory.mktemp("audited") / "lake", users=6, each=4, days=3)


@pytest.fixture(scope="module")
def store(lake: Lake) -> Iterator[FeatureStore]:
    feast = store_of(lake)
    register(feast, lake.root / "feature_repo")
    yield feast
    close(feast)


def asked() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    times = day_start(day(1)) + rng.integers(0, 2 * DAY_US, 40)
    return pd.DataFrame({"user_id": rng.integers(0, 8, 40), "event_timestamp": pd.to_datetime(times * 1000, utc=True)})


def saved(store: FeatureStore, path: Path, entities: pd.DataFrame) -> Path:
    """A training set as Feast writes one down."""
    job = store.get_historical_features(entities, TOKENS + LABELS, full_feature_names=True)
    with pytest.warns(RuntimeWarning, match="experimental"):  # what Feast says of saved datasets
        store.create_saved_dataset(from_=job, name=path.stem, storage=SavedDatasetFileStorage(path=str(path)))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words)], catch_exceptions=False)


def leaks(path: Path, *words: object) -> pa.Table:
    """Every leak that the command finds."""
    out = path.with_suffix(".leaks")
    result = run(path, *words, "--out", out)
    assert result.exit_code == 1, result.output
    return pq.read_table(out)


def test_a_set_that_feast_built_is_clean(lake: Lake, store: FeatureStore, tmp_path: Path) -> None:
    path = saved(store, tmp_path / "clean.parquet", asked())
    rows = pq.read_table(path)
    assert sum(map(len, rows["instance_tokens__timestamps"].to_pylist())) > 100
    assert {known for row in rows["instance_labels__bought_known"].to_pylist() for known in row} == {True, False}
    for words in ((), ("--lake", lake.root)):
        result = run(path, *words)
        assert result.exit_code == 0, result.output
        assert "40 rows" in result.output
        assert "nothing was known later" in result.output


def test_features_of_a_later_time_leak(lake: Lake, store: FeatureStore, tmp_path: Path) -> None:
    """Features as of half a day after the time that the rows are said to be of."""
    late = asked()
    later = saved(store, tmp_path / "later.parquet", late.assign(event_timestamp=late["event_timestamp"] + HALF))
    table = pq.read_table(later)
    times = table["event_timestamp"].to_pandas() - HALF
    table = table.set_column(table.column_names.index("event_timestamp"), "event_timestamp", pa.array(times))
    pq.write_table(table, later)
    lists = table["instance_tokens__timestamps"].to_pylist()
    wrong = {i for i, (row, t) in enumerate(zip(lists, times, strict=True)) if any(m * 1000 >= t.value for m in row)}
    assert 5 < len(wrong) < 40
    found = leaks(later)
    tokens = found.filter(pa.compute.equal(found["column"], "instance_tokens__timestamps"))
    assert set(tokens["row"].to_pylist()) == wrong
    assert set(tokens["what"].to_pylist()) == {"token not before the row's time"}


def test_labels_of_a_later_time_leak(lake: Lake, store: FeatureStore, tmp_path: Path) -> None:
    """The same, and then the tokens cut off at the rows' time: only the store can tell that the labels came later."""
    late = asked()
    path = saved(store, tmp_path / "labels.parquet", late.assign(event_timestamp=late["event_timestamp"] + HALF))
    frame = pq.read_table(path).to_pandas()
    frame["event_timestamp"] -= HALF
    counts = [
        int((row < time.value // 1000).sum())
        for row, time in zip(frame["instance_tokens__timestamps"], frame["event_timestamp"], strict=True)
    ]
    for name in [name for name in frame.columns if "__" in name]:
        width = 8 if name.endswith("__tokens") else 1
        frame[name] = [row[: n * width] for row, n in zip(frame[name], counts, strict=True)]
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    assert run(path).exit_code == 0, "times alone do not tell"
    found = leaks(path, "--lake", lake.root)
    assert set(found["what"].to_pylist()) == {"other values than the store has"}
    assert set(found["column"].to_pylist()) == {"instance_labels__bought", "instance_labels__bought_known"}
    # A token is known half a day after it; so it leaks where the row lies within that half day.
    unripe = {
        i
        for i, (row, time) in enumerate(
            zip(frame["instance_tokens__timestamps"], frame["event_timestamp"], strict=True)
        )
        if any(m + DAY_US // 2 >= time.value // 1000 and m < time.value // 1000 for m in row)
    }
    assert set(found["row"].to_pylist()) == unripe
