"""Rows a second of IAT's first stage, the whole of `Learner.fit` and `encode`: `python benchmarks/instance_tokens.py`.

Made-up events with 15 features, one of them multi-valued, and 14 numbers. Each shape is trained on the compiled kernels
and on their PyTorch path (the peer), in turns in one run; temporal-order, which has no SIT, shows what SIT costs. Times
are CPU seconds of one thread, the best of several passes with a fresh model: fair on a machine that others use too.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from tokenlake_kernels.cpu import native
from tokenlake_models.config import CompressorConfig
from tokenlake_models.instances import Instances
from tokenlake_models.training import Learner

FEATURES, NUMBERS, VOCABULARY = 14, 14, 5_000
SECOND = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--tries", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {given.rows:,} rows, batch 512, rows a CPU second\n")
    print("| work | compiled kernels | PyTorch path | ratio |\n|---|---|---|---|")
    for scheme, each in (("temporal-order", 25), ("user-order", 25), ("user-order", 125)):
        table = events(given.rows, each)
        line(f"fit, {scheme}, {each} rows a user", lambda s=scheme, t=table: fit(s, t), given.rows, given.tries)
    learner = fit("user-order", table)
    line("encode", lambda: learner.encode(table), given.rows, given.tries)


def line(name: str, run: Callable[[], object], rows: int, tries: int) -> None:
    """Both paths in turns, and their ratio."""
    took: dict[str, list[float]] = {"compiled": [], "torch": []}
    for _ in range(tries):
        for path, times in took.items():
            with kernels_of(path):
                start = time.process_time()
                run()
                times.append(time.process_time() - start)
    ours, peer = (rows / min(times) for times in took.values())
    print(f"| {name} | {ours:,.0f} | {peer:,.0f} | {ours / peer:.1f}x |", flush=True)


@contextmanager
def kernels_of(path: str) -> Iterator[None]:
    """Run on the compiled kernels, or on what serves where there is no compiler."""
    if path == "torch":
        os.environ["TOKENLAKE_CPU"] = "torch"
    native.library.cache_clear()
    native.library()
    try:
        yield
    finally:
        os.environ.pop("TOKENLAKE_CPU", None)
        native.library.cache_clear()


def fit(scheme: str, table: Instances) -> Learner:
    """One pass of a fresh model."""
    names = ("user_id", "item_id", *(f"code{n}" for n in range(FEATURES - 2)))
    config = CompressorConfig(
        scheme=scheme,
        labels=("clicked",),
        categorical=dict.fromkeys(names, VOCABULARY),
        multi={"tags": VOCABULARY},
        numeric=tuple(f"number{n}" for n in range(NUMBERS)),
    )
    learner = Learner.create(config, learning_rate=1e-3)
    learner.fit(table, batch=512, seed=0)
    return learner


def events(rows: int, each: int) -> Instances:
    """Rows in order of time, `each` a user on average, now and then two at one instant."""
    generator = torch.Generator().manual_seed(each)

    def whole(high: int, size: int = rows) -> torch.Tensor:
        return torch.randint(0, high, (size,), generator=generator)

    users = rows // each
    tags = torch.cat([torch.zeros(1, dtype=torch.int64), whole(4).cumsum(0)])
    code = whole(users)
    return Instances(
        categorical={"user_id": code + 1, "item_id": whole(VOCABULARY)}
        | {f"code{n}": whole(VOCABULARY) for n in range(FEATURES - 2)},
        multi={"tags": (whole(VOCABULARY, int(tags[-1])), tags)},
        numeric=torch.randn(rows, NUMBERS, generator=generator),
        vectors={},
        counts=torch.zeros(rows, 0),
        labels=(torch.rand(rows, 1, generator=generator) < 0.3).float(),
        known=torch.ones(rows, 1, dtype=torch.bool),
        users=code,
        timestamps=whole(rows * 20).sort().values * SECOND,
    )


if __name__ == "__main__":
    main()
