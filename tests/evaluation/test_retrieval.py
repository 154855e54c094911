"""The retrieval table: its baselines by hand, its metrics by hand, and the commands that print it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.fixtures.embedded import AGAIN, SEEN_LEFT_OUT, filled
from tests.fixtures.lakes import day, make_events, make_lake
from tokenlake._lake import Lake
from tokenlake.catalog.catalog import EMBED
from tokenlake.cli import app
from tokenlake.errors import NotFoundError
from tokenlake.evaluation import reports
from tokenlake.evaluation.baselines import ItemKnn, own_past
from tokenlake.evaluation.retrieval import ABLATIONS, BASELINE, OURS, OWN, _paired, retrieval_report
from tokenlake.evaluation.variants import variants
from tokenlake.retrieval.pools import ItemPools, Popularity, best, ranks
from tokenlake.times import DAY_US, day_start


@pytest.fixture(scope="module", params=[SEEN_LEFT_OUT, AGAIN], ids=["seen left out", "again"])
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return filled(tmp_path_factory.mktemp("lake"), request.param)


def test_item_knn_by_hand(lake: Lake) -> None:
    pools, settings = ItemPools(lake, day(7)), lake.config.retrieval
    knn = ItemKnn(pools, settings)
    events = lake.events.read().sort_by(
        [("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")]
    )
    clicks = [
        (
            pools.log.codes_of(events["user_id"][i : i + 1].combine_chunks())[0],
            e["item_id"],
            int(e["timestamp"].timestamp() * 1e6),
        )
        for i, e in enumerate(events.to_pylist())
        if e["clicked"] == 1
    ]
    ids = pools.ids.to_pylist()
    for user, now in [(0, day_start(day(7)) + DAY_US // 2), (5, day_start(day(6)) + 1), (3, day_start(day(7)))]:
        midnight = now // DAY_US * DAY_US
        fans = {i: {u for u, item, t in clicks if item == i and midnight - 3 * DAY_US <= t < midnight} for i in ids}
        scores = dict.fromkeys(ids, 0.0)
        for _, mine, t in [c for c in clicks if c[0] == user and now - 3 * DAY_US <= c[2] < now][-50:]:
            for i in ids:
                together = len(fans[mine] & fans[i])
                if together:
                    cosine = together / (len(fans[mine]) * len(fans[i])) ** 0.5
                    scores[i] += 0.5 ** ((now - t) / (2 * DAY_US)) * cosine
        count = {i: sum(item == i and t < midnight for _, item, t in clicks) for i in ids}
        who, at = np.array([user]), np.array([now])
        seen = pools.seen(who, at)[0] if settings.exclude_seen else np.zeros(0, np.int64)
        met = {ids[c] for c in seen}
        ranked = sorted(
            (i for i in ids if i not in met and (scores[i] or count[i])),
            key=lambda i: (-round(scores[i], 9), -count[i], i),
        )
        told = knn.scores(who, at, day((midnight - day_start(day(0))) // DAY_US))[0]
        told[seen] = -1
        popular = pools.popularity(day((midnight - day_start(day(0))) // DAY_US))
        got = [ids[c] for c in best(told, popular, 8)]
        np.testing.assert_allclose([scores[i] for i in got], [scores[i] for i in ranked[:8]], atol=1e-9)
        top = [ids[c] for c in best(np.where(np.isin(np.arange(len(ids)), seen), -1.0, 0.0), popular, 5)]
        assert top == sorted((i for i in ids if i not in met and count[i]), key=lambda i: (-count[i], i))[:5]


def test_report_counts_every_positive_of_the_days_after_the_bootstrap(lake: Lake) -> None:
    report = retrieval_report(lake, days=28, k=5, ablations=True, resamples=50)
    assert (report.first, report.last) == (day(4), day(7))
    clicks = [e for e in lake.events.read().to_pylist() if e["clicked"] == 1 and e["ds"] >= day(4)]
    assert report.events == len(clicks)
    assert report.people == len({e["user_id"] for e in clicks})
    of_all = {s.method: s for s in report.scores if s.users == "all"}
    again = set() if lake.config.retrieval.exclude_seen else {OWN}
    assert of_all.keys() == {BASELINE, "popularity, all time", "item-kNN", OURS, *ABLATIONS, *again}
    assert of_all[BASELINE].lift.value == of_all[BASELINE].lift.low == of_all[BASELINE].lift.high == 0
    assert all(0 <= s.ndcg <= s.recall <= 1 for s in report.scores)
    asked = [lake.candidates([e["user_id"]], [e["timestamp"]], k=5) for e in clicks]
    places = [
        a.items.to_pylist().index(e["item_id"]) if e["item_id"] in a.items.to_pylist() else None
        for a, e in zip(asked, clicks, strict=True)
    ]
    assert of_all[OURS].recall == pytest.approx(np.mean([p is not None for p in places]))
    assert of_all[OURS].ndcg == pytest.approx(np.mean([0 if p is None else 1 / np.log2(p + 2) for p in places]))
    stored = {m.labels["method"]: m.value for m in lake.catalog.metrics("recall") if m.labels["users"] == "all"}
    assert stored[OURS] == of_all[OURS].recall


@pytest.mark.slow
def test_other_encoders_are_lineages_of_their_own(tmp_path: Path) -> None:
    lake = filled(tmp_path, SEEN_LEFT_OUT)
    version = lake.config.embedding_version
    before = lake.user_embeddings.read(version=version)
    others = variants(lake)
    assert others.keys() == {"without time encoder", "vectors of 16", "vectors of 32", "vectors of 64"}
    assert len({version, *(other.config.embedding_version for other in others.values())}) == 5

    report = retrieval_report(lake, k=5, retrain=True, resamples=10)
    assert {s.method for s in report.scores if s.users == "all"} >= {OURS, *others}
    for name, other in others.items():
        rows = other.user_embeddings.read(version=other.config.embedding_version)
        widths = {len(vector) for vector in rows["embedding"].to_pylist()}
        assert widths == {int(name.split()[-1]) if "vectors" in name else 8}
        # What is told of a variant is what its own lake answers.
        clicks = [e for e in lake.events.read().to_pylist() if e["clicked"] == 1 and e["ds"] >= day(4)]
        asked = other.candidates([e["user_id"] for e in clicks], [e["timestamp"] for e in clicks], k=5)
        found = [e["item_id"] in asked.of(i).to_pylist() for i, e in enumerate(clicks)]
        assert next(s.recall for s in report.scores if s.method == name) == pytest.approx(np.mean(found))
    assert lake.user_embeddings.read(version=version).equals(before)

    trained = len(lake.catalog.runs(job="train-embeddings"))
    retrieval_report(lake, k=5, retrain=True, resamples=10)
    assert len(lake.catalog.runs(job="train-embeddings")) == trained


def test_places_are_those_of_the_sorted_list() -> None:
    """Ranks counted, the best k cut out, and everything sorted: three ways to one order, with many ties."""
    rng = np.random.default_rng(0)
    for n in (1, 5, 60):
        popular = Popularity.of(rng.integers(0, 3, n))
        scores = np.where(rng.random((20, n)) < 0.5, rng.integers(0, 4, (20, n)), -1.0) * 0.5
        for row, mine in enumerate(scores):
            named = [i for i in range(n) if mine[i] > 0 or (mine[i] == 0 and popular.counts[i] > 0)]
            whole = sorted(named, key=lambda i: (-mine[i], -popular.counts[i], i))
            for k in (1, 4, n):
                assert best(mine, popular, k).tolist() == whole[:k]
            places = ranks(scores, popular, np.full(n, row), np.arange(n))
            assert places.tolist() == [whole.index(i) if i in whole else -1 for i in range(n)]


def test_what_users_did_before_by_hand(lake: Lake) -> None:
    pools = ItemPools(lake, day(7))
    now = day_start(day(7)) + DAY_US // 2
    told = own_past(pools, np.arange(len(pools.log.users)), np.full(len(pools.log.users), now))
    expected = np.zeros(told.shape)
    for e in lake.events.read().to_pylist():
        age = now - int(e["timestamp"].timestamp() * 1e6)
        if e["clicked"] == 1 and 0 < age <= 3 * DAY_US:
            user, item = pools.log.users.index(e["user_id"]).as_py(), pools.ids.index(e["item_id"]).as_py()
            expected[user, item] += 0.5 ** (age / (2 * DAY_US))
    np.testing.assert_allclose(told, expected, atol=1e-9)


def test_paired_intervals_by_hand() -> None:
    everyone = _paired(np.ones(30), np.arange(30) % 7, 50)
    assert (everyone.value, everyone.low, everyone.high) == (1, 1, 1)
    one_user = _paired(np.array([1.0, 0.0]), np.array([3, 3]), 50)
    assert (one_user.value, one_user.low, one_user.high) == (0.5, 0.5, 0.5)
    mixed = _paired(np.arange(100) % 2 * 1.0, np.arange(100), 400)
    assert mixed.low < 0.45 < mixed.value == 0.5 < 0.55 < mixed.high


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="bootstrap"):
        retrieval_report(filled(tmp_path / "a", SEEN_LEFT_OUT, make_events(days=2)))
    with pytest.raises(NotFoundError, match="bootstrap"):
        retrieval_report(make_lake(tmp_path / "b", SEEN_LEFT_OUT))


def test_commands(lake: Lake) -> None:
    run = CliRunner().invoke
    shown = run(app, ["neighbors", str(lake.root), "3", "-k", "2", "--at", "2024-03-08T12:00:00"])
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())  # titles break over lines
    assert "like user 3" in words
    assert "served by 2024-03-07" in words
    assert "integers" in run(app, ["neighbors", str(lake.root), "me"]).output
    told = run(app, ["evaluate", str(lake.root), "--part", "retrieval", "--json"])
    assert told.exit_code == 0, told.output
    assert {s["method"] for s in json.loads(told.stdout)["retrieval"]["rows"]} >= {OURS, BASELINE}
    assert "item-kNN" in run(app, ["evaluate", str(lake.root), "--part", "retrieval"]).output


def test_a_report_is_kept_until_something_is_embedded(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def report(*given: Any, **named: Any) -> Any:
        asked.append(given)
        return retrieval_report(*given, resamples=10, **named)

    monkeypatch.setattr(reports, "retrieval_report", report)
    assert not reports.is_current(lake)
    first = reports.current_report(lake)
    assert reports.is_current(lake)
    assert reports.current_report(lake) == first
    assert len(asked) == 1
    (path,) = (lake.data / "reports").iterdir()
    os.utime(path, (2e9, 2e9))  # its time says nothing
    with lake.catalog.run(EMBED, day(7), lake.config.embedding_version):
        pass
    assert not reports.is_current(lake)
    path.write_text("{}")
    assert not reports.is_current(lake)
    reports.current_report(lake)
    assert len(asked) == 2
    assert list((lake.data / "reports").iterdir()) == [path]
    assert not reports.is_current(lake, days=2)  # a report of other days is another
    assert reports.current_report(lake, days=2).first > first.first
    assert reports.is_current(lake, days=2)
    assert not reports.is_current(lake)
