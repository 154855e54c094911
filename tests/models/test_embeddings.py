from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlake_models.embeddings import FusedTable, Standardize
from tokenlake_models.errors import InstancesError


def table(rows=None, width=3):
    fused = FusedTable(rows or {"a": 2, "b": 4}, width, scale=1.0, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(fused.weight, generator=torch.Generator().manual_seed(1))
    return fused


def blocks(fused):
    return dict(zip(fused.rows, torch.split(fused.weight.detach(), list(fused.rows.values())), strict=True))


def test_starts_as_one_row_a_feature():
    fused = FusedTable({"a": 2, "b": 3}, 4, scale=0.1, generator=torch.Generator())
    a, b = blocks(fused).values()
    assert torch.equal(a, a[:1].expand(2, -1))
    assert torch.equal(b, b[:1].expand(3, -1))
    assert not torch.equal(a[0], b[0])


@given(st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 3), max_size=4)), min_size=1, max_size=5))
def test_lookup_and_means(rows):
    fused = table()
    a, b = blocks(fused).values()
    single = fused.lookup({"a": torch.tensor([x for x, _ in rows])})
    bags = [bag for _, bag in rows]
    values = torch.tensor([v for bag in bags for v in bag], dtype=torch.int64)
    offsets = torch.tensor([sum(map(len, bags[:i])) for i in range(len(bags) + 1)])
    means = fused.means({"b": (values, offsets), "a": (values.clamp(max=1), offsets)})
    for i, (x, bag) in enumerate(rows):
        assert torch.equal(single[i, 0], a[x])
        assert torch.allclose(means[i, 0], b[bag].mean(0) if bag else torch.zeros(3), atol=1e-6)
        assert torch.allclose(means[i, 1], a[[min(v, 1) for v in bag]].mean(0) if bag else torch.zeros(3), atol=1e-6)


def test_growth_keeps_rows_and_copies_the_unknown_one():
    fused = table()
    before = blocks(fused)
    origin = fused.grow({"a": 4})
    after = blocks(fused)
    assert torch.equal(after["a"], torch.cat([before["a"], before["a"][:1].expand(2, -1)]))
    assert torch.equal(after["b"], before["b"])
    assert origin.tolist() == [0, 1, -1, -1, 2, 3, 4, 5]
    assert fused.grow({}).tolist() == list(range(8))


def test_growth_refuses():
    with pytest.raises(InstancesError, match="can only grow, got 1"):
        table().grow({"a": 1})
    with pytest.raises(InstancesError, match="no embedded feature 'c'"):
        table().grow({"c": 1})


@given(
    st.lists(st.lists(st.sampled_from([np.nan, 0.0, 1.0, -3.0, 1e6]), min_size=2, max_size=2), max_size=12), st.data()
)
def test_statistics_do_not_depend_on_the_parts(rows, data):
    x = np.array(rows, np.float32).reshape(-1, 2)
    cut = data.draw(st.integers(0, len(x)))
    scale = Standardize(2)
    for part in (x[:cut], x[cut:]):
        scale.update(torch.from_numpy(part))
    out = scale(torch.from_numpy(x)).numpy()
    both = np.concatenate([x, np.sign(x) * np.log1p(np.abs(x))], axis=1, dtype=np.float64)
    for j in range(4):
        there = both[~np.isnan(both[:, j]), j]
        deviation = there.std() if len(there) else 0.0
        expected = (both[:, j] - (there.mean() if len(there) else 0)) / (deviation if deviation > 1e-9 else 1)
        np.testing.assert_allclose(out[:, j], np.nan_to_num(expected), atol=1e-3)
    assert (out[:, 4:] == np.isnan(x)).all()


def test_extremes_are_clipped():
    scale = Standardize(1)
    scale.update(torch.tensor([[0.0], [1.0]]))
    assert scale(torch.tensor([[1e30]]))[0, :2].tolist() == [8.0, 8.0]
