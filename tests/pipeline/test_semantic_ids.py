"""Content vectors of items through the daily jobs: codes that stay, and that speak for items never met."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.fixtures.embedded import SMALL
from tests.fixtures.lakes import day, make_events, make_lake
from tokenlake._lake import Lake
from tokenlake.datasets.simulate import simulate
from tokenlake.features import checkpoints
from tokenlake.features.keys import factorize
from tokenlake.features.negatives import item_table
from tokenlake.features.user_inputs import UserFeaturizer
from tokenlake.pipeline.backfill import backfill

#: Of an ad only its image is told, so that codes have to carry what sets ads apart.
ADS = """
project: ads
events:
  user: user_id
  item: ad_id
  timestamp: shown_at
  id: impression_id
  features:
    image: {kind: vector, of: item}
  labels: {clicked: {}}
embeddings: {sources: {clicked: {label: clicked}}, dim: 16, width: 32, history: 32, passes: 8, id_dropout: 0.3, codes: 16}
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("log")
    simulate(folder, users=150, items=200, days=4, events=30_000, seed=3)
    table = pa.concat_tables(pq.read_table(file) for file in sorted((folder / "landing").glob("*.parquet")))
    return table.select(["user_id", "ad_id", "shown_at", "impression_id", "image", "clicked"])


def chance(folder: Path, log: pa.Table) -> float:
    """How often the ad clicked scores above another one, among ads that training never met."""
    cold = pc.equal(pc.bit_wise_and(log["ad_id"], 3), 1)
    lake = make_lake(folder, ADS)
    lake.ingest(log.filter(pc.invert(cold)))
    backfill(lake, version="alure", chunk_days=4)
    version = lake.config.embedding_version
    last = lake.user_embeddings.days(version)[-1]
    users = lake.user_embeddings.read(day=last, version=version)
    checkpoint = checkpoints.load_users(lake, version, last.isoformat())

    unseen = log.filter(cold)
    other = make_lake(folder / "unseen", ADS)
    other.ingest(unseen)
    table = item_table(other.config, other.events.read())
    items = UserFeaturizer(other.config).items(table, checkpoint.vocabulary, checkpoint.quantizers)
    assert not items.categorical["item_id"].any()
    vectors = checkpoint.learner.items(items).numpy()
    scores = np.array(users["embedding"].to_pylist()) @ vectors.T

    clicks = unseen.filter(pc.equal(unseen["clicked"], 1))
    row = pc.index_in(clicks["user_id"], value_set=users["user_id"].combine_chunks())
    column = pc.index_in(clicks["ad_id"], value_set=table["item_id"].combine_chunks())
    known = row.is_valid().to_numpy()
    rows, columns = row.fill_null(0).to_numpy()[known], column.to_numpy()[known]
    assert len(rows) > 200
    mine = scores[rows, columns][:, None]
    return float(((scores[rows] < mine) + 0.5 * (scores[rows] == mine)).mean())


@pytest.mark.slow
def test_codes_help_an_ad_that_was_never_met(tmp_path: Path, log: pa.Table) -> None:
    codes, ads = factorize(log["ad_id"].combine_chunks())
    first = np.unique(codes, return_index=True)[1]
    images = log["image"].take(pa.array(first[np.random.default_rng(0).permutation(len(ads))][codes]))
    shuffled = log.set_column(log.column_names.index("image"), "image", images)
    true, noise = chance(tmp_path / "true", log), chance(tmp_path / "noise", shuffled)
    assert true > noise + 0.04
    assert true > 0.54


def test_codebooks_are_made_once_and_of_earlier_days(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "whole", SMALL)
    lake.ingest(make_events(days=10))
    backfill(lake, version="alure")
    made = _codebooks(lake)
    assert len(made) == 3
    assert all(books == made[0] for books in made)  # a code keeps its meaning from checkpoint to checkpoint
    past = make_lake(tmp_path / "past", SMALL)
    past.ingest(
        make_events(days=10).filter(
            pc.less(make_events(days=10)["timestamp"], pa.scalar(_stamp(3), pa.timestamp("us", "UTC")))
        )
    )
    backfill(past, version="alure")
    assert _codebooks(past)[0] == made[0]


def test_a_lake_whose_vectors_come_late(tmp_path: Path) -> None:
    events = make_events(days=6)
    late = pc.less(events["timestamp"], pa.scalar(_stamp(3), pa.timestamp("us", "UTC")))
    nothing = pa.nulls(len(events), events["picture"].type)
    pictures = pc.if_else(late, nothing, events["picture"].combine_chunks())
    lake = make_lake(tmp_path, re.sub(r"chunk_days: \d", "chunk_days: 2", SMALL))
    lake.ingest(events.set_column(events.column_names.index("picture"), "picture", pictures))
    backfill(lake, version="alure")
    made = _codebooks(lake)
    assert made[0] == {}
    assert made[-1].keys() == {"picture"}


def _codebooks(lake: Lake) -> list[dict[str, list[object]]]:
    version = lake.config.embedding_version
    return [
        {
            name: q.codebooks.tolist()
            for name, q in checkpoints.load_users(lake, version, c.checkpoint).quantizers.items()
        }
        for c in lake.catalog.checkpoints(version)
    ]


def _stamp(i: int) -> int:
    from tokenlake.times import day_start

    return day_start(day(i))
