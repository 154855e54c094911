"""What the contract says, one case each."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import pickle
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from tests.fixtures.store_oracle import DAY, Row
from tests.fixtures.stores import DIM, T0, arguments, make, same
from tokenlake.errors import ConfigError, LockedError, NotFoundError, SchemaError, StorageError
from tokenlake.storage import disk, locks
from tokenlake.times import NEVER
from tokenlake.tokens import compaction
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.store import TokenStore

NAIVE = dt.datetime(2017, 3, 1, tzinfo=dt.UTC).replace(tzinfo=None)


#: What a tail has a part in is tested in each place of it.
both = pytest.mark.usefixtures("place")


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return make(tmp_path / "store")


def plain(path: Path, dim: int = 2, dtype: str = "float32") -> TokenStore:
    return TokenStore.create(path, dim=dim, dtype=dtype)


def rows(n: int = 4, user: int = 1) -> list[Row]:
    return [Row(user, T0 + i, i + 1, 1, T0 + i + 2) for i in range(n)]


def test_the_last_rows_strictly_before(store: TokenStore) -> None:
    made = rows(6)
    store.write_day("2017-03-01", **arguments(made))
    same(store.fetch([1], before=T0 + 4, length=2), [made[2:4]], [T0 + 4])
    same(store.fetch([1], before=T0, length=2), [[]], [T0])
    same(store.fetch(1, before=NEVER), [made], [NEVER])


def test_daily_rows_come_the_day_after(store: TokenStore) -> None:
    made = rows(3)
    store.write_day("2017-03-01", **arguments(made))
    same(store.fetch(1, before=T0 + DAY - 1, available="daily"), [[]], [T0 + DAY - 1])
    same(store.fetch(1, before=T0 + DAY, available="daily"), [made], [T0 + DAY])


def test_users_and_times_broadcast(store: TokenStore) -> None:
    made = rows(3)
    store.write_day("2017-03-01", **arguments(made))
    batch = store.fetch(np.array([[1], [2]]), before=[T0 + 1, T0 + 2])
    same(batch, [made[:1], made[:2], [], []], [T0 + 1, T0 + 2] * 2)
    assert len(store.fetch([], before=[])) == 0
    assert len(store.fetch([], before=T0)) == 0


def test_times_of_every_kind(store: TokenStore) -> None:
    made = rows(3)
    store.write_day(dt.date(2017, 3, 1), **arguments(made))
    for before in (
        "2017-03-02",
        ["2017-03-01T00:00:00.000003"],
        np.datetime64("2017-03-02"),
        dt.datetime(2017, 3, 2, tzinfo=dt.UTC),
        pa.array([dt.datetime(2017, 3, 2, tzinfo=dt.UTC)]),
    ):
        same(store.fetch([1], before=before), [made], [T0 + 3 if isinstance(before, list) else T0 + DAY])


def test_fetch_at_masks_labels_by_default(store: TokenStore) -> None:
    made = [Row(1, T0, 1, 1, T0), Row(1, T0, 2, 1, T0 + 5)]
    store.write_day("2017-03-01", **arguments(made))
    masked = store.fetch_at([1, 1], [T0, T0 + 1])
    assert masked.known["clicked"].tolist() == [False, False]
    assert masked.missing is not None
    assert masked.missing.tolist() == [False, True]
    same(store.fetch_at(1, T0, as_of=T0 + 5), [made], [T0 + 5])
    with pytest.raises(SchemaError, match="as_of"):
        store.fetch_at([1, 1, 1], T0, as_of=[T0, T0])


def test_an_empty_day_is_a_day(store: TokenStore) -> None:
    store.write_day("2017-03-01", **arguments(rows()))
    store.write_day("2017-03-01", **arguments([]))
    store.write_day("2017-03-02", [], [], [], {"event": [], "clicked": []}, {"clicked": []})
    assert store.status().days == {dt.date(2017, 3, 1): 0, dt.date(2017, 3, 2): 0}
    assert len(store.fetch(1, before=NEVER).values) == 0
    store.compact()
    store.verify()


def test_a_null_label_is_never_known(store: TokenStore) -> None:
    made = rows(3)
    given = arguments(made)
    given["side"] = {"event": pa.array([1, 2, 3]), "clicked": pa.array([1, None, 1])}
    given["known_at"] = {"clicked": pa.array([T0, T0, None], pa.timestamp("us", "UTC"))}
    store.write_day("2017-03-01", **given)
    batch = store.fetch(1, before=NEVER)
    assert batch.known["clicked"].tolist() == [True, False, False]
    assert batch.side["clicked"].tolist() == [1, 0, 0]


def test_arrow_rows_are_taken_as_they_are(tmp_path: Path) -> None:
    store = plain(tmp_path / "s")
    table = pa.table({
        "user": pa.chunked_array([["a"], ["b", "a"]]),
        "ts": pa.chunked_array([pa.array([T0], pa.timestamp("us", "UTC")), pa.array([T0 + 1, T0 + 2], pa.timestamp("us", "UTC"))]),
        "token": pa.chunked_array([pa.array([[1.0, 2.0]], pa.list_(pa.float32())), pa.array([[3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32()))]),
    })  # fmt: skip
    store.write_day("2017-03-01", table["user"], table["ts"], table["token"])
    assert store.fetch(table["user"][:1], before=T0 + DAY).values.tolist() == [[1, 2], [5, 6]]
    assert store.ids == "string"


def test_buffers_are_used_again(store: TokenStore) -> None:
    made = rows(6)
    store.write_day("2017-03-01", **arguments(made))
    first = store.fetch(1, before=NEVER)
    memory = first.values.ctypes.data
    again = store.fetch([1, 1], before=T0 + 3, out=first)
    assert again is first
    assert again.values.ctypes.data == memory
    same(again, [made[:3]] * 2, [T0 + 3] * 2)
    same(store.fetch([1, 1], before=T0 + 5, out=again), [made[:5]] * 2, [T0 + 5] * 2)
    with pytest.raises(SchemaError, match="out"):
        store.fetch(1, before=NEVER, out=np.empty(3))  # type: ignore[arg-type]  # what is tested


def test_padded_keeps_the_newest(store: TokenStore) -> None:
    store.write_day("2017-03-01", **arguments(rows(3)))
    dense = store.fetch([1, 2], before=NEVER).padded(2)
    assert dense[:, :, 0].tolist() == [[2, 3], [0, 0]]
    assert store.fetch(1, before=NEVER).padded(5)[0, :, 0].tolist() == [1, 2, 3, 0, 0]


def test_tensors_share_memory(store: TokenStore) -> None:
    store.write_day("2017-03-01", **arguments(rows(3)))
    batch = store.fetch([1, 2], before=NEVER)
    tensors = batch.torch()
    assert tensors.values.dtype == torch.float16
    assert tensors.values.data_ptr() == batch.values.ctypes.data
    assert tensors.known["clicked"].all()
    assert len(tensors) == 2


@pytest.mark.parametrize("scale", [1e-38, 1e-31, 1e-5, 1.0, 3e4, 1e37])
def test_int8_is_close_and_stable(tmp_path: Path, scale: float) -> None:
    tokens = (np.random.default_rng(0).standard_normal((200, 16)) * scale).astype(np.float32)
    tokens[0] = 0
    store = plain(tmp_path / "s", 16, "int8")
    store.write_day("2017-03-01", np.arange(200), np.full(200, T0), tokens)
    batch = store.fetch(np.arange(200), before=NEVER)
    assert batch.scales is not None
    error = np.abs(batch.floats() - tokens)
    assert (error <= np.maximum(batch.scales[:, None] * 0.51, 1e-30)).all()
    again = plain(tmp_path / "again", 16, "int8")
    again.write_day("2017-03-01", np.arange(200), np.full(200, T0), batch.floats())
    second = again.fetch(np.arange(200), before=NEVER)
    assert (second.values == batch.values).all()
    assert (second.scales == batch.scales).all()


def test_int8_of_a_constant_row_uses_the_whole_range(tmp_path: Path) -> None:
    store = plain(tmp_path / "s", 2, "int8")
    store.write_day("2017-03-01", [1], [T0], [[0.3, -0.3]])
    assert store.fetch(1, before=NEVER).values.tolist() == [[127, -127]]


def test_strings_that_hash_alike_stay_apart(tmp_path: Path) -> None:
    names = ["1", "01", "1.0", "", "é", "e\u0301", "\udc80", "a" * 10_000]
    store = plain(tmp_path / "s")
    store.write_day("2017-03-01", names, [T0] * len(names), [[float(i), 0] for i in range(len(names))])
    reopened = TokenStore.open(store.path)
    assert reopened.fetch([*names, "other"], before=NEVER).values[:, 0].tolist() == list(range(len(names)))
    store.verify()


def test_extreme_integers_are_users(tmp_path: Path) -> None:
    users = [np.iinfo(np.int64).min, -1, 0, np.iinfo(np.int64).max]
    store = plain(tmp_path / "s")
    store.write_day("2017-03-01", users, [T0] * 4, np.arange(8.0).reshape(4, 2))
    assert store.fetch(users, before=NEVER).values[:, 0].tolist() == [0, 2, 4, 6]


BAD_ROWS = [
    ({"tokens": np.zeros((4, 4))}, r"shape \(4, 4\) given; expected \(4, 3\)"),
    ({"tokens": np.zeros((3, 3))}, r"expected \(4, 3\)"),
    ({"tokens": np.zeros((4, 3), np.int64)}, "dtype int64"),
    ({"tokens": np.full((4, 3), np.nan)}, "nan in row 0"),
    ({"tokens": np.array([[0.0] * 3] * 3 + [[0, np.inf, 0]])}, "inf in row 3"),
    ({"tokens": np.full((4, 3), 1e6)}, "beyond the range of float16"),
    ({"tokens": [[1.0], [1.0, 2.0]]}, "no array"),
    ({"tokens": pa.array([[1.0, 2.0, 3.0]] * 3 + [[1.0]])}, "lists of 1 to 3"),
    ({"timestamps": np.full(4, T0 - 1)}, "row 0 is of 2017-02-28"),
    ({"timestamps": [T0, T0 + 1, T0 + 2, T0 + DAY]}, "row 3 is of 2017-03-02, not of 2017-03-01"),
    ({"timestamps": [float(T0)] * 4}, "float64"),
    ({"timestamps": [T0] * 3}, r"expected \(4,\)"),
    ({"timestamps": [NAIVE] * 4}, "time zone"),
    ({"timestamps": [dt.datetime(2017, 3, 1, tzinfo=dt.UTC)] * 3 + [NAIVE]}, "position 3"),
    ({"timestamps": [NEVER] * 4}, "no instant"),
    ({"users": [1.0] * 4}, "dtype float64"),
    ({"users": ["a", 1, 2, 3]}, "mixed"),
    ({"users": np.array([1, 2, 3, 2**63], np.uint64)}, "does not fit int64"),
    ({"users": pa.array([1, 2, 3, None])}, "1 nulls"),
    ({"users": [[1], [2], [3], [4]]}, "shape"),
    ({"users": [True] * 4}, "dtype bool"),
    ({"side": {"event": [1] * 4}}, r"\['clicked'\] missing"),
    ({"side": {"event": [1] * 4, "clicked": [1] * 4, "clickd": [1] * 4}}, r"\['clickd'\] unknown"),
    ({"side": {"event": [1] * 4, "clicked": [300] * 4}}, "300 in row 0 does not fit int8"),
    ({"side": {"event": [1] * 4, "clicked": [0.5] * 4}}, "0.5 in row 0 does not fit int8"),
    ({"side": {"event": [1] * 4, "clicked": ["x"] * 4}}, "expected int8"),
    ({"side": {"event": [1] * 4, "clicked": [1] * 5}}, r"expected \(4,\)"),
    ({"side": {"event": pa.array([1, 2, 3, None]), "clicked": [1] * 4}}, "only labels"),
    ({"known_at": {}}, "known_at"),
    ({"known_at": {"clicked": [0.5] * 4}}, "known_at 'clicked'"),
]


@both
@pytest.mark.parametrize(("change", "message"), BAD_ROWS)
def test_a_bad_row_refuses_the_whole_call(store: TokenStore, change: dict[str, object], message: str) -> None:
    good = arguments(rows())
    with np.errstate(over="ignore"), pytest.raises(SchemaError, match=message):
        store.write_day("2017-03-01", **{**good, **change})
    if "of 2017-0" not in message:  # a tail row may be of any day
        with pytest.raises(SchemaError, match=message):
            store.append(**{**good, **change})
    assert store.generation == 0
    assert store.status().tail_rows == 0
    store.write_day("2017-03-01", **good)


@pytest.mark.parametrize(
    ("arguments_", "message"),
    [
        ({"users": [1, 2], "before": [1, 2, 3]}, "broadcast"),
        ({"users": 1, "before": 1.5}, "before: dtype float64"),
        ({"users": 1, "before": np.datetime64("NaT")}, "NaT"),
        ({"users": 1, "before": "yesterday"}, "before: 'yesterday'"),
        ({"users": 1, "before": "2017-03-01T00:00:00+02:00"}, "ISO"),
        ({"users": 1.5, "before": 1}, "users: dtype"),
        ({"users": [1, "a"], "before": 1}, "mixed"),
        ({"users": pa.array([Decimal("1.5")]), "before": 1}, r"users: Arrow type decimal128\(2, 1\) given"),
        ({"users": 1, "before": 1, "length": 0}, "length=0"),
        ({"users": 1, "before": 1, "length": 2.0}, "length=2.0"),
        ({"users": 1, "before": 1, "available": "now"}, "available='now'"),
    ],
)
def test_a_bad_query_is_refused(store: TokenStore, arguments_: dict[str, object], message: str) -> None:
    store.write_day("2017-03-01", **arguments(rows()))
    with pytest.raises(SchemaError, match=message):
        store.fetch(**arguments_)  # type: ignore[arg-type]  # what is tested


@both
def test_ids_of_the_other_kind_are_nobody(tmp_path: Path) -> None:
    numbers, strings = make(tmp_path / "numbers"), make(tmp_path / "strings")
    day = arguments(rows(4, user=-1))
    numbers.write_day("2017-03-01", **day)
    numbers.append(**day | {"timestamps": day["timestamps"] + DAY})
    strings.write_day("2017-03-01", **day | {"users": ["-1"] * 4})
    for store, own, others in ((numbers, -1, ["-1", "a"]), (strings, "-1", [-1, 7])):
        assert len(store.fetch(own, before=NEVER).values) >= 4
        for other in ("", *others) if store is numbers else others:
            for before in (0, "2017-04-01", NEVER):
                assert store.fetch([other, other], before=before).offsets.tolist() == [0, 0, 0]
                assert store.fetch(other, before=before, available="daily").lengths.tolist() == [0]
            found = store.fetch_at([other] * 4, day["timestamps"], as_of=NEVER)
            assert found.missing is not None
            assert found.missing.all()
            with pytest.raises(SchemaError, match="this store's user ids are"):
                store.append(**day | {"users": [other] * 4})
    assert make(tmp_path / "empty").fetch(["a", "b"], before=NEVER).offsets.tolist() == [0, 0, 0]


#: Not among them: fixed-width strings of NumPy's and categories of pandas', which lose NULs when they are made.
FORMS: list[Callable[[list[str]], Any]] = [
    list,
    tuple,
    lambda ids: np.array(ids, object),
    lambda ids: np.array(ids, np.dtypes.StringDType()),
    lambda ids: pd.Series(ids, dtype=object),
    lambda ids: pd.Series(ids, dtype="string"),
    pa.array,
    lambda ids: pa.array(ids, pa.large_string()),
    lambda ids: pa.array(ids, pa.string_view()),
    lambda ids: pa.chunked_array([ids[:1], ids[1:]], pa.string_view()),
    lambda ids: pa.array(ids).dictionary_encode(),
    lambda ids: pa.chunked_array([pa.array(part).dictionary_encode() for part in (ids[:3], ids[3:])]),
]


@both
def test_strings_are_told_apart_to_the_last_character(tmp_path: Path) -> None:
    ids = ["a", "a\0", "a\0\0", "a ", " a", "\0", "", "A", "á", "a\u0301"]
    times = np.arange(len(ids))
    for i, written in enumerate(FORMS):
        store = plain(tmp_path / str(i))
        tokens = np.arange(2.0 * len(ids)).reshape(-1, 2)
        store.write_day("1970-01-01", written(ids), times, tokens)
        for asked in FORMS:
            batch = store.fetch(asked(ids), before=NEVER)
            assert batch.offsets.tolist() == list(range(len(ids) + 1))
            assert (batch.values == tokens).all()
        assert [len(store.fetch(user, before=NEVER).values) for user in ids] == [1] * len(ids)


@pytest.mark.parametrize(
    ("arguments_", "message"),
    [
        ({"dim": 0}, "dim=0"),
        ({"dim": 2, "dtype": "float64"}, "float64"),
        ({"dim": 2, "dtype": None}, "None"),
        ({"dim": 2, "side": {"x": "str"}}, "side 'x'"),
        ({"dim": 2, "side": {"": "int8"}}, "side ''"),
        ({"dim": 2, "side": {"a\0": "int8"}}, "no name of a column"),
        ({"dim": 2, "side": {"a": "int8"}, "known_at": ["a", "a"]}, "each label once"),
        ({"dim": 2, "known_at": ["x"]}, "no side columns"),
        ({"dim": 2, "side": {"x": "int8"}, "known_at": "x"}, "list of names"),
    ],
)
def test_a_store_that_cannot_be(tmp_path: Path, arguments_: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        TokenStore.create(tmp_path / "s", **arguments_)  # type: ignore[arg-type]  # what is tested


@both
def test_a_store_is_made_once(tmp_path: Path) -> None:
    plain(tmp_path / "s")
    with pytest.raises(ConfigError, match="already"):
        plain(tmp_path / "s")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        plain(tmp_path / "other")
    with pytest.raises(NotFoundError, match="no token store"):
        TokenStore.open(tmp_path / "nowhere")


@both
def test_there_is_one_writer(store: TokenStore) -> None:
    with locks.hold(store.path / "write.lock", "a test"):
        with pytest.raises(LockedError, match="a test"):
            store.write_day("2017-03-01", **arguments(rows()))
        with pytest.raises(LockedError):
            store.compact()
        assert store.append(**arguments(rows())) == 4  # the tail goes on
    store.write_day("2017-03-01", **arguments(rows()))


@both
def test_ids_are_of_one_kind(store: TokenStore) -> None:
    store.append(**arguments(rows()))
    with pytest.raises(SchemaError, match="ids are integers"):
        store.append(**{**arguments(rows()), "users": ["a"] * 4})


@both
def test_a_reader_keeps_its_snapshot_when_the_files_are_gone(store: TokenStore) -> None:
    old = rows(3)
    store.write_day("2017-03-01", **arguments(old))
    reader = TokenStore.open(store.path)
    new = [Row(1, T0 + 9, 77, 1, T0)]
    store.write_day("2017-03-01", **arguments(new))
    for day in range(2, 20):
        store.write_day(dt.date(2017, 3, day), **arguments([Row(1, T0 + (day - 1) * DAY, day, 0, 0)]))
    same(reader.fetch(1, before=NEVER), [old], [NEVER])
    assert reader.refresh()
    same(reader.fetch(1, before=T0 + DAY), [new], [T0 + DAY])


@both
def test_a_reader_follows_the_tail_into_a_new_log(store: TokenStore) -> None:
    reader = TokenStore.open(store.path)
    first, second, third = rows(3)
    store.append(**arguments([first, second]))
    store.write_day("2017-03-01", **arguments([first]))  # supersedes one, carries the other
    store.append(**arguments([third]))
    same(reader.fetch(1, before=NEVER), [[first, second, third]], [NEVER])
    assert store.status().unmatched == 2
    assert store.status().tail_rows == 2
    reader.refresh()
    same(reader.fetch(1, before=NEVER), [[first, second, third]], [NEVER])


@both
def test_rows_of_a_day_precede_the_tail_at_equal_times(store: TokenStore) -> None:
    early = Row(1, T0, 1, 0, 0)
    late = [Row(1, T0, 2, 0, 0), Row(1, T0 + 1, 3, 0, 0)]
    store.append(**arguments([early, Row(1, T0 + 1, 4, 0, 0)]))
    store.write_day("2017-03-01", **arguments(late[1:]))
    same(store.fetch(1, before=NEVER), [[early, late[1]]], [NEVER])
    assert store.append(**arguments([Row(1, T0 + 1, 5, 0, 0), Row(2, T0 + 1, 6, 0, 0)])) == 1


@both
def test_threads_fetch_while_one_appends(store: TokenStore) -> None:
    store.write_day("2017-03-01", **arguments(rows(5)))
    done = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                batch = store.fetch([1, 2], before=NEVER, length=10_000)
                assert batch.lengths[0] == 5
                own = batch.side["event"][batch.offsets[1] :]
                assert own.tolist() == list(range(len(own)))
        except BaseException as error:  # told by the main thread
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        store.append(**arguments([Row(2, T0 + DAY + i, i, 0, 0)]))
    done.set()
    for thread in threads:
        thread.join()
    assert not errors


@both
def test_a_worker_opens_its_own(store: TokenStore) -> None:
    store.write_day("2017-03-01", **arguments(rows(2)))
    copy = pickle.loads(pickle.dumps(store))
    same(copy.fetch(1, before=NEVER), [rows(2)], [NEVER])
    assert "dim=3" in repr(copy)
    assert "1 queries, 2 rows of 3 x float16" in repr(copy.fetch(1, before=NEVER))
    assert len(TokenBatch.empty(store.schema)) == 0
    assert store.schema.dim == DIM


def test_a_full_disk_changes_nothing(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_day("2017-03-01", **arguments(rows(2)))
    plain, left = disk.write, 0

    def write(fd: int, data: bytes | memoryview) -> None:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= 1
        plain(fd, data)

    monkeypatch.setattr(disk, "write", write)
    monkeypatch.setattr(compaction, "FANOUT", 3)  # two days are not merged
    another = arguments([Row(1, T0 + DAY, 9, 0, 0)])
    tried = 0
    while store.generation == 1:
        left = tried
        with contextlib.suppress(StorageError):
            store.write_day("2017-03-02", **another)
            break
        same(TokenStore.open(store.path).fetch(1, before=NEVER), [rows(2)], [NEVER])
        tried += 1
    assert tried > 5
    left = 0
    with pytest.raises(StorageError, match="No space"):
        store.append(**arguments([Row(9, T0, 1, 0, 0)]))
    assert store.status().tail_rows == 0
    monkeypatch.undo()
    assert store.append(**arguments([Row(9, T0, 1, 0, 0)])) == 1
    store.verify()


@both
def test_merging_that_fails_does_not_undo_the_day(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compaction, "merge", refuse)
    days = [dt.date(2017, 3, day) for day in range(1, 6)]
    store.write_day(days[0], **arguments([Row(1, T0, 0, 0, 0)]))
    for number, day in enumerate(days[1:4], 1):
        with pytest.warns(UserWarning, match="merging days failed"):
            store.write_day(day, **arguments([Row(1, T0 + number * DAY, number, 0, 0)]))
    assert len(store.fetch(1, before=NEVER).values) == 4
    monkeypatch.undo()
    store.write_day(days[4], **arguments([]))
    assert store.status().slices == 1
