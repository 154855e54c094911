"""Every format that MovieLens has been published in gives the same log."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.fixtures import releases
from tests.fixtures.releases import write
from tokenlake.config import Config
from tokenlake.datasets import _download, fetch, movielens
from tokenlake.errors import SchemaError, SourceError, TransientError

RELEASES = {
    "ml-100k": (releases.ml_100k(), True),
    "recbole": (releases.ml_100k_atomic(), True),
    "ml-1m": (releases.ml_1m(), True),
    "ml-20m": (releases.ml_20m(), False),
    "ml-25m": (releases.ml_20m("ml-25m"), False),
}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((folder / "landing").iterdir()) for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("name", RELEASES)
def test_every_format(tmp_path: Path, name: str, as_zip: bool) -> None:
    release, with_people = RELEASES[name]
    report = movielens.build(tmp_path / "out", source=write(tmp_path, release, as_zip=as_zip))
    assert (report.name, report.events, report.users, report.items, report.days) == ("movielens", 5, 3, 3, 4)
    assert report.counts == {"liked": 3, "not liked": 2}
    films = {1: (1995.0, "1990s"), 2: (1996.0, "1990s"), 3: (None, None)}
    people = {1: ("18-24", "M"), 2: ("50-55", "F"), 9: (None, None)}
    got = rows(tmp_path / "out")
    expected = sorted(releases.RATINGS, key=lambda rating: (rating[3], rating[0] << 32 | rating[1]))
    for row, (user, film, rating, seconds) in zip(got, expected, strict=True):
        assert (row["user_id"], row["movie_id"], row["event_id"]) == (user, film, user << 32 | film)
        assert row["timestamp"] == dt.datetime.fromtimestamp(seconds, dt.UTC)
        assert row["liked"] == (rating >= 4)
        assert (row["year"], row["decade"]) == films[film]
        assert row["genres"] == list(releases.GENRES[film])
        if with_people:
            assert (row["age"], row["gender"]) == people[user]
        assert "rating" not in row
    if with_people:
        occupations = {row["user_id"]: row["occupation"] for row in got}
        assert occupations == {1: "technician/engineer" if name == "ml-1m" else "technician", 2: "other", 9: None}

    declared = Config.load(tmp_path / "out" / "tokenlake.yaml").events
    names = {declared.user, declared.item, declared.timestamp, declared.id, *declared.features, *declared.labels}
    assert names == got[0].keys()


def test_a_folder_above_the_release_will_do(tmp_path: Path) -> None:
    inner = write(tmp_path, releases.ml_1m(), as_zip=False)
    assert movielens.build(tmp_path / "out", source=inner.parent).events == 5


def test_half_stars(tmp_path: Path) -> None:
    release = releases.ml_20m()
    release["ml-20m/ratings.csv"] = b"userId,movieId,rating,timestamp\n1,1,3.5,1\n1,2,4.5,2\n"
    movielens.build(tmp_path / "out", source=write(tmp_path, release, as_zip=True))
    assert [row["liked"] for row in rows(tmp_path / "out")] == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ml-1m/movies.dat": None}, r"lacks movies\.dat"),
        ({"ml-1m/ratings.dat": None}, "holds no MovieLens release"),
        ({"ml-1m/ratings.dat": b"1::2::3\n"}, "is not a MovieLens release as GroupLens has it"),
        ({"ml-1m/ratings.dat": b"1::1::874965758::5\n"}, r"should hold ratings from 0\.5 to 5"),
        ({"ml-1m/ratings.dat": b"1::1::5::9\n1::1::4::10\n"}, "rated one film twice"),
        ({"ml-1m/ratings.dat": b""}, "is not a MovieLens release"),
        ({"ml-1m/users.dat": b"1::M::young::17::85711\n"}, "is not a MovieLens release"),
    ],
)
def test_damaged(tmp_path: Path, change: dict[str, bytes | None], message: str) -> None:
    release = {name: data for name, data in (releases.ml_1m() | change).items() if data is not None}
    with pytest.raises(SourceError, match=message):
        movielens.build(tmp_path / "out", source=write(tmp_path, release, as_zip=True))


def test_days_are_a_part_of_the_same_log(tmp_path: Path) -> None:
    source = write(tmp_path, releases.ml_100k(), as_zip=True)
    fetch("movielens-100k", tmp_path / "all", source=source)
    days = sorted({row["timestamp"].date() for row in rows(tmp_path / "all")})
    chosen = (days[1], days[-1])
    fetch("movielens-100k", tmp_path / "part", source=source, days=chosen)
    expected = [row for row in rows(tmp_path / "all") if chosen[0] <= row["timestamp"].date() <= chosen[1]]
    assert rows(tmp_path / "part") == expected
    with pytest.raises(SchemaError, match="give the first day first"):
        fetch("movielens-100k", tmp_path / "none", source=source, days=chosen[::-1])
    with pytest.raises(SourceError, match="no rating from 2030-01-01 to 2030-01-02"):
        fetch("movielens-100k", tmp_path / "none", source=source, days=("2030-01-01", "2030-01-02"))


def test_no_release_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        movielens.build(tmp_path / "out", source=tmp_path / "gone.zip")
    text = tmp_path / "ratings.txt"
    text.write_text("hello")
    with pytest.raises(SourceError, match="neither a folder nor a zip"):
        movielens.build(tmp_path / "out", source=text)
    with pytest.raises(SourceError, match="holds no MovieLens release"):
        movielens.build(tmp_path / "out", source=tmp_path)


def test_the_wheel_steps_in_for_grouplens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    wheel = write(tmp_path, releases.ml_100k_atomic(), as_zip=True)
    monkeypatch.setattr(_download, "fetch_url", lambda url, *args, **options: asked.append(url))
    monkeypatch.setattr(_download, "fetch_wheel", lambda pinned: asked.append(pinned.requirement) or wheel)
    report = movielens.build(tmp_path / "out")
    assert asked == [movielens.URL, "recbole==1.2.1"]
    assert movielens.build(tmp_path / "out") == dataclasses.replace(report, built=False)
    assert len(asked) == 2


def test_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "URL_SECONDS", 1.0)
    try:
        report = fetch("movielens-100k", tmp_path / "out")
    except TransientError as error:
        pytest.skip(str(error))
    assert (report.events, report.users, report.items) == (100_000, 943, 1_682)
    assert report.counts["liked"] == 55_375
    assert (str(report.first), str(report.last)) == ("1997-09-20", "1998-04-22")
