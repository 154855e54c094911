"""The user encoder: what it may read, what it learns, and that it goes on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tokenlake_models.activity import Activity, Items, Moments, Targets
from tokenlake_models.alure import AlureConfig, TimeEncoder
from tokenlake_models.alure_training import AlureLearner, _candidates
from tokenlake_models.errors import CheckpointError, InstancesError, ModelError

ITEMS, GENRES, USERS, EACH = 24, 4, 30, 20
HOUR = 3_600_000_000
NEVER = 2**63 - 1
CONFIG = AlureConfig(
    sources=("all", "liked"),
    categorical={"item_id": ITEMS + 1, "genre": GENRES + 1},
    multi={"tags": 4},
    item_features=("item_id", "genre"),
    labels=("liked",),
    dim=8,
    width=16,
    heads=2,
    queries=2,
    history=8,
)


def world(seed: int = 0) -> tuple[Activity, Moments, Targets, Items]:
    """Users who stay in one genre; a moment before each of their later events, the event's item its target."""
    g = torch.Generator().manual_seed(seed)
    n = USERS * EACH
    user = torch.arange(n) // EACH
    item = user % GENRES + GENRES * torch.randint(0, ITEMS // GENRES, (n,), generator=g)
    timestamps = torch.arange(n) % EACH * HOUR + 10**15
    activity = Activity(
        {"item_id": item + 1, "genre": item % GENRES + 1},
        {"tags": (torch.randint(0, 4, (n,), generator=g), torch.arange(n + 1))},
        torch.ones(n, 1, dtype=torch.int64),
        timestamps.unsqueeze(1) + HOUR // 2,
        timestamps,
    )
    asked = ((torch.arange(n) % EACH) >= 2).nonzero()[:, 0]
    rows = [torch.arange(max(int(a) // EACH * EACH, int(a) - 8), int(a)) for a in asked]
    offsets = torch.tensor([0, *(len(r) for r in rows)]).cumsum(0)
    history = (torch.cat(rows), offsets)
    moments = Moments(timestamps[asked], (history, history))
    items = Items(
        {"item_id": torch.arange(ITEMS) + 1, "genre": torch.arange(ITEMS) % GENRES + 1},
        {},
        torch.ones(ITEMS, dtype=torch.float64),
    )
    return activity, moments, Targets(item[asked], torch.arange(len(asked) + 1)), items


def test_learns_what_follows():
    activity, moments, targets, items = world()
    learner = AlureLearner.create(CONFIG, learning_rate=5e-3)
    first = learner.fit(activity, moments, targets, items, batch=32)
    last = learner.fit(activity, moments, targets, items, batch=32, passes=4, seed=1)
    assert first.loss is not None
    assert last.loss is not None
    assert last.loss < math.log(ITEMS / 2) < first.loss
    near = (learner.users(activity, moments) @ learner.items(items).T).argmax(1)
    assert (near % GENRES == targets.items % GENRES).float().mean() > 0.9


def test_continues_to_the_same_bits(tmp_path):
    activity, moments, targets, items = world()
    whole = AlureLearner.create(CONFIG)
    whole.fit(activity, moments, targets, items, seed=1)
    whole.save(tmp_path / "c")
    parted = AlureLearner.load(tmp_path / "c")
    for learner in (whole, parted):
        learner.grow({"item_id": ITEMS + 5})
        learner.fit(activity, moments, targets, items, negatives=10, seed=2)
    assert torch.equal(whole.users(activity, moments), parted.users(activity, moments))
    assert parted.config.categorical["item_id"] == ITEMS + 5


def test_a_vector_does_not_depend_on_the_batch():
    activity, moments, targets, items = world()
    learner = AlureLearner.create(CONFIG)
    learner.fit(activity, moments, targets, items)
    whole = learner.users(activity, moments)
    some = torch.tensor([5, 0, 77])
    torch.testing.assert_close(learner.users(activity, moments.select(some)), whole[some], rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(len(whole)))


def test_a_label_is_read_only_after_it_is_known():
    activity, moments, targets, items = world()
    learner = AlureLearner.create(CONFIG)
    learner.fit(activity, moments, targets, items)
    one = Moments(torch.tensor([10**15 + 2 * HOUR]), ((torch.tensor([0, 1]), torch.tensor([0, 2])),) * 2)
    before = learner.users(activity, one)
    pending = activity.known_at.clone()
    pending[1] = one.now[0]  # known at the very moment is too late: strictly before
    hidden = dataclasses.replace(activity, known_at=pending)
    flipped = dataclasses.replace(
        hidden, labels=activity.labels * torch.tensor([[1], [0], *[[1]] * (len(activity) - 2)])
    )
    assert not torch.equal(learner.users(hidden, one), before)
    assert torch.equal(learner.users(hidden, one), learner.users(flipped, one))


def test_users_without_events_and_with_one():
    activity, _, _, _ = world()
    none = (torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0, 0]))
    single = (torch.tensor([3]), torch.tensor([0, 0, 1]))
    vectors = AlureLearner.create(CONFIG).users(activity, Moments(torch.tensor([0, 10**16]), (none, single)))
    assert vectors.isfinite().all()
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2))


def test_an_item_never_seen_speaks_through_its_features():
    activity, moments, targets, items = world()
    learner = AlureLearner.create(CONFIG, learning_rate=5e-3)
    learner.fit(activity, moments, targets, items, passes=5)
    unseen = Items(
        {"item_id": torch.zeros(GENRES, dtype=torch.int64), "genre": torch.arange(GENRES) + 1},
        {},
        torch.ones(GENRES, dtype=torch.float64),
    )
    near = (learner.items(unseen) @ learner.items(items).T).argmax(1)
    assert (near % GENRES == torch.arange(GENRES)).all()


def test_sampled_softmax_estimates_the_whole():
    """The corrected sum over sampled items has the whole catalog's sum as its mean."""
    generator = torch.Generator().manual_seed(0)
    events = torch.rand(200, generator=generator, dtype=torch.float64) ** 4
    items = Items({"item_id": torch.arange(200)}, {}, events)
    score = torch.randn(200, generator=generator)
    sums = []
    for _ in range(400):
        wanted = torch.multinomial(events, 10, replacement=True, generator=generator)
        candidates, expected = _candidates(wanted, items, 50, generator)
        assert torch.isin(wanted, candidates).all()
        sums.append((score[candidates] - expected).exp().sum())
    assert torch.stack(sums).mean() == pytest.approx(float(score.exp().sum()), rel=0.03)


def test_time_encoding_by_hand():
    """Each table holds powers of a base of its own, so that the sum tells which rows were read."""
    encoder = TimeEncoder(4, 1, clock=True).double()
    with torch.no_grad():
        encoder.out.weight.fill_(1.0)
        encoder.out.bias.fill_(0.0)
        for place, name in enumerate(("rank", "age", "gap", "hour", "weekday")):
            table = encoder.tables[name]
            table.copy_(torch.arange(len(table)).unsqueeze(1) * 100.0**place)
    second = 1_000_000
    times = torch.tensor([0, 3, 90_000]) * second
    out = encoder(times, torch.full((3,), 90_001 * second), torch.tensor([0, 2, 3]))
    rank, age, gap, hour, weekday = ([1, 0, 0], [16, 16, 1], [0, 2, 0], [0, 0, 1], [0, 0, 1])
    read = [sum(x * 100.0**i for i, x in enumerate(row)) for row in zip(rank, age, gap, hour, weekday, strict=True)]
    assert out[:, 0].tolist() == read


def test_refuses_what_does_not_fit(tmp_path):
    activity, moments, targets, items = world()
    learner = AlureLearner.create(CONFIG)
    with pytest.raises(InstancesError, match="sources"):
        learner.users(activity, Moments(moments.now, moments.histories[:1]))
    with pytest.raises(InstancesError, match="grow"):
        learner.items(dataclasses.replace(items, categorical=items.categorical | {"item_id": torch.full((ITEMS,), 99)}))
    with pytest.raises(InstancesError, match="missing"):
        learner.items(dataclasses.replace(items, categorical={"item_id": items.categorical["item_id"]}))
    with pytest.raises(InstancesError, match="targets"):
        learner.fit(activity, moments, Targets(targets.items, targets.offsets[:-1]), items)
    with pytest.raises(ModelError, match="heads"):
        dataclasses.replace(CONFIG, heads=3)
    with pytest.raises(CheckpointError, match="missing"):
        AlureLearner.load(tmp_path)
