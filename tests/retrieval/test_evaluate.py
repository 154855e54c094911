"""The retrieval table: its baselines by hand, its metrics by hand, and the commands that print it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.pipeline.lakes import day, make_events, make_lake
from tests.retrieval.test_retrieval import AGAIN, SEEN_LEFT_OUT, filled
from tokenlake.cli import app
from tokenlake.errors import NotFoundError
from tokenlake.lake.lake import Lake
from tokenlake.retrieval.baselines import ItemKnn, popular
from tokenlake.retrieval.evaluate import ABLATIONS, BASELINE, OURS, _find, _paired, retrieval_report
from tokenlake.retrieval.pools import POPULAR, Pools
from tokenlake.times import DAY_US, day_start


@pytest.fixture(scope="module", params=[SEEN_LEFT_OUT, AGAIN], ids=["seen left out", "again"])
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return filled(tmp_path_factory.mktemp("lake"), request.param)


def test_item_knn_by_hand(lake: Lake) -> None:
    pools, settings = Pools(lake, day(7)), lake.config.retrieval
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
        met = {ids[c] for c in pools.seen(user, now)} if settings.exclude_seen else set()
        ranked = sorted(
            (i for i in ids if i not in met and (scores[i] or count[i])),
            key=lambda i: (-round(scores[i], 9), -count[i], i),
        )
        got = [ids[c] for c in knn.candidates(user, now, 8)]
        np.testing.assert_allclose([scores[i] for i in got], [scores[i] for i in ranked[:8]], atol=1e-9)
        top = [ids[c] for c in popular(pools, settings, user, now, POPULAR, 5)]
        assert top == sorted((i for i in ids if i not in met and count[i]), key=lambda i: (-count[i], i))[:5]


def test_report_counts_every_positive_of_the_days_after_the_bootstrap(lake: Lake) -> None:
    report = retrieval_report(lake, days=28, k=5, ablations=True, resamples=50)
    assert (report.first, report.last) == (day(4), day(7))
    clicks = [e for e in lake.events.read().to_pylist() if e["clicked"] == 1 and e["ds"] >= day(4)]
    assert report.events == len(clicks)
    assert report.people == len({e["user_id"] for e in clicks})
    of_all = {s.method: s for s in report.scores if s.users == "all"}
    assert of_all.keys() == {BASELINE, "popularity, all time", "item-kNN", OURS, *ABLATIONS}
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


def test_places_and_paired_intervals_by_hand() -> None:
    assert _find(np.array([4, 2, 9]), np.array([9, 3, 4])).tolist() == [2, -1, 0]
    assert _find(np.array([], int), np.array([9])).tolist() == [-1]
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
    assert {s["method"] for s in json.loads(told.stdout)["scores"]} >= {OURS, BASELINE}
    assert "item-kNN" in run(app, ["evaluate", str(lake.root), "--part", "retrieval"]).output
