"""`lake.rank` of 1,000 candidates of one user: `python benchmarks/rank.py [--events N] [--candidates N] [--json]`.

A lake of events is made first, in which users and items follow power laws, and a ranker with declared counts and attention
over the last 100 events is trained on its last week. Then users ask, one at a time. The call is reported whole, and apart:
the joins (profiles, counts and sequences of all candidates) and the forward pass. Beside it stands LightGBM on the same
counts: its joins are `lake.counts`, its forward pass is `predict`. Times are wall clock on one thread, in milliseconds.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import tokenlake
from tokenlake._lake import Lake
from tokenlake.catalog import Plan
from tokenlake.features import checkpoints
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.pipeline.ranking import train_ranker_checkpoint
from tokenlake.times import DAY_US, day_start
from tokenlake_models.ranker_training import RankerLearner

FIRST, DAYS = dt.date(2024, 1, 1), 60
YAML = """
project: rank
events: {id: event_id, features: {category: {kind: categorical, of: item}, place: categorical}, labels: [clicked]}
counts:
  user: {by: user, of: {label: clicked}, as: [mean, known]}
  item: {by: item, of: {label: clicked}, as: [mean, known]}
  pair: {by: [user, item], as: [count, recency]}
  user_category: {by: [user, category], of: {label: clicked}, as: [mean, known]}
models:
  ranker: {sequences: {recent: {of: events, length: 100}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--candidates", type=int, default=1_000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), options)
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    table = Table("p50, ms", "whole", "joins", "forward", title=f"{options.candidates:,} candidates of one user")
    for name in ("ranker", "LightGBM"):
        table.add_row(name, *(f"{facts[f'{name} {part}']:.1f}" for part in ("whole", "joins", "forward")))
    Console().print(table)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    (folder / "tokenlake.yaml").write_text(YAML)
    lake, log = tokenlake.open(folder), events(options.events)
    lake.ingest(log)
    last = FIRST + dt.timedelta(days=DAYS - 1)
    train(lake, last)
    rng = np.random.default_rng(1)
    people = log["user_id"].to_numpy()[rng.integers(0, len(log), options.questions)]
    items = np.unique(log["item_id"].to_numpy())
    asked = [rng.choice(items, options.candidates, replace=False) for _ in people]
    at = day_start(last) + rng.integers(DAY_US // 2, DAY_US, len(people))
    forward: list[float] = []
    score = RankerLearner.score

    def timed(learner: RankerLearner, *args: object, **options: object) -> object:
        began = time.perf_counter()
        out = score(learner, *args, **options)
        forward.append(time.perf_counter() - began)
        return out

    RankerLearner.score = timed
    whole = times(
        lambda i: lake.rank("ranker", int(people[i]), asked[i], at=int(at[i]), context={"place": ["p1"]}), len(people)
    )
    RankerLearner.score = score
    peer, joins = boosted(lake, last), []
    category = {int(item): f"c{item % 50}" for item in items}

    def ask(i: int) -> None:
        began = time.perf_counter()
        rows = {
            "user_id": np.full(len(asked[i]), people[i]),
            "item_id": asked[i],
            "category": [category[int(item)] for item in asked[i]],
        }
        counts = lake.counts(rows, at=int(at[i]))
        inputs = np.stack([column.to_numpy() for column in counts.columns], 1)
        joins.append(time.perf_counter() - began)
        peer.predict(inputs, num_threads=1)

    theirs = times(ask, len(people))
    sequences = np.array(forward[-len(whole) :])
    return {
        "events": len(log),
        "candidates": options.candidates,
        **apart("ranker", whole, np.array(whole) - sequences),
        **apart("LightGBM", theirs, np.array(joins[-len(theirs) :])),
    }


def apart(name: str, whole: list[float], joins: NDArray[np.float64]) -> dict[str, float]:
    median = {"whole": np.median(whole), "joins": np.median(joins), "forward": np.median(np.array(whole) - joins)}
    return {f"{name} {part}": float(seconds) * 1e3 for part, seconds in median.items()}


def times(ask: Callable[[int], object], count: int) -> list[float]:
    """Seconds of each question; the first few, which fill caches, are asked once before."""
    for i in range(3):
        ask(i)
    out = []
    for i in range(count):
        began = time.perf_counter()
        ask(i)
        out.append(time.perf_counter() - began)
    return out


def train(lake: Lake, last: dt.date) -> None:
    """Train the ranker on the week before the last day."""
    version, day = lake.config.model_version("ranker"), dt.timedelta(days=1)
    plan = Plan(
        version,
        last,
        (last - day).isoformat(),
        None,
        last - 7 * day,
        last - day,
        last,
        last,
        bootstrap=False,
        watermark=lake.watermark(),
    )
    train_ranker_checkpoint(lake, lake.config.rankers["ranker"], plan)
    lake.catalog.record_plan(plan)
    checkpoints.load_ranker(lake, version, plan.checkpoint)


def boosted(lake: Lake, last: dt.date) -> lightgbm.Booster:
    """LightGBM on the counts of the week before the last day."""
    days = [lake.shared(DayFeatureCache).read(last - dt.timedelta(days=i), lake.watermark()) for i in range(1, 8)]
    rows = pa.concat_tables([day.events for day in days])
    counts = lake.counts(rows)
    inputs = np.stack([column.to_numpy() for column in counts.columns], 1)
    data = lightgbm.Dataset(inputs, rows["clicked"].to_numpy())
    return lightgbm.train({"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1}, data, 300)


def events(count: int) -> pa.Table:
    """Two months of events in order of time."""
    rng = np.random.default_rng(0)
    item = rng.zipf(1.3, count) % 5_000
    return pa.table(
        {
            "event_id": np.arange(count),
            "user_id": rng.zipf(1.3, count) % 20_000,
            "item_id": item,
            "timestamp": pa.array(
                day_start(FIRST) + np.sort(rng.integers(0, DAYS * DAY_US, count)), pa.timestamp("us", "UTC")
            ),
            "category": [f"c{i % 50}" for i in item],
            "place": [f"p{i}" for i in rng.integers(0, 4, count)],
            "clicked": (rng.random(count) < 0.2).astype(np.int8),
        }
    )


if __name__ == "__main__":
    main()
