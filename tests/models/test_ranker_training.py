"""Training of rankers: what is learned, the same bits after a stop, and refusals."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from tests.fixtures.ranking import Queries, kept, random_queries, ranker_config, sequence
from tests.fixtures.tables import DAY
from tokenlake_models.errors import CheckpointError, DivergedError, InstancesError, ModelError
from tokenlake_models.instances import Instances
from tokenlake_models.jagged import offsets_of
from tokenlake_models.ranker_config import RankerConfig
from tokenlake_models.ranker_training import RankerLearner
from tokenlake_models.ranking import RankingData, StepBatch, check_ranking_rows
from tokenlake_models.training import Learner

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


def state(learned: RankerLearner) -> list[torch.Tensor]:
    return [*learned.model.state_dict().values(), *learned.scorer.state_dict().values()]


def same(a: RankerLearner, b: RankerLearner) -> bool:
    return all(torch.equal(one, other) for one, other in zip(state(a), state(b), strict=True))


def test_the_same_seed_gives_the_same_bits():
    assert isinstance(data(), RankingData)
    a, b, c = learner(), learner(), learner()
    for one, seed in ((a, 5), (b, 5), (c, 6)):
        one.fit(data(), batch=8, passes=2, seed=seed)
    assert same(a, b)
    assert not same(a, c)
    torch.manual_seed(7)
    assert same(learner(), learner())
    assert not same(learner(), learner(seed=1))


def test_the_statistics_and_the_curve():
    given, calls = data(200), []
    known = given.instances.known
    stats = learner().fit(given, batch=4, passes=2, progress=lambda done, rows: calls.append((done, rows)))
    rows = int(known.any(1).sum())
    assert (stats.instances, stats.targets) == (200, 2 * int(known.sum()))
    assert stats.steps == len(calls)
    assert calls[-1] == (2 * rows, 2 * rows)
    assert 15 <= len(stats.curve) <= 21
    assert stats.curve[-1][0] == 2 * rows
    assert stats.loss == pytest.approx(sum(loss for _, loss in stats.curve) / len(stats.curve), rel=0.05)


def test_rows_without_a_known_label_train_nothing():
    """Neither the value of an unknown label nor a row without any, but for its numbers' statistics."""
    given = data()
    table = given.instances
    other = dataclasses.replace(table, labels=torch.where(table.known, table.labels, 1 - table.labels))
    idle = ~table.known.any(1)
    assert idle.any()
    moved = torch.where(idle, 1, table.categorical["item_id"])
    other = dataclasses.replace(other, categorical={**table.categorical, "item_id": moved})
    a, b = learner(id_dropout=0.0), learner(id_dropout=0.0)
    a.fit(given, batch=8)
    b.fit(dataclasses.replace(given, instances=other), batch=8)
    assert same(a, b)


def test_without_targets_nothing_is_learned():
    given = data()
    nothing = dataclasses.replace(given.instances, known=torch.zeros(60, 2, dtype=torch.bool))
    one = learner()
    stats = one.fit(dataclasses.replace(given, instances=nothing))
    assert (stats.steps, stats.loss, stats.curve) == (0, None, [])
    before = learner()
    assert torch.equal(one.model.head.weight, before.model.head.weight)


def test_queries_come_at_random_or_in_the_order_of_the_data():
    given, seen = data(64), []

    class Recorded(Queries):
        def batch(self, queries):
            seen.append(queries.tolist())
            return super().batch(queries)

    recorded = Recorded(given.instances, given.offsets, given.as_of, given.sequences)
    wanted = given.instances.known.any(1)
    bounds = itertools.pairwise(given.offsets.tolist())
    expected = [query for query, (a, b) in enumerate(bounds) if wanted[a:b].any()]
    for shuffle in (False, True):
        seen.clear()
        learner().fit(recorded, batch=8, shuffle=shuffle)
        taken = list(itertools.chain(*seen))
        assert (taken == expected) is not shuffle
        assert sorted(taken) == expected
        assert 5 <= len(seen) <= 8


def test_offsets_of_a_batch_are_checked():
    rows = data().everything()
    steps = rows.sequences["events din"]
    bad = {
        "offsets of the queries must ascend": dataclasses.replace(rows, offsets=rows.offsets.flip(0)),
        "as_of: one time for each": dataclasses.replace(rows, as_of=rows.as_of[1:]),
        "'events din': offsets must ascend": dataclasses.replace(
            rows, sequences={**rows.sequences, "events din": dataclasses.replace(steps, offsets=steps.offsets.flip(0))}
        ),
        "offsets of .* queries expected": dataclasses.replace(
            rows, sequences={**rows.sequences, "events din": dataclasses.replace(steps, offsets=steps.offsets[1:])}
        ),
    }
    for message, given in bad.items():
        with pytest.raises(InstancesError, match=message):
            check_ranking_rows(learner().config, given)


def test_scores_are_of_the_averaged_weights():
    given = data()
    one, other = learner(), learner(averaged=False)
    assert torch.equal(one.score(given), other.score(given))
    for each in (one, other):
        each.fit(given, batch=10**6, seed=3)
    assert torch.equal(one.score(given), other.score(given))  # the average of one step
    for each in (one, other):
        each.fit(given, batch=8, seed=4)
    assert torch.equal(one.model.head.weight, other.model.head.weight)
    assert not torch.equal(one.score(given), other.score(given))
    assert torch.equal(one.scorer.inputs.dense.mean, one.model.inputs.dense.mean)


def test_an_average_is_what_the_formula_says():
    given, one, expected = data(), learner(), None
    weights = []
    one.fit(given, batch=8, progress=lambda *_: weights.append(one.model.head.weight.detach().clone()))
    for step, weight in enumerate(weights, 1):
        share = 10 / (9 + step)
        expected = weight if expected is None else expected + share * (weight - expected)
    torch.testing.assert_close(one.scorer.head.weight, expected)


# --- what it learns


def again(n: int = 800, *, seed: int = 0) -> tuple[Queries, RankerConfig]:
    """Two candidates a query: bought if the last time the item was offered, it was bought."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.stack([torch.randperm(20, generator=generator)[:4] + 1 for _ in range(n)])
    states = torch.randint(1, 3, (n, 4), generator=generator)
    labels = (states[:, :2] == 2).flatten()
    rows = 2 * n
    of = sequence(categorical=("item_id",), name="past")
    as_of = 10**15 + torch.arange(n) * DAY
    instances = Instances(
        categorical={"user_id": torch.ones(rows, dtype=torch.int64), "item_id": items[:, :2].flatten()},
        multi={}, numeric=torch.zeros(rows, 0), vectors={}, counts=torch.zeros(rows, 0),
        labels=labels.float()[:, None], known=torch.ones(rows, 1, dtype=torch.bool),
        users=torch.zeros(rows, dtype=torch.int64), timestamps=as_of.repeat_interleave(2),
    )  # fmt: skip
    past = StepBatch(
        timestamps=(as_of[:, None] - torch.tensor([4, 3, 2, 1]) * 3_600_000_000).flatten(),
        offsets=torch.arange(n + 1) * 4,
        labels=states.flatten()[:, None],
        categorical={"item_id": items.flatten()},
    )
    config = RankerConfig(
        labels=("bought",), categorical={"user_id": 2, "item_id": 21}, width=32, embedding=8, sequences=(of,)
    )
    return Queries(instances, torch.arange(n + 1) * 2, as_of, {"past": past}), config


def test_it_learns_what_happened_to_the_item_before():
    (train, config), (test, _) = again(), again(200, seed=1)
    of = config.sequences[0]
    hidden = dataclasses.replace(of, labels=False)
    losses = []
    for sequences in ((of,), (hidden,), ()):
        one = RankerLearner.create(dataclasses.replace(config, sequences=sequences), learning_rate=1e-2)
        one.fit(train, batch=64, passes=2)
        p = one.score(test)[:, 0]
        losses.append(float(torch.nn.functional.binary_cross_entropy(p, test.instances.labels[:, 0])))
    assert losses[0] < 0.3
    assert min(losses[1:]) > 0.6


# --- refusals


def changed(name: str, **fields: object) -> Queries:
    given = data()
    return dataclasses.replace(
        given, sequences={**given.sequences, name: dataclasses.replace(given.sequences[name], **fields)}
    )


STEPS = data().sequences["events din"]
TOKENS = data().sequences["tokens longer"].tokens


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (changed("events din", timestamps=STEPS.timestamps + 400 * DAY), "is not before its query's time"),
        (changed("events din", timestamps=-STEPS.timestamps), "must ascend within a query"),
        (changed("events din", labels=STEPS.labels[:, :1]), r"labels of shape \(\d+, 2\) expected, got \(\d+, 1\)"),
        (changed("events din", labels=STEPS.labels + 1), "0 unknown, 1 no, 2 yes; got 1 to 3"),
        (changed("events din", categorical={}), "'item_id' is missing"),
        (
            changed("events din", categorical={**STEPS.categorical, "section": STEPS.categorical["section"] + 4}),
            "'section' holds rows 4 to 7, but the model has rows 0 to 3",
        ),
        (changed("tokens longer", tokens=None), r"tokens of shape \(\d+, 5\) expected, got none"),
        (changed("tokens longer", tokens=TOKENS[:, :4]), r"got \(\d+, 4\)"),
        (changed("tokens longer", tokens=torch.full_like(TOKENS, torch.nan)), "tokens hold NaN"),
        (dataclasses.replace(data(), sequences={}), "sequence 'events din' is missing"),
        (dataclasses.replace(data(), as_of=data().as_of + 1), "as_of is later than the timestamp of row 0"),
        (dataclasses.replace(data(), offsets=data().offsets[:-1]), "must ascend from 0 to 60"),
    ],
)
def test_data_that_do_not_fit(given, message):
    with pytest.raises(InstancesError, match=message):
        learner().score(given)
    with pytest.raises(InstancesError, match=message):
        learner().fit(given)


def test_a_step_at_the_query_s_own_time_is_refused():
    given = data()
    steps = given.sequences["events din"]
    lengths = steps.offsets.diff()
    query = int((lengths > 0).nonzero()[0])
    times = steps.timestamps.clone()
    times[steps.offsets[query + 1] - 1] = given.as_of[query] - 1
    fine = dataclasses.replace(steps, timestamps=times)
    learner().score(dataclasses.replace(given, sequences={**given.sequences, "events din": fine}))
    times[steps.offsets[query + 1] - 1] += 1
    with pytest.raises(InstancesError, match="a query reads only what is strictly earlier"):
        learner().score(dataclasses.replace(given, sequences={**given.sequences, "events din": fine}))


def test_too_many_steps_are_refused():
    given = data()
    steps = given.sequences["events din"]
    lengths = torch.zeros_like(given.as_of)
    lengths[-1] = 7
    many = kept(steps, torch.arange(7), offsets_of(lengths))
    many = dataclasses.replace(many, timestamps=torch.arange(7))
    with pytest.raises(InstancesError, match="at most 6 steps a query expected, got 7"):
        learner().score(dataclasses.replace(given, sequences={**given.sequences, "events din": many}))


def test_a_loss_that_diverges_describes_the_batch():
    one = learner()
    with torch.no_grad():
        one.model.head.bias.fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"the loss of step 0 \(pass 1\) is nan: \d+ instances of \d+ users"):
        one.fit(data(), batch=8)


def test_checkpoints_of_other_models_or_configs_are_refused(tmp_path):
    from tests.fixtures.tables import learner as compressor

    compressor().save(tmp_path / "other")
    with pytest.raises(CheckpointError, match="a ranker expected, got 'compressor'"):
        RankerLearner.load(tmp_path / "other")
    learner().save(tmp_path / "one")
    with pytest.raises(CheckpointError, match="'ranker'"):
        Learner.load(tmp_path / "one")
    text = (tmp_path / "one" / "config.json").read_text()
    for old, new, message in (
        ('"layers": 2', '"layers": 3', r"lacks \['sequences.tokens longer.encoder.layers.2"),
        ('"length": 6', '"length": 0', "no RankerConfig: sequence 'events din': length must be at least 1"),
        ('"token_dim": 5', '"token_dims": 5', "unexpected keyword argument 'token_dims'"),
        ('"grid"', '"grit"', "unexpected keyword argument 'grit'"),
        ('"learning_rate"', '"rate"', "lacks 'learning_rate'"),
    ):
        at = text.rindex(old) if "layers" in old else text.index(old)
        (tmp_path / "one" / "config.json").write_text(text[:at] + new + text[at + len(old) :])
        with pytest.raises(CheckpointError, match=message):
            RankerLearner.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"grid": -1}, "0 for none, got -1"),
        ({"rates": ("pric",)}, r"rates: \['pric'\] are neither numeric nor counts"),
        ({"step_rows": {"store": 4}}, r"\['store'\] are features of the rows and in step_rows"),
        ({"step_rows": {"section": 0}}, "'section' has 0 rows"),
        ({"step_rows": {}}, r"\['section'\] are no categorical features of this model"),
        ({"sequences": (SEQUENCES[0], SEQUENCES[0])}, "every sequence needs its own name"),
        ({"labels": ()}, "at least one label"),
    ],
)
def test_configs_that_do_not_fit(fields, message):
    with pytest.raises(ModelError, match=message):
        ranker_config(*fields.pop("sequences", SEQUENCES), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 9}, "width 9 is no multiple of heads 2"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"categorical": ()}, "need at least one categorical feature"),
        ({"source": "tokens", "token_dim": 0}, "token_dim of at least 1"),
        ({"source": "tokens", "categorical": ("item_id",)}, "no categorical features"),
    ],
)
def test_sequences_that_do_not_fit(fields, message):
    with pytest.raises(ModelError, match=message):
        sequence(**fields)


def test_other_refusals():
    with pytest.raises(ModelError, match="a ranker needs inputs of its rows"):
        RankerConfig(categorical={"user_id": 2, "item_id": 2}, ids=False)
    with pytest.raises(ModelError, match="width 40: the interaction 'mixer' needs a multiple of 32"):
        learner(width=40, interaction="mixer")
    with pytest.raises(InstancesError, match="no embedded feature 'sections' to grow"):
        learner().grow({"sections": 9})
