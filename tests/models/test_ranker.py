"""What a ranker's score may depend on, its sequence models against slow ones, and that it learns."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.ranking import LENGTH, Queries, kept, random_queries, ranker_config, sequence
from tokenlake_models.fitting import drop_ids
from tokenlake_models.ranker import RankerNetwork
from tokenlake_models.ranker_sequences import CandidateRows
from tokenlake_models.ranking import RankingRows, check_ranking_rows

NAMES = ("din", "transformer", "longer", "hstu")
SEQUENCES = {f"{source} {model}": sequence(model, source) for source in ("events", "tokens") for model in NAMES}
SEQUENCES["unlabelled"] = sequence("transformer", name="unlabelled", labels=False)
SEQUENCES["unlabelled longer"] = sequence("longer", name="unlabelled longer", labels=False)
every_sequence = pytest.mark.parametrize("name", SEQUENCES)


def trained_like(model: RankerNetwork) -> RankerNetwork:
    """Weights that say something everywhere, as if trained."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.inputs.observe(random_queries(100, seed=9).instances)
    return model


ALONE = {name: trained_like(RankerNetwork(ranker_config(of))) for name, of in SEQUENCES.items()}
ALL = tuple(SEQUENCES.values())
MIXED = trained_like(RankerNetwork(ranker_config(*ALL, interaction="mixer")))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-5)


def one_row(data: Queries, row: int) -> RankingRows:
    """A row as the only candidate of its query."""
    query = int((data.offsets <= row).sum()) - 1
    rows = data.batch(torch.tensor([query]))
    alone = rows.instances.select(torch.tensor([row - int(data.offsets[query])]))
    return dataclasses.replace(rows, instances=alone, offsets=torch.tensor([0, 1]))


@settings(max_examples=5)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 20))
def test_a_score_does_not_depend_on_what_shares_its_batch(seed, rows):
    data = random_queries(rows, seed=seed, sequences=ALL)
    logits = MIXED(data.everything())
    assert logits.shape == (rows, 2)
    for row in range(0, rows, 4):
        assert close(MIXED(one_row(data, row))[0], logits[row])
    turned = torch.arange(len(data.as_of)).flip(0)
    assert close(MIXED(data.batch(turned)).sort(0).values, logits.sort(0).values)


@every_sequence
def test_the_steps_are_read(name):
    data, model = random_queries(sequences=(SEQUENCES[name],)), ALONE[name]
    logits = model(data.everything())
    steps = data.sequences[name]
    fewer = kept(steps, torch.arange(0), torch.zeros_like(steps.offsets))
    emptied = model(dataclasses.replace(data, sequences={name: fewer}).everything())
    has = torch.repeat_interleave(steps.offsets.diff() > 0, data.offsets.diff())
    assert close(emptied[~has], logits[~has])
    assert not torch.isclose(emptied[has], logits[has], atol=1e-6).all(1).any()


@every_sequence
def test_gradients_reach_every_weight(name):
    model = ALONE[name]
    model.zero_grad()
    model(random_queries(60, sequences=(SEQUENCES[name],)).everything()).square().sum().backward()
    weights = {key: weight for key, weight in model.named_parameters() if weight.numel()}
    idle = [key for key, weight in weights.items() if weight.grad is None or not weight.grad.to_dense().any()]
    assert idle == []


@every_sequence
def test_labels_and_ages_are_side_information_only_where_wanted(name):
    of, model = SEQUENCES[name], ALONE[name]
    data = random_queries(sequences=(of,))
    steps, logits = data.sequences[name], model(data.everything())
    relabelled = dataclasses.replace(steps, labels=(steps.labels + 1) % 3)
    # Older by a factor, which keeps the order and the ties.
    as_of = torch.repeat_interleave(data.as_of, steps.offsets.diff())
    older = dataclasses.replace(steps, timestamps=as_of - 3 * (as_of - steps.timestamps))
    has = torch.repeat_interleave(steps.offsets.diff() > 0, data.offsets.diff())
    for changed in (relabelled, older):
        other = model(dataclasses.replace(data, sequences={name: changed}).everything())
        assert torch.equal(other[~has], logits[~has])
        if of.labels:
            assert not torch.isclose(other[has], logits[has], atol=1e-6).all(1).any()
        else:
            assert torch.equal(other, logits)


def test_what_matches_a_step_is_seen_under_dropped_ids_too():
    """Ids are dropped from the inputs alone: else a tenth of what matches would be taught not to."""
    of = SEQUENCES["events din"]
    rows = random_queries(sequences=(of,)).everything()
    model = ALONE[of.name]
    dropped = drop_ids(rows.instances, 1.0, torch.Generator())
    blind = dataclasses.replace(rows, instances=dropped)
    assert not close(model(rows, dropped), model(blind, dropped))


def test_unknown_values_match_nothing():
    of = SEQUENCES["events din"]
    data, model = random_queries(sequences=(of,)), ALONE[of.name]
    steps = data.sequences[of.name]
    nowhere = dataclasses.replace(steps, categorical={k: torch.zeros_like(v) for k, v in steps.categorical.items()})
    strangers = dataclasses.replace(data, sequences={of.name: nowhere}).everything()
    candidates = CandidateRows(torch.zeros(40, 1), strangers.offsets, strangers.as_of, strangers.instances.categorical)
    assert not model.profiles[of.name](nowhere, candidates).any()


def test_ids_may_be_read_by_sequences_alone():
    of = SEQUENCES["events din"]
    data = random_queries(sequences=(of,))
    model = trained_like(RankerNetwork(ranker_config(of, ids=False)))
    rows = data.everything()
    users = {**rows.instances.categorical, "user_id": torch.ones_like(rows.instances.categorical["user_id"])}
    other = dataclasses.replace(rows, instances=dataclasses.replace(rows.instances, categorical=users))
    assert torch.equal(model(other), model(rows))
    items = {**users, "item_id": 1 + (users["item_id"] + 1) % 11}
    moved = model(dataclasses.replace(rows, instances=dataclasses.replace(rows.instances, categorical=items)))
    assert not close(moved, model(rows))


def test_growth_changes_no_score():
    model = trained_like(RankerNetwork(ranker_config(*ALL)))
    rows = random_queries(sequences=ALL).everything()
    before = model(rows)
    model.grow({"item_id": 40, "section": 9})
    assert torch.equal(model(rows), before)
    assert (model.config.categorical["item_id"], model.config.step_rows["section"]) == (40, 9)


def test_nothing_in_nothing_out():
    data = random_queries(sequences=ALL)
    assert MIXED(data.batch(torch.arange(0))).shape == (0, 2)


def test_longest_sequences_and_their_limits():
    data = random_queries(200, sequences=ALL)
    assert max(int(steps.offsets.diff().max()) for steps in data.sequences.values()) == LENGTH
    check_ranking_rows(MIXED.config, data.everything())
