"""What may and what may not change a token or a logit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.tables import BAGS, ROWS, config, random_table
from tokenlake_models.baselines import LogisticRegression
from tokenlake_models.errors import InstancesError, ModelError
from tokenlake_models.iat import InstanceCompressor
from tokenlake_models.instances import History, Instances
from tokenlake_models.sequences import Sequences

SEEDS = st.integers(0, 1000)


def trained_like(model):
    """Weights that say something everywhere, as if trained."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.inputs.observe(random_table(200, seed=9))
    return model


USER_ORDER = trained_like(InstanceCompressor(config()))
MODELS = [
    USER_ORDER,
    trained_like(InstanceCompressor(config(scheme="temporal-order"))),
    trained_like(LogisticRegression(config())),
]
every_model = pytest.mark.parametrize("model", MODELS, ids=["user-order", "temporal-order", "logistic"])


def past(users: int, seed: int = 3) -> History:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3 * users, 8, generator=generator)
    times = torch.arange(3).repeat(users) - 5
    return History(tokens, times, torch.arange(users + 1) * 3)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-5, rtol=1e-4)


@every_model
@settings(max_examples=20)
@given(seed=SEEDS)
def test_order_of_rows_and_ties_changes_nothing(model, seed):
    table = random_table(40, seed=seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    assert close(model(table.select(order), past(4)), model(table, past(4))[order])


@every_model
@settings(max_examples=20)
@given(seed=SEEDS)
def test_the_future_changes_nothing(model, seed):
    table = random_table(40, seed=seed)
    until = table.timestamps[25]
    earlier = (table.timestamps <= until).nonzero()[:, 0]
    assert close(model(table.select(earlier), past(4)), model(table, past(4))[earlier])


@every_model
@settings(max_examples=20)
@given(seed=SEEDS)
def test_other_users_change_nothing(model, seed):
    table = random_table(40, seed=seed)
    mine = (table.users == 1).nonzero()[:, 0]
    assert close(model(table.select(mine), past(4)), model(table, past(4))[mine])


@every_model
def test_labels_change_nothing(model):
    table = random_table(30)
    other = dataclasses.replace(table, labels=1 - table.labels, known=~table.known)
    assert torch.equal(model(other), model(table))


def test_labels_and_neighbours_change_no_token():
    table = random_table(30)
    other = dataclasses.replace(table, labels=1 - table.labels, known=~table.known)
    tokens = USER_ORDER.compress(table)
    assert torch.equal(USER_ORDER.compress(other), tokens)
    for i in range(30):
        assert close(USER_ORDER.compress(table.select(torch.tensor([i])))[0], tokens[i])


def test_the_past_is_read():
    table = random_table(30)
    logits = USER_ORDER(table)
    later = table.timestamps > table.timestamps.min()
    assert not close(USER_ORDER(table, past(4))[later], logits[later])
    moved = past(4)
    doubled = dataclasses.replace(moved, tokens=moved.tokens * 2)
    assert not close(USER_ORDER(table, doubled), USER_ORDER(table, moved))


def test_a_token_of_the_same_instant_or_later_is_not_read():
    table = random_table(1)
    now = int(table.timestamps[0])
    ahead = dataclasses.replace(past(4), timestamps=torch.arange(3).repeat(4) + now)
    assert close(USER_ORDER(table, ahead), USER_ORDER(table))


def test_rows_out_of_sight_read_and_are_not_read():
    table = random_table(40, seed=2)
    hidden = torch.arange(40) % 3 == 0
    masked = dataclasses.replace(table, seen=~hidden)
    logits = USER_ORDER(masked)
    rest = (~hidden).nonzero()[:, 0]
    roomy = trained_like(InstanceCompressor(config(history=50)))
    assert close(roomy(masked)[rest], roomy(table.select(rest)))
    assert not close(logits[hidden], USER_ORDER(table.select(hidden.nonzero()[:, 0])))


def test_one_at_a_time_with_its_past_as_the_whole_at_once():
    """Serving: the user's stored tokens and the one new event."""
    model = trained_like(InstanceCompressor(config(history=30, sit_layers=1)))
    table = random_table(24, users=2)
    tokens, whole = model.compress(table), model(table)
    for i in range(24):
        before = ((table.users == table.users[i]) & (table.timestamps < table.timestamps[i])).nonzero()[:, 0]
        one = dataclasses.replace(table.select(torch.tensor([i])), users=torch.zeros(1, dtype=torch.int64))
        history = History(tokens[before].detach(), table.timestamps[before], torch.tensor([0, len(before)]))
        assert close(model(one, history)[0], whole[i])


def test_a_model_without_sit_has_no_contextual_tokens():
    model = InstanceCompressor(config(scheme="temporal-order"))
    table = random_table(4)
    window = Sequences(table, History.empty(8, 8), 3).window(torch.arange(1))
    with pytest.raises(ModelError, match="scheme 'temporal-order' has no SIT"):
        model.contextual(model.compress(table), window)


def test_no_gradient_into_what_came_before():
    """Four rows of one user at a time each: with `history=1`, segments of two, the last reading one row before it."""
    model = trained_like(InstanceCompressor(config(history=1)))
    items = {"user_id": torch.ones(4, dtype=torch.int64), "store": torch.zeros(4, dtype=torch.int64)}
    table = dataclasses.replace(
        random_table(4, users=1),
        categorical={**items, "item_id": torch.arange(1, 5)},
        timestamps=torch.arange(4),
    )
    history = past(1)
    history.tokens.requires_grad_()
    model(table, history)[-1].sum().backward()
    assert history.tokens.grad is None
    weight = model.inputs.table.weight.grad
    assert weight is not None
    touched = set(weight.coalesce().indices()[0][weight.coalesce().values().abs().sum(1) > 0].tolist())
    start = model.inputs.table.starts["item_id"]
    assert {row - start for row in touched} & {1, 2, 3, 4} == {3, 4}


@every_model
def test_growth_changes_no_logit(model):
    table = random_table(20)
    model = trained_like(type(model)(model.config))
    before = model(table)
    model.grow({"item_id": 40, "tags": 9})
    assert torch.equal(model(table), before)
    assert model.config.rows == {**ROWS, **BAGS, "item_id": 40, "tags": 9}
    new = dataclasses.replace(table, categorical={**table.categorical, "item_id": torch.full((20,), 39)})
    unknown = dataclasses.replace(
        table, categorical={**table.categorical, "item_id": torch.zeros(20, dtype=torch.int64)}
    )
    assert torch.equal(model(new), model(unknown))


@every_model
def test_nothing_in_nothing_out(model):
    table = random_table(0)
    assert model(table).shape == (0, 2)
    assert Instances.concat([table, table]).select(torch.arange(0)).timestamps.shape == (0,)


def test_counts_are_ignored_when_they_are_off():
    model = InstanceCompressor(config(counts=()))
    table = random_table(5)
    assert torch.equal(model(dataclasses.replace(table, counts=table.counts + 1)), model(table))


def test_the_seed_makes_the_weights():
    weights = [InstanceCompressor(config(seed=s)).state_dict() for s in (1, 1, 2)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(weights[0]["head.weight"], weights[2]["head.weight"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ()}, "at least one label"),
        ({"categorical": {"user_id": 3}}, r"\['item_id'\] missing"),
        ({"multi": {"store": 3}}, r"\['store'\] are both"),
        ({"sit_heads": 3}, "no multiple of sit_heads 3"),
        ({"multi": {"tags": 0}}, "'tags' has 0 rows"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ModelError, match=message):
        config(**fields)


def test_growth_refuses():
    with pytest.raises(InstancesError, match="can only grow"):
        InstanceCompressor(config()).grow({"item_id": 3})
