"""Small tables of events to train on."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from tokenlake_models.config import CompressorConfig
from tokenlake_models.instances import Instances

DAY = 86_400_000_000
ROWS = {"user_id": 9, "item_id": 12, "store": 5}
BAGS = {"tags": 7}


def config(**fields: object) -> CompressorConfig:
    """A tiny model of `random_table`'s features."""
    small = {"dim": 8, "width": 16, "embedding": 4, "history": 5, "sit_heads": 2, "id_dropout": 0.1}
    inputs = {
        "labels": ("clicked", "bought"),
        "categorical": ROWS,
        "multi": BAGS,
        "numeric": ("price", "age"),
        "vectors": {"image": 3},
        "counts": ("user_count", "item_count"),
    }
    return CompressorConfig(**{**inputs, **small, **fields})  # type: ignore[arg-type]  # overridden by name


def random_table(n: int, *, seed: int = 0, users: int = 4, ties: int = 3) -> Instances:
    """Rows with every kind of feature, missing values, unknown labels, and ties of `ties` rows on average."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    numeric = rng.normal(size=(n, 2)) * [1, 1e6]
    numeric[rng.random((n, 2)) < 0.2] = np.nan
    image = rng.normal(size=(n, 3))
    image[rng.random(n) < 0.3] = np.nan
    code = rng.integers(0, users, n)
    return Instances(
        categorical={
            "user_id": torch.from_numpy(code + 1),
            "item_id": torch.from_numpy(rng.integers(0, 12, n)),
            "store": torch.from_numpy(rng.integers(0, 5, n)),
        },
        multi={"tags": (torch.from_numpy(rng.integers(0, 7, offsets[-1])), torch.from_numpy(offsets))},
        numeric=torch.from_numpy(numeric.astype(np.float32)),
        vectors={"image": torch.from_numpy(image.astype(np.float32))},
        counts=torch.from_numpy(rng.integers(0, 50, (n, 2)).astype(np.float32)),
        labels=torch.from_numpy((rng.random((n, 2)) < 0.4).astype(np.float32)),
        known=torch.from_numpy(rng.random((n, 2)) < 0.7),
        users=torch.from_numpy(code),
        timestamps=torch.from_numpy(np.sort(rng.integers(0, max(n // (users * ties), 1), n)) * DAY),
    )


def equal(a: Instances, b: Instances) -> bool:
    """Whether two tables hold the same."""
    return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Instances))


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    return bool(torch.equal(torch.nan_to_num(a, 7e9), torch.nan_to_num(b, 7e9)))  # type: ignore[arg-type]  # tensors
