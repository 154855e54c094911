"""The user encoder: what it may read, what it learns, and that it goes on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tokenlake_models.activity import Activity, Encoded, Items, Stream, Targets, UserQueries
from tokenlake_models.alure import AlureConfig, TimeEncoder
from tokenlake_models.alure_training import AlureLearner, _candidates, _shuffled
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


def world(seed: int = 0) -> tuple[Activity, UserQueries, Targets, Items]:
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
        (Stream(torch.arange(n), torch.arange(n + 1), torch.arange(0, n + 1, EACH)),) * 2,
    )
    asked = ((torch.arange(n) % EACH) >= 2).nonzero()[:, 0]
    rows = [torch.arange(max(int(a) // EACH * EACH, int(a) - 8), int(a)) for a in asked]
    offsets = torch.tensor([0, *(len(r) for r in rows)]).cumsum(0)
    history = (torch.cat(rows), offsets)
    moments = UserQueries(timestamps[asked], (history, history))
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
    one = UserQueries(torch.tensor([10**15 + 2 * HOUR]), ((torch.tensor([0, 1]), torch.tensor([0, 2])),) * 2)
    before = learner.users(activity, one)
    pending = activity.known_at.clone()
    pending[1] = one.as_of[0]  # known at the very moment is too late: strictly before
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
    vectors = AlureLearner.create(CONFIG).users(activity, UserQueries(torch.tensor([0, 10**16]), (none, single)))
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


def test_marks_of_a_moment_by_hand():
    """Rows of the table: ranks 0-3, ages 4-35, gaps 36-67, then the label's unknown, no, yes."""
    encoder = TimeEncoder(4, 1, 1, clock=True)
    second = 1_000_000
    times, now = torch.tensor([0, 3, 90_000]) * second, 90_001 * second
    activity = Activity({}, {}, torch.tensor([[1], [0], [1]]), torch.tensor([[0], [now - 1], [now]]), times, ())
    marks = encoder.time_features(activity, torch.full((3,), now), torch.arange(3), torch.tensor([0, 2, 3]))
    assert marks.tolist() == [[1, 4 + 16, 36 + 0, 70], [0, 4 + 16, 36 + 2, 69], [0, 4 + 1, 36 + 0, 68]]
    torch.testing.assert_close(encoder(marks), encoder.table[marks].sum(1))
    without = TimeEncoder(4, 1, 1, clock=False)
    assert without.time_features(
        activity, torch.full((3,), now), torch.arange(3), torch.tensor([0, 2, 3])
    ).tolist() == [
        [1, 6],
        [0, 5],
        [0, 4],
    ]


def trained() -> AlureLearner:
    learner = AlureLearner.create(CONFIG, learning_rate=5e-3)
    learner.fit(*world(), passes=2)
    return learner


def test_what_is_encoded_once_serves_every_question():
    """Encoded whole and pooled, or encoded for one question alone: the same vector."""
    activity, moments, _, _ = world()
    learner = trained()
    places = torch.arange(len(activity))
    encoded = [Encoded(values, places) for values in learner.encode(activity, activity.streams)]
    pooled = learner.pool(activity, moments, encoded)
    torch.testing.assert_close(pooled, learner.users(activity, moments), rtol=0, atol=1e-6)
    for i in (0, 7, 200):
        alone = learner.users(activity, moments.select(torch.tensor([i])))
        torch.testing.assert_close(alone[0], pooled[i], rtol=0, atol=1e-6)


def test_what_comes_later_changes_no_encoding():
    activity, _, _, _ = world()
    learner = trained()
    day = Stream(torch.arange(EACH), torch.arange(EACH + 1), torch.tensor([0, EACH]))
    before = learner.encode(activity, [day, day])[0]
    for kept in (1, 5, EACH - 1):
        shorter = day.until(torch.tensor([kept - 1]))
        assert shorter.rows.tolist() == list(range(kept))
        torch.testing.assert_close(learner.encode(activity, [shorter] * 2)[0], before[:kept], rtol=0, atol=1e-6)
    # And what came earlier does: the attention is there.
    without_first = Stream(day.rows[1:], torch.arange(EACH), torch.tensor([0, EACH - 1]))
    assert (learner.encode(activity, [without_first] * 2)[0] - before[1:]).abs().max() > 1e-3


def test_order_within_an_instant_means_nothing():
    activity, _, _, _ = world()
    learner = trained()
    ties, offsets = torch.tensor([0, 1, 5, 8, 9]), torch.tensor([0, 3, 4])
    rows = torch.arange(9)
    shuffled = torch.tensor([0, 3, 1, 4, 2, 7, 6, 5, 8])
    one = learner.encode(activity, [Stream(rows, ties, offsets)] * 2)[0]
    other = learner.encode(activity, [Stream(rows[shuffled], ties, offsets)] * 2)[0]
    torch.testing.assert_close(other, one[shuffled], rtol=0, atol=1e-6)


def test_streams_are_cut_by_hand():
    stream = Stream(torch.tensor([4, 2, 7, 1, 0, 9]), torch.tensor([0, 2, 3, 5, 6]), torch.tensor([0, 2, 3, 4]))
    cut = stream.until(torch.tensor([0, 3]))  # the first instant of the first day, and one of the second day's pair
    assert (cut.rows.tolist(), cut.ties.tolist(), cut.offsets.tolist()) == ([4, 2, 1, 0], [0, 2, 4], [0, 1, 2])
    some = stream.of(torch.tensor([2, 0]))
    assert (some.rows.tolist(), some.ties.tolist(), some.offsets.tolist()) == ([9, 4, 2, 7], [0, 1, 3, 4], [0, 1, 3])
    nothing = stream.until(torch.zeros(0, dtype=torch.int64))
    assert (len(nothing.rows), nothing.ties.tolist(), nothing.offsets.tolist()) == (0, [0], [0])


def test_numbers_are_inputs_and_missing_ones_are_told_apart():
    """Items differ by a number alone; who likes large ones is told by it, and NaN is not taken for the mean."""
    activity, moments, targets, items = world()
    size = (targets.items[0] * 0 + torch.arange(ITEMS) % GENRES).float() * 10
    number = size[activity.categorical["item_id"] - 1].unsqueeze(1)
    plain = {"item_id": torch.zeros_like(activity.categorical["item_id"]), "genre": torch.zeros(len(activity)).long()}
    config = dataclasses.replace(CONFIG, numeric=("size",), item_features=("item_id", "size"))
    learner = AlureLearner.create(config, learning_rate=5e-3)
    blind = dataclasses.replace(activity, categorical=plain, numeric=number)
    things = Items({"item_id": torch.zeros(ITEMS).long()}, {}, items.events, size.unsqueeze(1))
    learner.fit(blind, moments, targets, things, passes=6, batch=32)
    near = (learner.users(blind, moments) @ learner.items(things).T).argmax(1)
    assert (near % GENRES == targets.items % GENRES).float().mean() > 0.9
    missing = dataclasses.replace(things, numeric=torch.full((ITEMS, 1), torch.nan))
    average = dataclasses.replace(things, numeric=torch.full((ITEMS, 1), float(size.mean())))
    assert learner.items(missing).isfinite().all()
    assert (learner.items(missing) - learner.items(average)).abs().max() > 1e-3


def test_a_step_takes_whole_users():
    moments = world()[1]
    asked = torch.arange(len(moments))
    user = torch.arange(len(moments)) // (EACH - 2)
    told = dataclasses.replace(moments, users=user)
    order = _shuffled(told, asked, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == asked.tolist()
    assert int((user[order].diff() != 0).sum()) == USERS - 1  # each user's questions stand together
    assert (order.diff() < 0).any()
    again = _shuffled(told, asked, torch.Generator().manual_seed(1))
    assert not torch.equal(order, again)


def test_refuses_what_does_not_fit(tmp_path):
    activity, moments, targets, items = world()
    learner = AlureLearner.create(CONFIG)
    with pytest.raises(InstancesError, match="sources"):
        learner.users(activity, UserQueries(moments.as_of, moments.histories[:1]))
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


@pytest.mark.parametrize(
    ("numeric", "given"), [(None, "none"), (torch.zeros(ITEMS, 2), r"shape \(24, 2\)")], ids=["none", "too many"]
)
def test_numbers_that_the_model_reads_must_be_there(numeric, given):
    """Also under `python -O`, which knows no assert."""
    activity, moments, _, items = world()
    learner = AlureLearner.create(
        dataclasses.replace(CONFIG, numeric=("size",), item_features=("item_id", "size")), learning_rate=5e-3
    )
    with pytest.raises(
        InstancesError, match=rf"numeric of the items: shape \(n, 1\) expected for \['size'\], got {given}"
    ):
        learner.items(dataclasses.replace(items, numeric=numeric))
    with pytest.raises(
        InstancesError, match=r"numeric of the events: shape \(n, 1\) expected for \['size'\], got none"
    ):
        learner.users(activity, moments)
