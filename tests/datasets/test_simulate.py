"""The simulated log: what is promised of it, measured."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from tokenlake.config import Config
from tokenlake.datasets import DatasetReport
from tokenlake.datasets import simulate as module
from tokenlake.datasets._world import World
from tokenlake.datasets.simulate import simulate
from tokenlake.errors import SchemaError

EVENTS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ads") / "log"
    simulate(out, users=500, items=200, days=28, events=EVENTS, seed=1)
    return out


@pytest.fixture(scope="module")
def log(folder: Path) -> pa.Table:
    return ds.dataset(folder / "landing").to_table().sort_by("impression_id")


@pytest.fixture(scope="module")
def truth(folder: Path) -> pa.Table:
    files = sorted((folder / "truth").glob("2024-*.parquet"))
    return ds.dataset(files).to_table().sort_by("impression_id")


def numbers(table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()


def test_shape(folder: Path, log: pa.Table, truth: pa.Table) -> None:
    assert log.num_rows == truth.num_rows == EVENTS
    assert numbers(log, "impression_id").tolist() == list(range(EVENTS))
    assert (np.diff(numbers(log, "shown_at")) >= 0).all()
    for file in (folder / "landing").iterdir():
        days = pc.unique(pc.cast(pa.parquet.read_table(file)["shown_at"], pa.date32())).to_pylist()
        assert days == [dt.date.fromisoformat(file.stem)]
    declared = Config.load(folder / "tokenlake.yaml").events
    late = {label.known_at for label in declared.labels.values()} - {None}
    names = {declared.user, declared.item, declared.timestamp, declared.id, *declared.features, *declared.labels, *late}
    assert names == set(log.column_names)
    assert declared.labels["converted"].window == dt.timedelta(microseconds=module.WINDOW_US)
    assert not {"p_click", "followed_up"} & set(log.column_names)


def test_conversions_follow_clicks_within_the_window(log: pa.Table) -> None:
    converted, clicked = numbers(log, "converted") == 1, numbers(log, "clicked") == 1
    assert converted.any()
    assert (clicked | ~converted).all()
    assert (pc.is_valid(log["converted_at"]).to_numpy() == converted).all()
    delay = numbers(log.filter(pa.array(converted)), "converted_at") - numbers(log, "shown_at")[converted]
    assert delay.min() >= 1_000_000
    assert delay.max() <= module.WINDOW_US


def test_delays_differ_by_advertiser(log: pa.Table, folder: Path) -> None:
    payers = pa.parquet.read_table(folder / "truth" / "advertisers.parquet")
    scale = numbers(payers, "scale_hours")[numbers(log, "advertiser")]
    converted = numbers(log, "converted") == 1
    delay = numbers(log.filter(pa.array(converted)), "converted_at") - numbers(log, "shown_at")[converted]
    slow = scale[converted] > np.median(scale[converted])
    assert np.median(delay[slow]) > 2 * np.median(delay[~slow])


def test_truth_is_calibrated(log: pa.Table, truth: pa.Table) -> None:
    clicked, p = numbers(log, "clicked"), numbers(truth, "p_click")
    for low, high in ((0, 0.05), (0.05, 0.15), (0.15, 0.4), (0.4, 1)):
        inside = (p >= low) & (p < high)
        spread = np.sqrt((p[inside] * (1 - p[inside])).sum())
        assert abs(clicked[inside].sum() - p[inside].sum()) < 4 * spread


def test_heavy_tails(log: pa.Table) -> None:
    for name in ("user_id", "ad_id"):
        counts = np.sort(np.bincount(numbers(log, name)))[::-1]
        assert counts[: len(counts) // 10].sum() > 0.3 * EVENTS, "a tenth has more than three tenths"


def test_clicks_of_weeks_ago_matter(log: pa.Table, truth: pa.Table, folder: Path) -> None:
    """`followed_up` found again, event by event, from nothing but the user's earlier clicks."""
    topics = pa.parquet.read_table(folder / "truth" / "topics.parquet")
    leads_to = np.argsort(numbers(topics, "follow_up"))
    topic = np.array([int(name.removeprefix("topic-")) for name in log["category"].to_pylist()])
    day = numbers(log, "shown_at") // 86_400_000_000
    user, clicked = numbers(log, "user_id"), numbers(log, "clicked")
    clicks: dict[tuple[int, int], set[int]] = {}
    found = []
    for u, t, d, c in zip(user.tolist(), topic.tolist(), day.tolist(), clicked.tolist(), strict=True):
        found.append(any(7 <= d - earlier <= 21 for earlier in clicks.get((u, int(leads_to[t])), ())))
        if c:
            clicks.setdefault((u, t), set()).add(d)
    followed_up = numbers(truth, "followed_up")
    assert np.array_equal(followed_up, found)
    assert clicked[followed_up].mean() > 3 * clicked[~followed_up].mean()


def test_interests_drift(folder: Path) -> None:
    users = pa.parquet.read_table(folder / "truth" / "users.parquet")
    first, last = (np.array(users[f"{when}_latent"].to_pylist()) for when in ("first", "last"))
    cosine = (first * last).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(last, axis=1)
    assert 0.4 < cosine.mean() < 0.9
    assert 0.8 < np.linalg.norm(last, axis=1).mean() < 1.2


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, **options: int) -> DatasetReport:
        return simulate(tmp_path / name, users=50, items=30, days=5, events=2_000, **options)

    told: list[tuple[str, int, int]] = []
    one = simulate(
        tmp_path / "one", 50, 30, 5, 2_000, progress=lambda what, done, total: told.append((what, done, total))
    )
    assert told[-1] == ("write", 5, 5)
    assert one.events == 2_000
    make("again")
    make("other", seed=1)
    assert files(tmp_path / "one") == files(tmp_path / "again") != files(tmp_path / "other")
    monkeypatch.setattr(module, "BLOCK_ROWS", 97)
    make("blocks")
    for name in files(tmp_path / "one"):
        assert pa.parquet.read_table(tmp_path / "one" / name).equals(pa.parquet.read_table(tmp_path / "blocks" / name))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 1, 9, 2), (2, 5, 40, 400), (1, 30, 2, 50)])
def test_small_ones(tmp_path: Path, sizes: tuple[int, int, int, int]) -> None:
    report = simulate(tmp_path / "out", *sizes)
    assert report.events == sizes[-1]
    assert report.days <= sizes[2]


def test_ads_come_and_go() -> None:
    world = World.make(0, users=10, items=300, days=60)
    running = [(world.ads.first_day <= day) & (day <= world.ads.last_day) for day in (0, 59)]
    assert (running[0] != running[1]).any()
    assert all(set(world.ads.topic[now]) == set(world.ads.topic) for now in running)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 0}, r"\{'users': 0\} given; expected at least 1"),
        ({"seed": -1}, r"\{'seed': -1\} given"),
        ({"start": "soon"}, "'soon' is not a day"),
        ({"start": "2099-12-30"}, "end after 2099"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        simulate(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
