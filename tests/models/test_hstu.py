"""HSTU layers: against the formula, and what a candidate may depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import layer_norm, silu

from tokenlake_models.errors import ModelError
from tokenlake_models.hstu import HstuConfig, HstuLayer
from tokenlake_models.jagged import offsets_of

presets = pytest.mark.parametrize("preset", ["research", "stu"])


def config(**given) -> HstuConfig:
    return HstuConfig(**({"dim": 16, "history": 8} | given))


def trained_like(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@presets
def test_a_layer_is_the_formula(preset):
    """Row by row, pair by pair, from the paper."""
    layer = trained_like(HstuLayer(config(preset=preset)))
    lengths, targets = [5, 3], [2, 3]
    offsets, n = offsets_of(torch.tensor(lengths)), sum(lengths)
    z = torch.randn(n, 16, generator=torch.Generator().manual_seed(1))
    seconds = torch.tensor([0, 5, 5, 90, 90, 7, 7, 7])
    out = layer(z, offsets, torch.tensor(targets), seconds)
    x = layer_norm(z, (16,), layer.norm.weight, layer.norm.bias) @ layer.project.weight.T + layer.project.bias
    u, v, q, k = x[:, :16], x[:, 16:32], x[:, 32:48], x[:, 48:]
    research = preset == "research"
    u, v, q, k = (silu(part) if research or i == 0 else part for i, part in enumerate((u, v, q, k)))
    a = torch.zeros(n, 16)
    for row, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        for i in range(begin, end):
            for j in range(begin, i + 1):
                if i != j and j >= end - targets[row]:
                    continue
                for h in range(2):
                    part = slice(8 * h, 8 * h + 8)
                    score = q[i, part] @ k[j, part] * (1 if research else 8**-0.5)
                    if research:
                        gap = max(1, abs(int(seconds[i] - seconds[j])))
                        mantissa, exponent = math.frexp(gap)
                        half = 2 * (exponent - 1) + (mantissa >= 0.75)
                        score = score + layer.position_bias[h, min(i - j, 8)] + layer.time_bias[h, half]
                    a[i, part] += silu(score) / 8 * v[j, part]
    y = u * layer_norm(a, (16,), layer.gate_weight, layer.gate_bias, 1e-6)
    y = y if research else torch.cat([u, a, y], 1)
    torch.testing.assert_close(out, z + y @ layer.out_weight.T, atol=1e-4, rtol=1e-4)


@presets
def test_a_candidate_depends_on_the_past_and_itself_alone(preset):
    layer = trained_like(HstuLayer(config(preset=preset)))
    offsets, targets, seconds = torch.tensor([0, 5]), torch.tensor([2]), torch.arange(5)
    z = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    out = layer(z, offsets, targets, seconds)
    for changed, kept in ((4, 3), (3, 4)):
        other = z.clone()
        other[changed] = 3.0
        torch.testing.assert_close(layer(other, offsets, targets, seconds)[kept], out[kept], atol=1e-5, rtol=1e-5)
    past = z.clone()
    past[0] = 3.0
    assert not torch.isclose(layer(past, offsets, targets, seconds)[3:], out[3:]).all(1).any()


def test_refusals():
    for wrong, says in (({"heads": 3}, "no multiple of heads"), ({"history": 0}, "at least 1")):
        with pytest.raises(ModelError, match=says):
            config(**wrong)
