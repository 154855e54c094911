"""The jagged kernels against PyTorch, on this machine: `python benchmarks/kernels.py [section ...]`.

Each line is a ratio between two ways to compute the same thing on the same batch, measured in turns in one run. Peers:

- *unfused*: padded batch, scores written out, additive mask, softmax, product: what a model does without flash.
- *sdpa*: padded batch, `scaled_dot_product_attention`, given dense lengths (no mask at all, `is_causal` where causal):
  its fastest form, which attends to the padding too.
- *padded HSTU*: as Meta's PyTorch form: padded, scores written out, SiLU, mask.
- *pad-compute-unpad*: index tensors made once, outside the timing.

None of the peers is charged for copying into and out of the padded layout, save where its name says so.
`--cpu-time` counts CPU seconds of one thread in place of wall-clock: the fair way on a machine that others use too,
where the peers' threads, which meet at barriers, lose more than ours.

On a machine with a GPU the same sections run there, on the Triton kernels.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

import tokenlake_kernels as kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH, HEADS, LONGEST = 32, 4, 1024
CPU_TIME = "--cpu-time" in sys.argv


def best(run: Callable[[], object], seconds: float = 1.0) -> float:
    """The best of as many runs as fit the time, at least three, in seconds."""
    run()
    times: list[float] = []
    clock = time.process_time if CPU_TIME else time.perf_counter
    while len(times) < (1 if CPU_TIME else 3) or sum(times) < seconds:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times)


def line(name: str, ours: float, theirs: float, bar: float | None, note: str = "") -> None:
    """One row of the table, printed as it is known."""
    reached = "" if bar is None else ("reached" if theirs / ours >= bar else "MISSED")
    wanted = "" if bar is None else f"{bar:g}x"
    print(
        f"| {name} | {ours * 1e3:.1f} | {theirs * 1e3:.1f} | {theirs / ours:.1f}x | {wanted} | {reached} {note}|",
        flush=True,
    )


def header(title: str) -> None:
    print(f"\n### {title}\n\n| work | ours, ms | peer, ms | ratio | bar | |\n|---|---|---|---|---|---|", flush=True)


def uniform(batch: int = BATCH, longest: int = LONGEST, fill: float | None = None, seed: int = 0) -> Tensor:
    """Row lengths: uniform in 1..longest, or log-normal with a mean of `fill` times the longest."""
    generator = torch.Generator().manual_seed(seed)
    if fill is None:
        return torch.randint(1, longest + 1, (batch,), generator=generator)
    spread = torch.randn(batch, generator=generator).exp()
    spread[int(spread.argmax())] = float("inf")  # the block that others pad to
    low, high = 0.0, float(longest)
    for _ in range(40):  # cutting at the longest takes from the mean: look for the size that keeps it
        size = (low + high) / 2
        lengths = (spread * size).round().clamp(1, longest).long()
        low, high = (low, size) if lengths.sum() > fill * longest * batch else (size, high)
    return lengths


def offsets_of(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(DEVICE)


def jagged(total: int, dim: int, count: int = 3, heads: int = HEADS) -> list[Tensor]:
    return [torch.randn(total, heads, dim, device=DEVICE) for _ in range(count)]


def padded(dim: int, batch: int = BATCH, longest: int = LONGEST, heads: int = HEADS) -> list[Tensor]:
    return [torch.randn(batch, heads, longest, dim, device=DEVICE) for _ in range(3)]


def additive_mask(lengths: Tensor, longest: int, *, causal: bool) -> Tensor:
    at = torch.arange(longest, device=DEVICE)
    seen = (at[None, :] < lengths.to(DEVICE)[:, None])[:, None, None, :]
    if causal:
        seen = seen & (at[None, :] <= at[:, None])
    return torch.zeros(seen.shape, device=DEVICE).masked_fill_(~seen, float("-inf"))


def unfused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    return ((q @ k.mT) * scale + mask).softmax(-1) @ v


def both_ways(run: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """Forward and backward, as one thing to time."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = run(*leaves)
    g = torch.randn_like(out)

    def step() -> object:
        return torch.autograd.grad(run(*leaves), leaves, g)

    return step


def attention() -> None:
    lengths = uniform()
    offsets, total = offsets_of(lengths), int(lengths.sum())
    print(f"\nB={BATCH}, {HEADS} heads, max {LONGEST}, mean length {total / BATCH:.0f}, float32, {DEVICE}")
    bars = {(32, False): (11, 2.5), (64, False): (8, 2.5), (32, True): (18, 3), (64, True): (12, 3)}
    header("Softmax attention, uniform lengths, forward")
    for dim in (32, 64):
        q, k, v = jagged(total, dim)
        dense = padded(dim)
        for causal in (False, True):
            mask = additive_mask(lengths, LONGEST, causal=causal)
            name = f"dim {dim}, {'causal' if causal else 'not causal'}"
            ours = best(
                lambda q=q, k=k, v=v, c=causal: kernels.jagged_attention(q, k, v, offsets, causal=c, max_len=LONGEST)
            )
            slow = best(lambda d=dense, m=mask, s=dim**-0.5: unfused(*d, m, s))
            flash = best(lambda d=dense, c=causal: scaled_dot_product_attention(*d, is_causal=c))
            for peer, took, bar in zip(("unfused", "sdpa"), (slow, flash), bars[dim, causal], strict=True):
                line(f"{name} vs {peer}", ours, took, bar)
    header("The same, forward + backward")
    for dim in (32, 64):
        for causal in (False, True):
            mask = additive_mask(lengths, LONGEST, causal=causal)
            ours = best(
                both_ways(lambda *x, c=causal: kernels.jagged_attention(*x, offsets, causal=c), jagged(total, dim))
            )
            slow = best(both_ways(lambda *x, m=mask, s=dim**-0.5: unfused(*x, m, s), padded(dim)))
            flash = best(both_ways(lambda *x, c=causal: scaled_dot_product_attention(*x, is_causal=c), padded(dim)))
            name = f"dim {dim}, {'causal' if causal else 'not causal'}"
            line(f"{name} vs unfused", ours, slow, 7)
            line(f"{name} vs sdpa", ours, flash, 2.4)
    sparse()


def sparse() -> None:
    lengths = uniform(fill=0.15)
    offsets, total = offsets_of(lengths), int(lengths.sum())
    header(f"Log-normal lengths, mean fill {total / BATCH / LONGEST:.0%}, forward")
    for dim in (32, 64):
        q, k, v = jagged(total, dim)
        dense = padded(dim)
        ours = best(lambda q=q, k=k, v=v: kernels.jagged_attention(q, k, v, offsets))
        line(f"dim {dim} vs sdpa", ours, best(lambda d=dense: scaled_dot_product_attention(*d)), 14)


def by_row(q: Tensor, k: Tensor, v: Tensor, rows: list[int]) -> Tensor:
    """Jagged, but scores written out: no padding, no flash."""
    out = []
    for a, b in pairwise(rows):
        part = [x[a:b].movedim(0, 1) for x in (q, k, v)]
        out.append(((part[0] @ part[1].mT * q.shape[2] ** -0.5).softmax(-1) @ part[2]).movedim(0, 1))
    return torch.cat(out)


def arms() -> None:
    """The four arms of arXiv 2409.15373 over length and fill, dim 32, not causal."""
    for way, both in (("forward", False), ("forward + backward", True)):
        header(f"Four arms, {way}: ours is jagged flash, the peer padded sdpa; noted: the two that write scores out")
        for longest in (128, 512, 1024, 4096):
            for fill in (0.1, 0.5, 1.0):
                _arm(longest, fill, both=both)


def _arm(longest: int, fill: float, *, both: bool) -> None:
    batch = max(2, BATCH * 512 // longest)
    lengths = torch.full((batch,), longest) if fill == 1 else uniform(batch, longest, fill)
    offsets, total = offsets_of(lengths), int(lengths.sum())
    mask, rows = additive_mask(lengths, longest, causal=False), offsets.tolist()
    values, dense = jagged(total, 32), padded(32, batch, longest)

    def timed(run: Callable[..., Tensor], inputs: list[Tensor]) -> float:
        return best(both_ways(run, inputs) if both else lambda: run(*inputs), 0.3)

    ours = timed(lambda *x: kernels.jagged_attention(*x, offsets), values)
    flash = timed(scaled_dot_product_attention, dense)
    slow = timed(lambda *x: unfused(*x, mask, 32**-0.5), dense)
    middle = timed(lambda *x: by_row(*x, rows), values)
    note = f"padded unfused {slow * 1e3:.1f} ms, jagged unfused {middle * 1e3:.1f} ms "
    line(f"B={batch}, max {longest}, fill {total / batch / longest:.0%}", ours, flash, None, note)


def padded_hstu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, norm: float) -> Tensor:
    return (silu(q @ k.mT * scale) / norm * mask) @ v


def hstu() -> None:
    lengths = uniform()
    offsets, total = offsets_of(lengths), int(lengths.sum())
    header("HSTU attention, full causal, uniform lengths")
    mask = (additive_mask(lengths, LONGEST, causal=True) == 0).float()
    for dim in (32, 64):
        q, k, v = jagged(total, dim)
        dense = padded(dim)
        ours = best(lambda q=q, k=k, v=v: kernels.hstu_attention(q, k, v, offsets, norm=LONGEST))
        line(f"dim {dim}, forward", ours, best(lambda d=dense, s=dim**-0.5: padded_hstu(*d, mask, s, LONGEST)), 9)
        ours = best(both_ways(lambda *x: kernels.hstu_attention(*x, offsets, norm=LONGEST), [q, k, v]))
        line(
            f"dim {dim}, forward + backward",
            ours,
            best(both_ways(lambda *x, s=dim**-0.5: padded_hstu(*x, mask, s, LONGEST), dense)),
            7,
        )
    header("HSTU attention, local 256 and tail 256, against our own full causal")
    times = []
    for length, bar in ((4096, 3), (8192, 6), (16384, 12)):
        one = offsets_of(torch.tensor([length]))
        q, k, v = jagged(length, 64)
        ours = best(
            lambda q=q, k=k, v=v, o=one, n=length: kernels.hstu_attention(q, k, v, o, norm=n, local=256, tail=256)
        )
        full = best(lambda q=q, k=k, v=v, o=one, n=length: kernels.hstu_attention(q, k, v, o, norm=n))
        times.append((length, ours))
        line(f"L={length}", ours, full, bar)
    slope = math.log(times[-1][1] / times[0][1]) / math.log(times[-1][0] / times[0][0])
    print(
        f"\nlog-log slope of time against L: {slope:.2f} (bar 1.1: {'reached' if slope <= 1.1 else 'MISSED'})",
        flush=True,
    )


def interaction() -> None:
    lengths = uniform(512, 256, 0.3)
    offsets, total = offsets_of(lengths), int(lengths.sum())
    batch, longest, dim, width = 512, 256, 64, 32
    path = "torch" if os.environ.get("TOKENLAKE_CPU") == "torch" else "compiled"
    bar = 1 if path == "torch" else 3
    header(
        f"Feature interaction vs pad-compute-unpad, {path}, B={batch}, max {longest}, mean fill {total / batch / longest:.0%}, dim {dim}"
    )
    x, y = torch.randn(total, dim, device=DEVICE), torch.randn(total, width, device=DEVICE)
    w, block = torch.randn(batch, dim, width, device=DEVICE), torch.randn(batch, longest, dim, device=DEVICE)
    row = torch.repeat_interleave(torch.arange(batch, device=DEVICE), offsets.diff(), output_size=total)
    at = row * longest + torch.arange(total, device=DEVICE) - offsets[row]

    def pad(z: Tensor) -> Tensor:
        return z.new_zeros(batch * longest, z.shape[1]).index_copy_(0, at, z).view(batch, longest, -1)

    def unpad(z: Tensor) -> Tensor:
        return z.flatten(0, 1).index_select(0, at)

    unseen = (torch.arange(longest, device=DEVICE) >= offsets.diff()[:, None])[..., None]
    tasks: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "jagged_dense_bmm": (lambda: kernels.jagged_dense_bmm(x, w, offsets), lambda: unpad(pad(x) @ w)),
        "jagged_jagged_bmm": (lambda: kernels.jagged_jagged_bmm(x, y, offsets), lambda: pad(x).mT @ pad(y)),
        "jagged_softmax": (
            lambda: kernels.jagged_softmax(y, offsets),
            lambda: unpad(pad(y).masked_fill(unseen, float("-inf")).softmax(1)),
        ),
        "jagged_dense_add": (lambda: kernels.jagged_dense_add(x, offsets, block), lambda: unpad(pad(x) + block)),
        "jagged_dense_mul": (lambda: kernels.jagged_dense_mul(x, offsets, block), lambda: unpad(pad(x) * block)),
    }
    for name, (fast, slow) in tasks.items():
        line(name, best(fast, 0.5), best(slow, 0.5), bar)


def _peak(what: str, dim: int) -> int:
    """Peak bytes over the inputs, of one call in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", what, str(dim)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def peak(what: str, dim: int) -> None:
    """In that process: build the inputs, note the resident set, run, and print by how much its peak rose."""
    lengths = uniform()
    offsets, total = offsets_of(lengths), int(lengths.sum())
    arm = what.removesuffix(" + backward")
    inputs = jagged(total, dim) if arm.startswith("jagged") else padded(dim)
    mask = additive_mask(lengths, LONGEST, causal=False) if arm.startswith("padded unfused") else offsets
    run: Callable[..., Tensor] = {
        "jagged flash": lambda *x: kernels.jagged_attention(*x, offsets),
        "jagged hstu": lambda *x: kernels.hstu_attention(*x, offsets, norm=LONGEST),
        "jagged unfused": lambda *x: by_row(*x, offsets.tolist()),
        "padded flash": scaled_dot_product_attention,
        "padded unfused": lambda *x: unfused(*x, mask, dim**-0.5),
        "padded unfused hstu": lambda *x: padded_hstu(*x, mask, dim**-0.5, LONGEST),
    }[arm]
    small, cut = [x[:2] for x in jagged(2, dim)], torch.tensor([0, 2])
    kernels.jagged_attention(*small, cut)  # the library itself is not the op's memory
    torch.ones(2, 2) @ torch.ones(2, 2)
    leaves = [x.requires_grad_(arm != what) for x in inputs]
    before = _high_water()
    out = run(*leaves)
    if arm != what:
        out.sum().backward()
    print(_high_water() - before)


def _high_water() -> int:
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM")) * 1024


def memory() -> None:
    bars = {"padded unfused": 22, "padded unfused hstu": 22}
    for way in ("", " + backward"):
        print(
            f"\n### Peak memory of one forward{way}, beyond the inputs\n\n"
            "| work | ours, MB | peer, MB | ratio | bar | |\n|---|---|---|---|---|---|"
        )
        for dim in (32, 64):
            for ours, peers in (
                ("jagged flash", ("padded unfused", "padded flash", "jagged unfused")),
                ("jagged hstu", ("padded unfused hstu",)),
            ):
                a = _peak(ours + way, dim)
                for peer in peers:
                    b, bar = _peak(peer + way, dim), None if way else bars.get(peer)
                    reached = "" if bar is None else ("reached" if b >= bar * a else "MISSED")
                    wanted = "" if bar is None else f"{bar}x"
                    numbers = f"{a / 1e6:.1f} | {b / 1e6:.1f} | {b / a:.1f}x | {wanted} | {reached}"
                    print(f"| {ours} vs {peer}, dim {dim} | {numbers} |", flush=True)


SECTIONS = {"attention": attention, "hstu": hstu, "interaction": interaction, "memory": memory, "arms": arms}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="all of them by default")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of one thread, not wall-clock")
    given = parser.parse_args()
    if CPU_TIME:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.peak:
        peak(given.peak[0], int(given.peak[1]))
        return
    timed = "CPU time" if CPU_TIME else "wall-clock"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEVICE}, {timed}")
    for name in given.sections or SECTIONS:
        SECTIONS[name]()


if __name__ == "__main__":
    main()
