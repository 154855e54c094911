"""`SequenceDataset` against what people write first: `python benchmarks/sequence_dataset.py [--rows N] [--workers W]`.

Every contender makes the same batches of the same rows, in turns: the dataset alone and with workers, a loop that
fetches row by row, and a plain torch `Dataset` over a pandas groupby that is kept in memory (its groupby is not
counted). Times are the best of several tries; rows are counted, not batches.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from tokenlake.times import DAY_US, day_of
from tokenlake.tokens.store import TokenStore
from tokenlake.torch import SequenceDataset

DIM, LENGTH, DAYS = 64, 256, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="labelled rows")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), options)


def report(folder: Path, options: argparse.Namespace) -> None:
    store, events = build(folder, options.tokens, options.users)
    rng = np.random.default_rng(1)
    rows = pa.table(
        {
            "user_id": rng.integers(0, options.users, options.rows),
            "timestamp": rng.integers(DAYS // 2 * DAY_US, DAYS * DAY_US, options.rows),
            "label": rng.integers(0, 2, options.rows).astype(np.int8),
        }
    )
    dataset = SequenceDataset(rows, store, batch_size=options.batch, length=LENGTH)
    reusing = SequenceDataset(rows, store, batch_size=options.batch, length=LENGTH, reuse_buffers=True)
    loader = SequenceDataset(rows, store, batch_size=options.batch, length=LENGTH).loader(options.workers)
    few = rows.slice(0, min(2_000, options.rows))
    frames = Groups(events, few)
    work: dict[str, tuple[Callable[[], object], int]] = {
        "SequenceDataset": (lambda: drain(dataset), options.rows),
        "SequenceDataset, buffers reused": (lambda: drain(reusing), options.rows),
        f"SequenceDataset, {options.workers} workers": (lambda: drain(loader), options.rows),
        "row by row: store.fetch": (lambda: row_by_row(store, few), few.num_rows),
        "torch Dataset over a pandas groupby": (lambda: drain(frames.loader(options.batch)), few.num_rows),
    }
    drain(loader)  # workers start once, and stay
    best: dict[str, float] = dict.fromkeys(work, 0.0)
    for _ in range(options.tries):
        for name, (call, count) in work.items():
            start = time.perf_counter()
            call()
            best[name] = max(best[name], count / (time.perf_counter() - start))
    table = Table(title=f"rows of {LENGTH} x {DIM} fp16, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for column in ("work", "rows/s", "to row by row", "to pandas"):
        table.add_column(column, justify="left" if column == "work" else "right")
    loop, groups = list(best.values())[3:]
    for name, speed in best.items():
        table.add_row(name, f"{speed:,.0f}", f"{speed / loop:.1f}x", f"{speed / groups:.1f}x")
    Console(width=110).print(table)


def build(folder: Path, tokens: int, users: int) -> tuple[TokenStore, pd.DataFrame]:
    rng = np.random.default_rng(0)
    store = TokenStore.create(folder / "store", dim=DIM)
    frames = []
    for day in range(DAYS):
        count = tokens // DAYS
        user, when = rng.integers(0, users, count), np.sort(day * DAY_US + rng.integers(0, DAY_US, count))
        values = rng.standard_normal((count, DIM), dtype=np.float32).astype(np.float16)
        store.write_day(day_of(day * DAY_US), user, when, values)
        frames.append(pd.DataFrame({"user": user, "time": when, "token": list(values)}))
    return store, pd.concat(frames, ignore_index=True)


class Groups(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """One numpy history per user, cut at each row's time."""

    def __init__(self, events: pd.DataFrame, rows: pa.Table) -> None:
        grouped = events.groupby("user")
        self.history = {user: (g["time"].to_numpy(), np.stack(g["token"].to_list())) for user, g in grouped}
        self.rows = rows.to_pandas()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = self.rows.iloc[index]
        times, tokens = self.history[row["user_id"]]
        stop = np.searchsorted(times, row["timestamp"])
        return torch.from_numpy(tokens[max(0, stop - LENGTH) : stop]), int(row["label"])

    def loader(self, batch: int) -> torch.utils.data.DataLoader[object]:
        return torch.utils.data.DataLoader(self, batch_size=batch, shuffle=True, collate_fn=_jagged)


def _jagged(rows: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([0, *(len(tokens) for tokens, _ in rows)])
    return torch.cat([tokens for tokens, _ in rows]), lengths.cumsum(0), torch.tensor([label for _, label in rows])


def row_by_row(store: TokenStore, rows: pa.Table) -> None:
    for user, when in zip(rows["user_id"].to_pylist(), rows["timestamp"].to_pylist(), strict=True):
        store.fetch([user], before=[when], length=LENGTH).torch()


def drain(batches: object) -> None:
    for _ in batches:  # type: ignore[attr-defined]  # whatever it is, it can be iterated
        pass


if __name__ == "__main__":
    main()
