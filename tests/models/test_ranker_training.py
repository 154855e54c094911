"""Training of rankers: what is learned, the same bits after a stop, and refusals."""

from __future__ import annotations

import pytest
import torch

from tests.fixtures.ranking import Queries, random_queries, ranker_config, sequence
from tokenlake_models.errors import ModelError
from tokenlake_models.ranker_training import RankerLearner

SEQUENCES = (sequence("din"), sequence("longer", "tokens"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learner(**fields: object) -> RankerLearner:
    return RankerLearner.create(ranker_config(*SEQUENCES, **fields), learning_rate=0.01)


def data(rows: int = 60, seed: int = 0) -> Queries:
    return random_queries(rows, seed=seed, sequences=SEQUENCES)


@pytest.mark.parametrize("fields", [{}, {"averaged": False, "interaction": "mixer"}, {"grid": 0}], ids=str)
def test_training_goes_on_to_the_same_bits(fields, tmp_path):
    grow = {"item_id": 20, "section": 6, "tags": 9}
    whole = learner(**fields)
    whole.fit(data(), batch=8, seed=1)
    whole.save(tmp_path / "halfway")
    resumed = RankerLearner.load(tmp_path / "halfway")
    assert torch.equal(resumed.score(data()), whole.score(data()))
    for one in (whole, resumed):
        one.grow(grow)
        one.fit(data(seed=2), batch=8, passes=2, seed=2)
    whole.save(tmp_path / "whole")
    resumed.save(tmp_path / "resumed")
    for name in ("weights.safetensors", "optimizer.safetensors", "config.json"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert whole.config.rows["section"] == 6
    frozen = RankerLearner.load(tmp_path / "whole", frozen=True)
    assert torch.equal(frozen.score(data()), whole.score(data()))
    with pytest.raises(ModelError, match="loaded frozen"):
        frozen.fit(data())
