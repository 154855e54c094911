"""Random jagged batches, and how two ways of computing the same thing are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

# Row lengths worth trying: none, one, within a tile, its edges, several tiles.
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 5, 15, 16, 17, 63, 64, 65, 130]), min_size=0, max_size=4)


def offsets_of(lengths: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(dtype)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64).to(dtype)


def places(lengths: Sequence[int], share: float | None, seed: int = 0) -> dict[str, Tensor]:
    """Limits, own keys and times for prefix attention; with `share`, queries of their own, about so many a key."""
    generator = torch.Generator().manual_seed(seed)
    counts = list(lengths) if share is None else [round(n * share) for n in lengths]
    length = torch.tensor(lengths, dtype=torch.int64).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    limits, own = (torch.rand(len(length), generator=generator) for _ in range(2))
    times = torch.cat([torch.zeros(0).long(), *(_times(n, generator) for n in lengths)])
    found = {"limits": (limits * (length + 1)).long(), "own": (own * length).long(), "timestamps": times}
    if share is None:
        return found
    q_times = torch.cat([torch.zeros(0).long(), *(_times(n, generator) for n in counts)])
    return found | {"q_offsets": offsets_of(counts), "q_timestamps": q_times}


def _times(count: int, generator: torch.Generator) -> Tensor:
    """Ascending, with ties and long gaps."""
    gaps = torch.rand(count, generator=generator) < 0.6
    return (gaps * torch.randint(0, 500, (count,), generator=generator)).cumsum(0)


def gradients(run: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The result and the gradient of every floating-point input, for a fixed random gradient of the result."""
    leaves = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    out = run(*leaves)
    wanted = [x for x in leaves if x.requires_grad]
    if not out.requires_grad:  # a reference that met no row has nothing to differentiate
        return out, [torch.zeros_like(x) for x in wanted]
    return out.detach(), list(
        torch.autograd.grad(out, wanted, normal(*out.shape, dtype=out.dtype, seed=7), materialize_grads=True)
    )


def assert_same(
    fast: Callable[..., Tensor],
    slow: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    atol: float = 1e-4,
    rtol: float = 1e-4,
) -> None:
    """Forward and every gradient of `fast` are those of `slow`, which computes in float64."""
    out, grads = gradients(fast, inputs)
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    expected, expected_grads = gradients(lambda *x: slow(*x).to(out.dtype), wide)
    for name, ours, theirs in zip(
        ("out", *(f"grad{n}" for n in range(9))), (out, *grads), (expected, *expected_grads), strict=False
    ):
        scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(
            ours.double(), theirs.double(), atol=atol * scale, rtol=rtol, msg=lambda m, name=name: f"{name}: {m}"
        )
