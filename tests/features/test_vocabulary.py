from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenlake.errors import CorruptionError, NotFoundError, SchemaError
from tokenlake.features.vocabulary import Vocabulary

STRINGS = st.lists(st.none() | st.sampled_from(["a", "b", "", "7", "ü", "c" * 99]), max_size=12)
INTEGERS = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=12)


def typed(values: list[str | None] | list[int | None], type_: pa.DataType) -> pa.Array:
    return pa.array(values, type_)


def grown(parts: list[pa.Array]) -> Vocabulary:
    vocabulary = Vocabulary()
    for part in parts:
        vocabulary.grow("x", part)
    return vocabulary


@given(st.lists(STRINGS, max_size=4) | st.lists(INTEGERS, max_size=4), st.data())
@settings(deadline=None)
def test_rows_are_given_in_order_of_first_appearance(parts: list, data: st.DataObject) -> None:
    integers = any(isinstance(value, int) for part in parts for value in part)
    type_ = pa.int64() if integers else pa.string()
    expected: dict[object, int] = {}
    vocabulary = Vocabulary()
    for part in parts:
        before = len(expected)
        for value in part:
            if value is not None:
                expected.setdefault(value, len(expected) + 1)
        assert vocabulary.grow("x", typed(part, type_)) == len(expected) - before
    if not parts:
        return
    asked = data.draw(INTEGERS if integers else STRINGS)
    rows = vocabulary.lookup("x", typed(asked, type_))
    assert rows.dtype == "int64"
    assert rows.tolist() == [expected.get(value, 0) for value in asked]
    assert vocabulary.sizes() == {"x": len(expected) + 1}
    assert vocabulary.values("x").to_pylist() == list(expected)


@given(st.lists(STRINGS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_saved_and_loaded_is_the_same_and_grows_on(parts: list) -> None:
    vocabulary = grown([pa.array(part, pa.string()) for part in parts])
    vocabulary.fix_width("image", 3)
    vocabulary.grow("user_id", pa.array([5, 3]))
    with TemporaryDirectory() as folder:
        vocabulary.save(Path(folder) / "vocabulary.arrow")
        loaded = Vocabulary.load(Path(folder) / "vocabulary.arrow")
    assert loaded.sizes() == vocabulary.sizes()
    assert loaded.widths == {"image": 3}
    assert loaded.values("x").equals(vocabulary.values("x"))
    assert loaded.lookup("user_id", pa.array([3, 4, 5])).tolist() == [2, 0, 1]
    assert loaded.grow("x", pa.array(["new"])) == 1


def test_any_arrow_encoding_of_a_value_is_that_value() -> None:
    vocabulary = grown([pa.array(["a", "b"])])
    chunked = pa.chunked_array([["b"], [], ["a", None]], pa.large_string())
    assert vocabulary.lookup("x", chunked).tolist() == [2, 1, 0]
    assert vocabulary.lookup("x", pa.array(["b", None, "a"]).dictionary_encode()).tolist() == [2, 0, 1]
    assert vocabulary.lookup("x", pa.nulls(2)).tolist() == [0, 0]


def test_numbers_are_no_strings() -> None:
    vocabulary = grown([pa.array([7])])
    with pytest.raises(SchemaError, match="int64"):
        vocabulary.lookup("x", pa.array(["7"]))
    with pytest.raises(SchemaError, match="integers or strings"):
        vocabulary.grow("x", pa.array([7.0]))


def test_unknown_features_are_named() -> None:
    with pytest.raises(NotFoundError, match=r"'y'.*'x'"):
        grown([pa.array(["a"])]).lookup("y", pa.array(["a"]))


def test_widths_are_fixed_once() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.fix_width("image", 4) == 4
    assert vocabulary.fix_width("image", 0) == 4
    with pytest.raises(SchemaError, match="3 numbers given for 'image', which has 4"):
        vocabulary.fix_width("image", 3)
    assert vocabulary.fix_width("never", 0) == 0
    assert vocabulary.fix_width("never", 9) == 0


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_files_are_named(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "vocabulary.arrow"
    grown([pa.array(["a"])]).save(path)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(CorruptionError, match=str(path)):
        Vocabulary.load(path)


def test_another_arrow_file_is_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.arrow"
    with pa.ipc.new_file(path, pa.schema([("x", pa.int64())])) as writer:
        writer.write_batch(pa.record_batch({"x": [1]}))
    with pytest.raises(CorruptionError, match=str(path)):
        Vocabulary.load(path)
