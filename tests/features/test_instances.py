from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features.tables import config_of, table_of
from tokenlake.config import Config
from tokenlake.errors import SchemaError
from tokenlake.features.counts import count_names
from tokenlake.features.instances import Featurizer, Targets, compressor_config, label_names
from tokenlake.features.vocabulary import Vocabulary
from tokenlake_models.instances import Instances

FEATURES = {"kind": "categorical", "tags": "multi", "price": "numeric", "image": "vector"}
CONFIG = config_of(FEATURES, {"clicked": {}, "bought": {"known_at": "at", "window": "2d"}})
Row = dict[str, Any]

ROWS = st.fixed_dictionaries(
    {
        "user_id": st.integers(0, 3),
        "item_id": st.integers(0, 3),
        "timestamp": st.integers(0, 9),
        "kind": st.none() | st.sampled_from("xyz"),
        "tags": st.none() | st.lists(st.none() | st.sampled_from("abc"), max_size=3),
        "price": st.none() | st.floats(-4, 4, width=32),
        "image": st.none() | st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)),
        "clicked": st.sampled_from([None, 0, 1]),
        "bought": st.sampled_from([None, 0, 1]),
        "bought_known_at": st.none() | st.integers(5, 30),
    }
)
BOUNDS = st.none() | st.integers(0, 30)


def counts_of(table: pa.Table, config: Config) -> np.ndarray:
    shape = (table.num_rows, len(count_names(config)))
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def featurized(
    rows: list[Row], config: Config = CONFIG, targets: Targets | None = None, vocabulary: Vocabulary | None = None
) -> tuple[Instances, Vocabulary]:
    featurizer = Featurizer(config, config.tokens.encoders["iat"])
    table = table_of(rows, config)
    if vocabulary is None:
        vocabulary = Vocabulary()
        featurizer.grow(vocabulary, table)
    return featurizer(table, counts_of(table, config), vocabulary, targets=targets), vocabulary


@given(st.lists(ROWS, max_size=12), BOUNDS, BOUNDS)
@settings(max_examples=60, deadline=None)
def test_every_row_becomes_an_instance(rows: list[Row], first: int | None, end: int | None) -> None:
    got, vocabulary = featurized(rows, targets=(first, end))
    assert len(got) == len(rows)
    first_seen: list[int] = []
    vocabulary_of = {name: [None, *vocabulary.values(name).to_pylist()] for name in vocabulary.sizes()}
    for i, row in enumerate(rows):
        first_seen += [row["user_id"]] * (row["user_id"] not in first_seen)
        assert got.users[i] == first_seen.index(row["user_id"])
        assert got.timestamps[i] == row["timestamp"]
        for name in ("user_id", "item_id", "kind"):
            assert vocabulary_of[name][got.categorical[name][i]] == row[name]
        values, offsets = got.multi["tags"]
        tags = [vocabulary_of["tags"][row] for row in values[offsets[i] : offsets[i + 1]]]
        assert tags == [tag for tag in row["tags"] or [] if tag is not None]
        np.testing.assert_equal(got.numeric[i].tolist(), [np.nan if row["price"] is None else row["price"]])
        if "image" in got.vectors:
            np.testing.assert_equal(got.vectors["image"][i].tolist(), list(row["image"] or (np.nan, np.nan)))
        for label, name in enumerate(("clicked", "bought")):
            at = row["timestamp"] if name == "clicked" else row["bought_known_at"]
            is_target = (
                row[name] is not None
                and at is not None
                and (first is None or first <= max(at, row["timestamp"]))
                and (end is None or max(at, row["timestamp"]) < end)
            )
            assert bool(got.known[i, label]) == is_target
            assert got.labels[i, label] == (row[name] if is_target else 0)
    assert ("image" in got.vectors) == any(row["image"] for row in rows)
    assert got.counts.shape == (len(rows), 15)
    assert not vocabulary.sizes().keys() & {"price", "image"}


@given(st.lists(ROWS, min_size=1, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_order_of_rows_is_kept(rows: list[Row], random: Any) -> None:
    _, vocabulary = featurized(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    straight, _ = featurized(rows, vocabulary=vocabulary)
    shuffled, _ = featurized([rows[i] for i in order], vocabulary=vocabulary)
    index = torch.tensor(order)
    assert torch.equal(straight.categorical["kind"][index], shuffled.categorical["kind"])
    assert torch.equal(straight.numeric[index].nan_to_num(9), shuffled.numeric.nan_to_num(9))
    assert torch.equal(straight.select(index).multi["tags"][0], shuffled.multi["tags"][0])


def test_users_are_numbered_as_pyarrow_finds_them() -> None:
    rows = [{"user_id": user, "item_id": 0, "timestamp": 0} for user in (5, 3, 5, 9)]
    got, _ = featurized(rows)
    assert got.users.tolist() == [0, 1, 0, 2]
    assert pc.unique(table_of(rows, CONFIG)["user_id"]).to_pylist() == [5, 3, 9]


def test_what_the_vocabulary_never_saw_is_row_0() -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": 0, "kind": "x", "tags": ["a"]}
    _, vocabulary = featurized([row])
    got, _ = featurized([{**row, "user_id": 2, "kind": "new", "tags": ["a", "new"]}], vocabulary=vocabulary)
    assert got.categorical["user_id"].tolist() == got.categorical["kind"].tolist() == [0]
    assert got.multi["tags"][0].tolist() == [1, 0]


def test_without_targets_nothing_is_known() -> None:
    got, _ = featurized([{"user_id": 1, "item_id": 1, "timestamp": 0, "clicked": 1}])
    assert not got.known.any()
    assert not got.labels.any()


def test_logs_without_labels_have_one_that_is_called_observed() -> None:
    config = config_of()
    assert label_names(config) == ("observed",)
    table = table_of([{"user_id": 1, "item_id": 1, "timestamp": t} for t in (3, 5)], config)
    featurizer, vocabulary = Featurizer(config, config.tokens.encoders["iat"]), Vocabulary()
    featurizer.grow(vocabulary, table)
    assert featurizer(table, counts_of(table, config), vocabulary).labels.shape == (2, 1)
    table = table.append_column("observed", pa.array([1, 0], pa.int8()))
    table = table.append_column("observed_known_at", table["timestamp"])
    got = featurizer(table, counts_of(table, config), vocabulary, targets=(None, 5))
    assert got.labels.tolist() == [[1], [0]]
    assert got.known.tolist() == [[True], [False]]


def test_counts_can_be_off() -> None:
    config = config_of(labels={"clicked": {}}, counts=False)
    got, vocabulary = featurized([{"user_id": 1, "item_id": 1, "timestamp": 0}], config)
    assert got.counts.shape == (1, 0)
    assert Featurizer(config, config.tokens.encoders["iat"]).shape(vocabulary)["counts"] == ()


def test_the_config_of_a_model_that_reads_them() -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": 0, "kind": "x", "tags": ["a", "b"], "image": [1.0, 2.0]}
    _, vocabulary = featurized([row, {**row, "item_id": 7}])
    encoder = CONFIG.tokens.encoders["iat"]
    got = compressor_config(Featurizer(CONFIG, encoder), encoder, vocabulary)
    assert got.labels == ("clicked", "bought")
    assert got.categorical == {"user_id": 2, "item_id": 3, "kind": 2}
    assert got.multi == {"tags": 3}
    assert got.numeric == ("price",)
    assert got.vectors == {"image": 2}
    assert got.counts == count_names(CONFIG)
    assert (got.scheme, got.dim, got.history, got.seed) == (encoder.scheme, encoder.dim, encoder.history, encoder.seed)


def test_vectors_of_another_length_are_refused() -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": 0}
    _, vocabulary = featurized([{**row, "image": [1.0, 2.0]}])
    with pytest.raises(SchemaError, match="3 numbers in row 1; the model takes 2"):
        featurized([row, {**row, "image": [1.0, 2.0, 3.0]}], vocabulary=vocabulary)


def test_vectors_that_training_never_saw_are_left_out() -> None:
    row = {"user_id": 1, "item_id": 1, "timestamp": 0}
    got, vocabulary = featurized([row])
    assert got.vectors == {}
    got, _ = featurized([{**row, "image": [1.0, 2.0]}], vocabulary=vocabulary)
    assert got.vectors == {}


def test_counts_of_another_shape_are_refused() -> None:
    table = table_of([{"user_id": 1, "item_id": 1, "timestamp": 0}], CONFIG)
    with pytest.raises(SchemaError, match=r"counts of shape \(1, 2\) given; expected \(1, 15\)"):
        Featurizer(CONFIG, CONFIG.tokens.encoders["iat"])(table, np.zeros((1, 2), np.float32), Vocabulary())


def test_which_rows_later_ones_may_read() -> None:
    table = table_of([{"user_id": 1, "item_id": 1, "timestamp": t} for t in (0, 1)], CONFIG)
    featurizer, vocabulary = Featurizer(CONFIG, CONFIG.tokens.encoders["iat"]), Vocabulary()
    featurizer.grow(vocabulary, table)
    seen = np.array([True, False])
    got = featurizer(table, counts_of(table, CONFIG), vocabulary, seen=seen)
    assert got.visible().tolist() == [True, False]
    assert featurizer(table, counts_of(table, CONFIG), vocabulary).visible().all()
