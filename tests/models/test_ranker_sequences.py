"""Each sequence model of a ranker, its match profile and its interactions, against plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import layer_norm, silu, softplus

from tests.fixtures.ranking import Queries, random_queries, ranker_config, sequence
from tokenlake_models.embeddings import NumberGrid
from tokenlake_models.interactions import TokenMixer
from tokenlake_models.ranker import RankerNetwork
from tokenlake_models.ranker_config import SequenceConfig
from tokenlake_models.ranker_sequences import CandidateRows, MatchProfile, SequenceReader
from tokenlake_models.ranking import RankingRows
from tokenlake_models.sit import SitLayer
from tokenlake_models.target_attention import TargetAttention, _BlockAttention, matching_pairs

MINUTE = 60_000_000


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that say something everywhere."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def half_octave(number: int) -> int:
    """2 e for 2^e <= number + 1 < 1.5 2^e, 2 e + 1 up to 2^(e + 1)."""
    mantissa, exponent = math.frexp(number + 1)
    return min(2 * (exponent - 1) + (mantissa >= 0.75), 63)


def softmax_over(scores: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
    weights = torch.stack(scores).softmax(0)
    return sum((weight * value for weight, value in zip(weights, values, strict=True)), torch.zeros_like(values[0]))


# --- the oracle: one query, one candidate, one step at a time


def slow_steps(network: RankerNetwork, of: SequenceConfig, rows: RankingRows, query: int) -> list[torch.Tensor]:
    batch, steps = rows.sequences[of.name], network.sequences[of.name].steps
    begin, end = batch.offsets[query : query + 2].tolist()
    table, found = network.inputs.table, []
    for i in range(begin, end):
        if of.source == "tokens":
            x = steps.adapt(batch.tokens[i])
        else:
            x = steps.adapt(
                torch.cat([table.weight[table.starts[f] + batch.categorical[f][i]] for f in of.categorical])
            )
        x = x + steps.places.weight[half_octave(end - 1 - i)]
        if of.labels:
            for label, state in enumerate(batch.labels[i].tolist()):
                x = x + steps.labels.weight[3 * label + state]
            times = batch.timestamps.tolist()
            gap = (times[i] - times[i - 1]) // 1_000_000 if i > begin else 0
            age = (int(rows.as_of[query]) - times[i]) // 1_000_000
            x = x + steps.ages.weight[half_octave(age)] + steps.gaps.weight[half_octave(gap)]
        found.append(steps.norm(x))
    return found


def slow_times(of: SequenceConfig, rows: RankingRows, query: int) -> list[int]:
    """Seconds of the steps; without side information the number of earlier distinct times."""
    batch = rows.sequences[of.name]
    begin, end = batch.offsets[query : query + 2].tolist()
    times = batch.timestamps[begin:end].tolist()
    ranks = sorted(set(times))
    return [(t - times[0]) // 1_000_000 for t in times] if of.labels else [ranks.index(t) for t in times]


def slow_layer(
    layer: SitLayer, x: list[torch.Tensor], seconds: list[int], sees: list[list[int]], asks: list[int]
) -> list[torch.Tensor]:
    out, heads = [], layer.heads
    keys = [layer.key_value(layer.norm(one)).view(2, heads, -1) for one in x]
    for i in asks:
        q = layer.query(layer.norm(x[i])).view(heads, -1)
        read = []
        for h in range(heads):
            scores, values = [], []
            for j in [*sees[i], i]:
                bucket = 0 if j == i else 1 + half_octave(abs(seconds[i] - seconds[j])) // 2
                scores.append(q[h] @ keys[j][0, h] / q.shape[1] ** 0.5 + layer.bias[h, bucket])
                values.append(keys[j][1, h])
            read.append(softmax_over(scores, values))
        y = x[i] + layer.out(torch.cat(read))
        out.append(y + layer.feed(y))
    return out


def slow_sit(
    sit: torch.nn.Module, x: list[torch.Tensor], seconds: list[int], sees: list[list[int]]
) -> list[torch.Tensor]:
    for layer in sit.layers:
        x = slow_layer(layer, x, seconds, sees, list(range(len(x))))
    return [sit.norm(one) for one in x]


def slow_attention(
    attention: TargetAttention,
    query: torch.Tensor,
    codes: list[int],
    x: list[torch.Tensor],
    step_codes: list[list[int]],
) -> torch.Tensor:
    dim = attention.null_key.shape[1]
    q = attention.query(query).view(-1, dim) / dim**0.5
    read = []
    for h in range(len(q)):
        scores, values = [q[h] @ attention.null_key[h]], [attention.null_value[h]]
        for one, theirs in zip(x, step_codes, strict=True):
            k, v = attention.key_value(one).view(2, -1, dim)[:, h]
            match = sum(
                (attention.match[h, f] for f, (a, b) in enumerate(zip(codes, theirs, strict=True)) if a == b != 0),
                torch.zeros(()),
            )
            scores.append(q[h] @ k + match)
            values.append(v)
        read.append(softmax_over(scores, values))
    return torch.cat(read)


def slow_hstu(reader: SequenceReader, query: torch.Tensor, x: list[torch.Tensor]) -> torch.Tensor:
    z = torch.stack([*x, reader.candidate(query)])
    for layer in reader.layers:
        u, v, q, k = layer.project(layer.norm(z)).chunk(4, 1)
        a = torch.zeros_like(z)
        dim = z.shape[1] // layer.heads
        for i in range(len(z)):
            for j, h in itertools.product(range(i + 1), range(layer.heads)):
                part = slice(dim * h, dim * h + dim)
                a[i, part] += silu(q[i, part] @ k[j, part] / dim**0.5) / layer.history * v[j, part]
        gate = silu(u) * layer_norm(a, (z.shape[1],), layer.gate_weight, layer.gate_bias, 1e-6)
        z = z + torch.cat([silu(u), a, gate], 1) @ layer.out_weight.T
    return reader.norm(z[-1])


def slow(network: RankerNetwork, of: SequenceConfig, rows: RankingRows, queries: torch.Tensor) -> torch.Tensor:
    reader, batch, out = network.sequences[of.name], rows.sequences[of.name], []
    for query, (a, b) in enumerate(itertools.pairwise(rows.offsets.tolist())):
        x, seconds = slow_steps(network, of, rows, query), slow_times(of, rows, query)
        begin = int(batch.offsets[query])
        codes = [[int(batch.categorical[f][begin + i]) for f in reader.compared] for i in range(len(x))]
        sees = [[j for j in range(len(x)) if seconds_before(rows, of, query, j, i)] for i in range(len(x))]
        if of.model == "transformer":
            x = slow_sit(reader.encoder, x, seconds, sees)
        if of.model == "longer":
            last = list(range(max(0, len(x) - reader.last_steps), len(x)))
            ends = (seconds[-1] if seconds else 0) + 1
            everything = [*x, *reader.globals]
            seconds = [*seconds, *[ends] * len(reader.globals)]
            sees += [list(range(len(x)))] * len(reader.globals)
            asks = [*last, *range(len(x), len(everything))]
            kept = slow_layer(reader.cross, everything, seconds, sees, asks)
            among = [[asks.index(j) for j in sees[i] if j in last] for i in asks]
            codes = [codes[i] if i in last else [0] * len(reader.compared) for i in asks]
            x = slow_sit(reader.encoder, kept, [seconds[i] for i in asks], among)
        for row in range(a, b):
            own = [int(rows.instances.categorical[f][row]) for f in reader.compared]
            if of.model == "hstu":
                out.append(slow_hstu(reader, queries[row], x))
            else:
                out.append(slow_attention(reader.attention, queries[row], own, x, codes))
    return torch.stack(out)


def seconds_before(rows: RankingRows, of: SequenceConfig, query: int, j: int, i: int) -> bool:
    times = rows.sequences[of.name].timestamps[int(rows.sequences[of.name].offsets[query]) :]
    return bool(times[j] < times[i])


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("source", ["events", "tokens"])
@pytest.mark.parametrize("model", ["din", "transformer", "longer", "hstu"])
def test_a_sequence_model_is_what_loops_say(model, source, labels):
    of = sequence(model, source, labels=labels)
    network = shaken(RankerNetwork(ranker_config(of)))
    rows = random_queries(14, seed=3, sequences=(of,)).everything()
    queries = torch.randn(14, 2 * of.width, generator=torch.Generator().manual_seed(1))
    candidates = CandidateRows(queries, rows.offsets, rows.as_of, rows.instances.categorical)
    with torch.no_grad():
        fast = network.sequences[of.name](rows.sequences[of.name], candidates, network.inputs.table)
        torch.testing.assert_close(fast, slow(network, of, rows, queries), atol=2e-5, rtol=1e-4)


# --- the parts


def test_the_gradients_of_the_attention():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    codes = torch.randint(1, 3, (2, 5), generator=generator), torch.randint(1, 3, (2, 7), generator=generator)
    offsets = torch.tensor([0, 2, 4, 5, 5]), torch.tensor([0, 3, 7, 7, 7])
    inputs = draw(2, 5, 3), draw(2, 7, 3), draw(2, 7, 3), draw(2, 5), draw(2, 2)
    assert torch.autograd.gradcheck(lambda *x: _BlockAttention.apply(*x, *codes, *offsets), inputs)


def test_a_large_query_in_parts(monkeypatch):
    attention = shaken(TargetAttention(6, 8, 2, 1))
    generator = torch.Generator().manual_seed(0)
    given = (
        torch.randn(9, 6, generator=generator), torch.randint(0, 3, (1, 9), generator=generator),
        torch.tensor([0, 7, 9]), torch.randn(6, 8, generator=generator),
        torch.randint(0, 3, (1, 6), generator=generator), torch.tensor([0, 4, 6]),
    )  # fmt: skip
    whole = attention(*given)
    whole.square().sum().backward()
    grads = [weight.grad.clone() for weight in attention.parameters()]
    monkeypatch.setattr("tokenlake_models.target_attention._PAIRS", 9)
    attention.zero_grad()
    parts = attention(*given)
    parts.square().sum().backward()
    torch.testing.assert_close(parts, whole)
    for weight, grad in zip(attention.parameters(), grads, strict=True):
        torch.testing.assert_close(weight.grad, grad, atol=1e-5, rtol=1e-5)


@given(st.integers(0, 1000))
def test_matching_pairs_are_what_loops_say(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, n: int) -> torch.Tensor:
        return torch.randint(0, high, (n,), generator=generator)

    n, total = int(draw(8, 1)), int(draw(12, 1))
    codes, queries = draw(4, n), draw(3, n)
    step_codes, step_queries = draw(4, total), draw(3, total).sort().values
    rows, steps = matching_pairs(codes, queries, step_codes, step_queries)
    expected = {
        (i, j)
        for i, j in itertools.product(range(n), range(total))
        if codes[i] == step_codes[j] != 0 and queries[i] == step_queries[j]
    }
    assert len(rows) == len(expected)
    assert set(zip(rows.tolist(), steps.tolist(), strict=True)) == expected


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), labels=st.booleans())
def test_a_match_profile_is_what_loops_say(seed, labels):
    of = sequence(labels=labels)
    data: Queries = random_queries(12, seed=seed, sequences=(of,))
    rows = data.everything()
    profile = shaken(MatchProfile(ranker_config(of), of))
    candidates = CandidateRows(torch.zeros(12, 1), rows.offsets, rows.as_of, rows.instances.categorical)
    fast = profile(rows.sequences[of.name], candidates)
    batch, states = rows.sequences[of.name], 6 if labels else 1
    expected = torch.zeros(12, 2, states, 2)
    weights = softplus(profile.weights.detach())
    for query, (a, b) in enumerate(itertools.pairwise(rows.offsets.tolist())):
        begin, end = batch.offsets[query : query + 2].tolist()
        for row, step in itertools.product(range(a, b), range(begin, end)):
            age = int(rows.as_of[query] - batch.timestamps[step]) // 1_000_000
            bucket = half_octave(age if labels else end - 1 - step)
            for feature, name in enumerate(("item_id", "store")):
                if 0 != int(batch.categorical[name][step]) == int(rows.instances.categorical[name][row]):
                    for label, state in enumerate(batch.labels[step].tolist() if labels else [0]):
                        expected[row, feature, 3 * label + state] += weights[feature, 3 * label + state, bucket]
    torch.testing.assert_close(fast, expected.log1p().flatten(1))


def test_a_grid_is_what_loops_say():
    grid = NumberGrid(3, 3, [1], [2], torch.Generator().manual_seed(0))
    x = torch.tensor([[0.0, 0.0], [5.0, 0.3], [-7.5, 1.0], [1e12, 0.5], [torch.nan, torch.nan], [-1e12, 0.999]])
    x = torch.cat([x, torch.tensor([[0.0], [2.3], [-7.5], [99.0], [torch.nan], [17.9]])], 1)
    fast = grid(x)
    for row, column in itertools.product(range(6), range(3)):
        value, rows = float(x[row, column]), grid.weight[74 * column : 74 * column + 74]
        if math.isnan(value):
            expected = rows[73]
        else:
            p = min(max(value, 1e-4), 1 - 1e-4)
            scaled = (math.copysign(math.log1p(abs(value)), value), math.log(p / (1 - p)), value)[column]
            place = min(max(2 * scaled + 36, 0), 72)
            low = min(int(place), 71)
            expected = rows[low] * (low + 1 - place) + rows[low + 1] * (place - low)
        torch.testing.assert_close(fast[row, 3 * column : 3 * column + 3], expected, atol=1e-4, rtol=1e-4)


def test_a_mixer_is_what_loops_say():
    mixer = shaken(TokenMixer(21, 64, 2))
    x = torch.randn(3, 21, generator=torch.Generator().manual_seed(0))
    for row, fast in zip(x, mixer(x), strict=True):
        inputs = torch.cat([row, torch.zeros(3)])
        tokens = []
        for t in range(8):
            w, bias = mixer.project.weight[t], mixer.project.bias[t, 0]
            tokens.append(mixer.norm(inputs[3 * t : 3 * t + 3] @ w + bias))
        for block in mixer.blocks:
            mixed = [torch.cat([tokens[t][2 * h : 2 * h + 2] for t in range(8)]) for h in range(8)]
            tokens = [block.mixed(old + new) for old, new in zip(tokens, mixed, strict=True)]
            fed = []
            for t, token in enumerate(tokens):
                hidden = silu(token @ block.up.weight[t] + block.up.bias[t, 0])
                fed.append(block.fed(token + hidden @ block.down.weight[t] + block.down.bias[t, 0]))
            tokens = fed
        torch.testing.assert_close(fast, sum(tokens) / 8, atol=1e-5, rtol=1e-4)
