from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from tests.fixtures.strict import STRICT
from tests.fixtures.tables import DAY, learner, random_table
from tokenlake_models import metrics
from tokenlake_models.checkpoint import read_checkpoint
from tokenlake_models.config import CompressorConfig
from tokenlake_models.errors import CheckpointError, DivergedError, InstancesError, ModelError
from tokenlake_models.instances import History, Instances
from tokenlake_models.training import Learner

SCHEMES = ["user-order", "temporal-order"]
both_schemes = pytest.mark.parametrize("scheme", SCHEMES)
every_kind = pytest.mark.parametrize("kind", [*SCHEMES, "logistic"])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state(trained: Learner) -> dict[str, torch.Tensor]:
    """Weights and optimisers, as they are saved."""
    with TemporaryDirectory() as folder:
        trained.save(Path(folder))
        _, weights, optimizer = read_checkpoint(Path(folder))
    return {**weights, **optimizer}


def same(a: Learner, b: Learner) -> bool:
    ours, theirs = state(a), state(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def planted(n: int = 6000, users: int = 12, seed: int = 0) -> Instances:
    """Users like the items of their own kind, twice as much where the event before was of the same kind."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, users, n), rng.integers(0, 9, n)
    order = np.argsort(user, kind="stable")
    before = np.full(n, -1)
    before[order[1:]] = np.where(user[order[1:]] == user[order[:-1]], item[order[:-1]], -1)
    match = np.where(user % 3 == item % 3, 1.5, -1.5) + np.where(before % 3 == item % 3, 1.5, -1.5)
    label = rng.random(n) < 1 / (1 + np.exp(-match))
    return Instances(
        categorical={"user_id": torch.from_numpy(user + 1), "item_id": torch.from_numpy(item + 1)},
        multi={},
        numeric=torch.zeros(n, 0),
        vectors={},
        counts=torch.zeros(n, 0),
        labels=torch.from_numpy(label[:, None].astype(np.float32)),
        known=torch.ones(n, 1, dtype=torch.bool),
        users=torch.from_numpy(user),
        timestamps=torch.arange(n) * DAY,
    )


def auc_of(kind: str, table: Instances) -> float:
    """Trained on the first nine tenths, in thirds that read the tokens of the thirds before; on the last tenth."""
    fields = CompressorConfig(
        scheme="temporal-order" if kind == "logistic" else kind,  # type: ignore[arg-type]  # one of the two
        categorical={"user_id": 13, "item_id": 10},
        dim=16,
        width=32,
        history=7,
        id_dropout=0.02,
    )
    trained = Learner.create(fields, model="logistic" if kind == "logistic" else "compressor", learning_rate=2e-3)
    trained.fit(table.select(torch.arange(5400)), batch=64, passes=4)
    scores = trained.score(table)[5400:, 0]
    value = metrics.auc(table.labels[5400:, 0].numpy(), scores.numpy())
    assert value is not None
    return value


@pytest.mark.slow
def test_planted_structure_is_found():
    """A linear model can't cross user and item; only user-order sees the event before."""
    table = planted()
    linear, alone, sequence = (auc_of(kind, table) for kind in ("logistic", "temporal-order", "user-order"))
    assert linear < 0.6
    assert alone > linear + 0.1
    assert sequence > alone + 0.01


@pytest.mark.slow
@both_schemes
def test_training_goes_on_to_the_same_bits_in_a_new_process(scheme, tmp_path):
    first, second = random_table(150, seed=1), random_table(150, seed=2)
    history = History(torch.randn(8, 8), torch.arange(8) - 9, torch.tensor([0, 2, 4, 8, 8]))
    whole = learner(scheme)
    whole.fit(first, batch=32, seed=1)
    whole.save(tmp_path / "halfway")
    grow = {"item_id": 20}
    whole.grow(grow)
    whole.fit(second, history, batch=32, seed=2)
    whole.save(tmp_path / "whole")
    script = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from tests.fixtures.tables import random_table
from tokenlake_models.instances import History
from tokenlake_models.training import Learner
torch.set_num_threads(1)
folder = Path(sys.argv[1])
learner = Learner.load(folder / "halfway")
learner.grow({"item_id": 20})
history = History(load_file(folder / "history")["tokens"], torch.arange(8) - 9, torch.tensor([0, 2, 4, 8, 8]))
learner.fit(random_table(150, seed=2), history, batch=32, seed=2)
learner.save(folder / "resumed")
"""
    from safetensors.torch import save_file

    save_file({"tokens": history.tokens}, tmp_path / "history")
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, *STRICT, "-c", script, str(tmp_path)], check=True, cwd=root)
    for name in ("weights.safetensors", "optimizer.safetensors", "config.json"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@every_kind
def test_the_same_seed_gives_the_same_bits(kind):
    table = random_table(120)
    a, b, c = (learner(kind) for _ in range(3))
    for trained, seed in ((a, 5), (b, 5), (c, 6)):
        trained.fit(table, batch=16, passes=2, seed=seed)
    assert same(a, b)
    assert not same(a, c)


@every_kind
def test_order_of_rows_does_not_matter_to_scores(kind):
    table = random_table(60)
    trained = learner(kind)
    trained.fit(table, batch=16)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(trained.score(table.select(order)), trained.score(table)[order], atol=1e-5)
    assert torch.allclose(trained.score(table), trained.model(table).sigmoid(), atol=1e-5)


@every_kind
def test_unknown_labels_train_nothing(kind):
    table = random_table(60)
    table = dataclasses.replace(table, known=torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) < 0.4)
    other = dataclasses.replace(table, labels=torch.where(table.known, table.labels, 1 - table.labels))
    a, b = learner(kind), learner(kind)
    assert a.fit(table, batch=16).targets == int(table.known.sum())
    b.fit(other, batch=16)
    assert same(a, b)


@every_kind
@pytest.mark.parametrize("rows", [0, 1])
def test_no_or_one_event(kind, rows):
    table = random_table(rows)
    trained = learner(kind)
    stats = trained.fit(table)
    assert stats.instances == rows
    assert trained.score(table).shape == (rows, 2)
    nothing = dataclasses.replace(table, known=torch.zeros(rows, 2, dtype=torch.bool))
    assert trained.fit(nothing).loss is None
    if kind != "logistic":
        assert trained.encode(table).shape == (rows, 8)


@both_schemes
def test_tokens_one_at_a_time_and_together(scheme):
    trained = learner(scheme)
    table = random_table(50)
    trained.fit(table, batch=16)
    tokens = trained.encode(table)
    singly = torch.cat([trained.encode(table.select(torch.tensor([i]))) for i in range(50)])
    assert torch.equal(tokens.half(), singly.half()) or torch.allclose(tokens, singly, atol=1e-6)


def test_the_unknown_row_learns():
    trained = learner(id_dropout=0.5)
    before = trained.model.inputs.table.weight[0].detach().clone()
    table = random_table(50)
    assert int(table.categorical["user_id"].min()) > 0
    trained.fit(table, batch=16)
    assert not torch.equal(trained.model.inputs.table.weight[0], before)


def test_progress_is_told():
    told: list[tuple[int, int]] = []
    table = random_table(60)
    learner().fit(table, batch=16, passes=2, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == 2 * int(table.known.any(1).sum())


def test_a_loss_that_is_no_number_is_told():
    trained = learner()
    table = random_table(30)
    with torch.no_grad():
        trained.model.head.weight.fill_(torch.nan)
    with pytest.raises(
        DivergedError, match=r"the loss of step 0 \(pass 1\) is nan: \d+ instances of \d+ users, timestamps"
    ):
        trained.fit(table)


def changed(**fields):
    return dataclasses.replace(random_table(6), **fields)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed(categorical={"user_id": torch.zeros(6, dtype=torch.int64)}), "'item_id' is missing"),
        (
            changed(categorical={**random_table(6).categorical, "store": torch.full((6,), 5)}),
            "'store' holds rows 5 to 5, but the model has rows 0 to 4; grow",
        ),
        (changed(multi={}), "'tags' is missing"),
        (changed(numeric=torch.zeros(6, 3)), r"numeric: shape \(6, 2\) expected .*, got \(6, 3\)"),
        (changed(counts=torch.zeros(6, 0)), r"counts: shape \(6, 2\) expected"),
        (changed(vectors={}), r"'image': shape \(6, 3\) expected, got none"),
        (changed(vectors={"image": torch.full((6, 3), torch.inf)}), "image 0 of instance 0 is infinite"),
        (changed(numeric=torch.tensor([[0, torch.inf]] * 6)), "numeric 'age' of instance 0 is infinite"),
    ],
)
def test_instances_that_do_not_fit(table, message):
    with pytest.raises(InstancesError, match=message):
        learner().score(table)


@pytest.mark.parametrize(
    ("tokens", "offsets", "message"),
    [
        (torch.zeros(2, 7), [0, 1, 1, 1, 2], r"\(2, 7\), \(total, 8\) expected"),
        (torch.zeros(2, 8), [0, 2], "history holds 1 users"),
        (torch.zeros(2, 8), [0, 2, 1, 1, 2], "must ascend"),
        (torch.full((2, 8), torch.nan), [0, 1, 1, 1, 2], "NaN"),
    ],
)
def test_histories_that_do_not_fit(tokens, offsets, message):
    with pytest.raises(InstancesError, match=message):
        learner().score(random_table(30), History(tokens, torch.zeros(2, dtype=torch.int64), torch.tensor(offsets)))


def test_a_baseline_makes_no_tokens():
    with pytest.raises(ModelError, match="makes no tokens"):
        learner("logistic").encode(random_table(2))


@every_kind
def test_a_checkpoint_scores_the_same(kind, tmp_path):
    table = random_table(40)
    trained = learner(kind)
    trained.fit(table, batch=16)
    trained.save(tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        "config.json",
        "optimizer.safetensors",
        "weights.safetensors",
    ]
    loaded = Learner.load(tmp_path / "a" / "b")
    assert loaded.config == trained.config
    assert torch.equal(loaded.score(table), trained.score(table))


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    learner().save(tmp_path / "one")
    text = (tmp_path / "one" / "config.json").read_text()
    for old, new, message in (
        (
            '"width": 16',
            '"width": 32',
            r"interaction.*: \(32, 32\) torch.float32 expected by the config, .* has \(16, 32\)",
        ),
        ('"sit_layers": 2', '"sit_layers": 3', r"lacks \['sit.layers.2"),
        ('"sit_layers": 2', '"sit_layers": 1', r"holds \['sit.layers.1"),
        ('"width": 16', '"depth": 16', "unexpected keyword argument 'depth'"),
        ('"format": 1', '"format": 2', "format 1 expected, got 2"),
        ('"model": "compressor"', '"model": "forest"', "'forest'"),
        ('"learning_rate"', '"rate"', "lacks 'learning_rate'"),
        ("{", "[", "is damaged"),
    ):
        (tmp_path / "one" / "config.json").write_text(text.replace(old, new, 1))
        with pytest.raises(CheckpointError, match=message):
            Learner.load(tmp_path / "one")
