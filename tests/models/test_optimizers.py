from __future__ import annotations

import pytest
import torch

from tests.fixtures.tables import config, random_table
from tokenlake_models.embeddings import FusedTable
from tokenlake_models.errors import CheckpointError
from tokenlake_models.iat import InstanceCompressor
from tokenlake_models.optimizers import Optimizers, RowwiseAdagrad


def test_rowwise_adagrad_against_the_dense_one():
    table = FusedTable({"a": 4}, 3, scale=1.0, generator=torch.Generator().manual_seed(0))
    optimizer = RowwiseAdagrad(table, 0.1)
    weight, squares = table.weight.detach().clone(), torch.zeros(4)
    for ids in ([0, 1, 1], [3, 1, 0]):
        target = torch.arange(9.0).view(3, 3)
        (table.lookup({"a": torch.tensor(ids)})[:, 0] * target).sum().backward()
        optimizer.step()
        gradient = torch.zeros(4, 3).index_add(0, torch.tensor(ids), target)
        squares += gradient.square().mean(1)
        weight -= 0.1 * gradient / (squares.sqrt() + 1e-8).unsqueeze(1)
        assert torch.allclose(table.weight, weight, atol=1e-6)
        assert torch.allclose(optimizer.squares, squares)
    assert table.weight.grad is None
    optimizer.step()  # without a gradient nothing moves
    assert torch.allclose(table.weight, weight, atol=1e-6)


def test_accumulators_follow_growth():
    table = FusedTable({"a": 2, "b": 2}, 3, scale=1.0, generator=torch.Generator())
    optimizer = RowwiseAdagrad(table, 0.1)
    optimizer.squares = torch.tensor([1.0, 2.0, 3.0, 4.0])
    optimizer.grow(table.grow({"a": 3}))
    assert optimizer.squares.tolist() == [1.0, 2.0, 0.0, 3.0, 4.0]


def optimizers(step: bool = True) -> Optimizers:
    model = InstanceCompressor(config())
    both = Optimizers(model, model.inputs.table, learning_rate=1e-3, table_learning_rate=0.1)
    if step:
        model(random_table(20)).sum().backward()
        both.step()
    return both


def test_state_comes_back():
    state = optimizers().state()
    fresh = optimizers(step=False)
    assert fresh.state().keys() == {"table.squares"}
    fresh.load(state)
    assert all(torch.equal(value, state[name]) for name, value in fresh.state().items())
    assert fresh.state().keys() == state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("table.squares"), "table.squares: .* expected, got none"),
        (lambda s: s.pop("dense.head.weight.exp_avg"), r"dense.head.weight.exp_avg: \(2, 16\) expected, got none"),
        (lambda s: s.update({"dense.head.bias.exp_avg": torch.ones(3)}), r"\(2,\) expected, got \(3,\)"),
        (lambda s: s.update({"dense.tail.bias.step": torch.ones(())}), "no parameter of this model: .*tail"),
    ],
)
def test_state_of_another_model_is_refused(change, message):
    state = optimizers().state()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        optimizers(step=False).load(state)
