"""Token sequences in Feast's own online stores: copied in portions, equal to what the token store fetches."""

from __future__ import annotations

import datetime as dt
import subprocess
from pathlib import Path

import numpy as np
import pytest
from feast.infra.online_stores.sqlite import SqliteOnlineStore

import tokenlake
from tests.fixtures.feast_lakes import bring, build, child, store_of, users_of
from tests.fixtures.feast_sequences import (
    LABELS,
    LENGTH,
    TOKENS,
    Portions,
    fetched,
    lake_of,
    only,
    served,
    trained,
    write,
)
from tests.fixtures.lakes import day
from tests.fixtures.patience import HANG_S
from tokenlake.feast import repository
from tokenlake.feast.materialize import close
from tokenlake.pipeline import jobs
from tokenlake.pipeline.backfill import backfill
from tokenlake.times import day_start

LATER = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)


def end(i: int) -> dt.datetime:
    return dt.datetime.combine(day(i + 1), dt.time(), dt.UTC)


@pytest.mark.parametrize("store", ["sqlite", "tokenlake"])
def test_sequences_and_labels_of_a_lake_that_was_run(tmp_path: Path, store: repository.Online) -> None:
    lake = build(tmp_path / "lake", days=4)
    backfill(lake)
    repository.write(lake.root, online=store)
    report = bring(lake)
    assert report.results[-1].status == "done"
    assert report.results[-1].summary["instance_tokens"] == (0 if store == "tokenlake" else len(users_of(lake)) - 1)
    users = users_of(lake)
    # Asked now, so long after the last day, nothing more is known than ever will be.
    now, past = fetched(lake, users, LATER), fetched(lake, users, end(1))
    assert served(lake, users) == trained(lake, users, LATER) == only(now, TOKENS)
    assert trained(lake, users, end(1)) == only(past, TOKENS)
    assert sum(row["tokens"] is not None for row in past) > 5
    for at, rows in ((LATER, now), (end(1), past)):
        assert trained(lake, users, at, LABELS) == only(rows, LABELS)
    assert {known for row in past for known in row["bought_known"] or ()} == {False, True}
    if store == "tokenlake":
        assert served(lake, users, LABELS) == only(now, LABELS)
    feast = store_of(lake)
    assert feast.get_feature_view("instance_labels").online is (store == "tokenlake")
    close(feast)


def test_many_users_go_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = lake_of(tmp_path, users=500, each=70)
    row = LENGTH * 8 * 4
    watched = Portions(monkeypatch, SqliteOnlineStore, size=40 * row + row // 2)
    told: list[tuple[str, int, int]] = []
    jobs.materialize(lake, day(0), lambda *what: told.append(what))
    assert watched.rows == [40] * 12 + [20]
    assert max(watched.bytes) <= 40 * (row + 16)
    assert told == [("instance_tokens", min(at, 500), 500) for at in range(40, 521, 40)]
    users = list(range(0, 500, 7))
    assert served(lake, users) == trained(lake, users, end(0)) == only(fetched(lake, users, end(0)), TOKENS)


@pytest.mark.filterwarnings("ignore:.*experimental.*:RuntimeWarning")  # what Feast says of on-demand views
def test_a_feature_of_all_tokens_counts_the_last_one_too(tmp_path: Path) -> None:
    """A sequence ends strictly before its time; what is computed of it is as of the day's end."""
    lake = lake_of(tmp_path, users=5, each=3)
    path = lake.root / "feature_repo" / "definitions.py"
    path.write_text(
        path.read_text()
        + """
import pandas as pd
from feast import OnDemandFeatureView
of_tokens = OnDemandFeatureView(name="of_tokens", sources=[instance_tokens], schema=[Field(name="count", dtype=Int64)],
    entities=[user], mode="pandas", write_to_online_store=True, udf_string="count",
    udf=lambda rows: pd.DataFrame({"count": [len(times) for times in rows.timestamps]}))
"""
    )
    jobs.materialize(lake, day(0))
    write(lake, 1, [3], 2)
    jobs.materialize(lake, day(1))
    feast = store_of(lake)
    found = feast.get_online_features(["of_tokens:count"], [{"user_id": user} for user in (0, 3, 77)]).to_dict()[
        "count"
    ]
    close(feast)
    assert found == [3, 5, None]


def test_each_day_copies_whom_it_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = lake_of(tmp_path, users=30, each=3)
    watched = Portions(monkeypatch, SqliteOnlineStore, size=1 << 20)
    jobs.materialize(lake, day(0))
    write(lake, 1, [3, 4, 99], 3)
    with lake.catalog.run("publish", day(1), lake.resolve()):
        pass
    jobs.materialize(lake, day(1))
    assert watched.rows == [30, 31]  # a day is added in front: what is published late is not missed
    write(lake, 2, [5], 3)
    write(lake, 3, [6], 3)
    jobs.materialize(lake, day(3))
    assert watched.rows[2:] == [5]
    users = [0, 3, 4, 5, 6, 99, 1000]
    assert served(lake, users) == only(fetched(lake, users, end(3)), TOKENS)
    # A day that was encoded again, late: whom it met is copied again, up to the newest day.
    write(lake, 0, [7, 8], 5)
    with lake.catalog.run("publish", day(0), lake.resolve()):
        pass
    jobs.materialize(lake, day(0))
    users += [7, 8]
    assert served(lake, users)[-2:] == only(fetched(lake, users, end(3)), TOKENS)[-2:]


def test_nothing_published_yet_is_no_fault(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, users=0, each=0, days=0)
    done = jobs.materialize(lake, day(0))
    assert (done.status, done.summary["instance_tokens"]) == ("done", 0)
    write(lake, 0, [1], 3)
    jobs.materialize(lake, day(0))
    assert served(lake, [1]) == only(fetched(lake, [1], end(0)), TOKENS)


def test_another_serving_version_replaces_the_copies(tmp_path: Path) -> None:
    lake = build(tmp_path / "lake", days=2)
    repository.write(lake.root)
    backfill(lake)
    old = served(lake, [0, 1, 2])
    lake.promote("plain")
    jobs.materialize(lake, day(1))
    new = served(lake, [0, 1, 2])
    assert new == only(fetched(lake, [0, 1, 2], LATER), TOKENS) != old
    assert [row["timestamps"] for row in new] == [row["timestamps"] for row in old]


def test_users_of_the_realtime_tail_alone_are_listed_and_copied(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, users=3, each=2)
    start = day_start(day(0))
    times = [start + 10, start + 20, start + 10**12]
    lake.tokens().append([70, 71, 72], times, np.ones((3, 8)), {"bought": [1] * 3}, {"bought": times})
    jobs.materialize(lake, day(0))
    users = [0, 70, 71, 72]
    assert served(lake, users) == only(fetched(lake, users, end(0)), TOKENS)
    assert served(lake, [70])[0]["tokens"] == [1.0] * 8
    feast = store_of(lake)
    found = feast.get_historical_features(
        features=TOKENS, start_date=end(0) - dt.timedelta(days=1), end_date=end(0)
    ).to_arrow()
    close(feast)
    assert found["user_id"].to_pylist() == [0, 1, 2, 70, 71], "72 did something after the end"


_RSS = r"""
import re, sys
from tests.fixtures.feast_sequences import lake_of
from tests.fixtures.lakes import day
from tokenlake.pipeline import jobs
from pathlib import Path
import tokenlake

def peak():  # of this program alone; getrusage also counts the one that started it
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])

few, many = (tokenlake.open(Path(name)) for name in sys.argv[1:])
jobs.materialize(few, day(0))
before = peak()
rows = jobs.materialize(many, day(0)).summary["instance_tokens"]
print(rows, (peak() - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_users(tmp_path: Path) -> None:
    """1,500 users fill a portion and more. Of nine times as many, what is mapped from the store's files counts too.

    In one table they took 1,046 MB more, in portions 143 to 191 MB, of which 120 MB are mapped: the
    allocator keeps more or less of what two portions took, so a margin of 64 MB was too little.
    """
    dim, few, many = 64, 1_500, 13_500
    for name, users in (("few", few), ("many", many)):
        lake_of(tmp_path / name, users=users, each=LENGTH, dim=dim)
    command = [child(lake_of(tmp_path / "none", 0, 0, days=0), "")[0], "-c", _RSS, str(tmp_path / "few")]
    done = subprocess.run(
        [*command, str(tmp_path / "many")], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    rows, grown = map(int, done.stdout.split())
    assert rows == many
    mapped = tokenlake.open(tmp_path / "many").tokens().status().bytes
    assert grown < mapped / (1 << 20) + 128
