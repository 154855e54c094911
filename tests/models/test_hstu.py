"""The HSTU ranker: its layer against the formula, what a candidate may depend on, and that it learns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import layer_norm, silu

from tokenlake_models.errors import DivergedError, ModelError
from tokenlake_models.hstu import HstuConfig, HstuLayer, HstuRanker, RankingBatch
from tokenlake_models.hstu_training import HstuLearner
from tokenlake_models.jagged import offsets_of

SECOND = 1_000_000
presets = pytest.mark.parametrize("preset", ["research", "stu"])


def config(**given) -> HstuConfig:
    return HstuConfig(token_dim=6, labels=("clicked", "bought"), **({"dim": 16, "history": 8} | given))


def trained_like(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def questions(lengths=(3, 0, 8), candidates=(2, 1, 3), seed: int = 0) -> RankingBatch:
    generator = torch.Generator().manual_seed(seed)
    total, asked = sum(lengths), sum(candidates)
    gaps = torch.randint(0, 3600, (total,), generator=generator) * SECOND
    timestamps = torch.cat([torch.zeros(0).long(), *(part.cumsum(0) for part in torch.split(gaps, list(lengths)))])
    return RankingBatch(
        tokens=torch.randn(total, 6, generator=generator),
        timestamps=timestamps,
        labels=torch.randint(0, 3, (total, 2), generator=generator),
        offsets=offsets_of(torch.tensor(lengths)),
        as_of=torch.full((len(lengths),), 10**12),
        candidates=torch.randn(asked, 6, generator=generator),
        candidate_offsets=offsets_of(torch.tensor(candidates)),
    )


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
    model = trained_like(HstuRanker(config(preset=preset)))
    given = questions()
    logits = model(given)
    assert logits.shape == (6, 2)
    for m in range(6):
        other = given.candidates.clone()
        other[torch.arange(6) != m] = 3.0
        torch.testing.assert_close(
            model(dataclasses.replace(given, candidates=other))[m], logits[m], atol=1e-5, rtol=1e-5
        )
    changed = model(dataclasses.replace(given, labels=(given.labels + 1) % 3))
    assert not torch.isclose(changed[0], logits[0]).any()
    torch.testing.assert_close(changed[2], logits[2], atol=1e-5, rtol=1e-5)  # a user without a past


@presets
def test_one_question_alone_is_answered_as_among_others(preset):
    model = trained_like(HstuRanker(config(preset=preset)))
    given = questions(lengths=(3, 4), candidates=(2, 1))
    alone = RankingBatch(
        given.tokens[3:], given.timestamps[3:], given.labels[3:], torch.tensor([0, 4]), given.as_of[1:],
        given.candidates[2:], torch.tensor([0, 1]),
    )  # fmt: skip
    torch.testing.assert_close(model(alone), model(given)[2:], atol=1e-5, rtol=1e-5)


@presets
def test_it_learns_from_the_labels_of_the_past(preset):
    """A user clicks what he clicked before: tokens alone, without their labels, say nothing of it."""
    learner = HstuLearner(config(preset=preset, history=4, dim=16), learning_rate=1e-2)
    losses = []
    for seed in range(120):
        given = questions(lengths=(3,) * 32, candidates=(1,) * 32, seed=seed)
        likes = torch.rand(32, 1, generator=torch.Generator().manual_seed(seed)) < 0.5
        labels = torch.where(likes, 2, 1).expand(32, 2).repeat_interleave(3, 0)
        targets = likes.float().expand(32, 2)
        p = learner.step(dataclasses.replace(given, labels=labels), targets, torch.ones(32, 2, dtype=torch.bool))
        losses.append(float(torch.nn.functional.binary_cross_entropy(p, targets)))
    assert losses[0] > 0.5
    assert sum(losses[-20:]) / 20 < 0.1


def test_a_step_predicts_before_it_learns_and_learns_only_what_it_may():
    learner = HstuLearner(config())
    given, targets = questions(), torch.ones(6, 2)
    before = learner.predict(given)
    nothing = learner.step(given, targets, torch.zeros(6, 2, dtype=torch.bool))
    assert torch.equal(nothing, before)
    assert torch.equal(learner.predict(given), before)
    learn = torch.zeros(6, 2, dtype=torch.bool)
    learn[0, 0] = True
    assert torch.allclose(learner.step(given, targets, learn), before)
    twin = HstuLearner(config())
    twin.step(given, torch.where(learn, targets, 0.0), learn)  # what may not be learned has no effect
    assert torch.equal(twin.predict(given), learner.predict(given))
    assert not torch.equal(learner.predict(given), before)


def test_refusals():
    for wrong, says in (({"heads": 3}, "no multiple of heads"), ({"layers": 0}, "at least 1")):
        with pytest.raises(ModelError, match=says):
            config(**wrong)
    with pytest.raises(ModelError, match="labels is empty"):
        HstuConfig(token_dim=6, labels=())
    given = questions()
    given.candidates[0] = torch.nan
    with pytest.raises(DivergedError, match="step 0 is nan"):
        HstuLearner(config()).step(given, torch.ones(6, 2), torch.ones(6, 2, dtype=torch.bool))
